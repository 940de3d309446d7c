"""RL^2's loss against a slow loop over the whole trial."""

import numpy as np
import pytest
import torch

import rl2

torch.set_num_threads(1)


def setting(env, batch=12, **changes):
    torch.manual_seed(0)
    args = rl2.Args(env=env, **(rl2.DEFAULTS[env] | changes))
    task, rng = rl2.make(args, batch, "train"), np.random.default_rng(0)
    task.reset(seed=0)
    agent, target = rl2.RL2(task, args), rl2.RL2(task, args)
    mu = rng.choice(task.problems["train"], batch)
    exp, exe, _ = rl2.trial(agent, task, mu, None, (0.9, 0.9), rng)
    return args, agent, target, exp, exe


def unroll(net, exp, exe, b):
    """Q at each observation of both episodes, step by step."""
    state, one, q = (None, None), torch.ones(1, dtype=torch.long), ([], [])
    for k, (steps, more) in enumerate(((exp, 1), (exe, 0))):
        for t in range(steps["length"][b] + more):
            names = "observation", "before"
            now = {name: steps[name][b, t][None, None] for name in names}
            now["instruction"] = steps["instruction"][b, None]
            out, state = net.policy(now, one, torch.zeros(1, 0), state)
            q[k].append(out[0, 0])
        state = state[0], None
    return q[0][:-1], q[1]


@pytest.mark.parametrize("env", ["map", "coupling"])
def test_losses_against_a_slow_loop(env):
    args, agent, target, exp, exe = setting(env, lam=0.6, gamma=0.9)
    loss = rl2.losses(agent, target, exp, exe, args)
    errors = [], []
    for b in range(12):
        q, target_q = unroll(agent, exp, exe, b), unroll(target, exp, exe, b)
        after = 0.0
        for k, steps, gamma in ((1, exe, args.gamma), (0, exp, 1.0)):
            for t in reversed(range(len(q[k]))):
                action = steps["before"][b, t + 1]
                reward = steps["reward"][b, t]
                assert k == 1 or reward == 0
                G = (reward + gamma * after).item()
                errors[k].append((q[k][t][action] - G) ** 2)
                best = q[k][t].argmax()
                trace = args.lam if action == best else 0.0
                v = target_q[k][t][best].item()
                after = (1 - trace) * v + trace * G
    for k, name in enumerate(("exploration", "execution")):
        expected = torch.stack(errors[k]).mean()
        torch.testing.assert_close(loss[name], expected)


def test_execution_remembers_the_end_of_exploration():
    """coupling shows the problem in the last observation of exploration."""
    _, agent, _, exp, exe = setting("coupling")
    _, state = agent(exp, exp["length"] + 1)
    before, _ = agent(exe, exe["length"], state)
    exp["observation"][:, -1] = (exp["observation"][:, -1] + 1) % 8
    _, state = agent(exp, exp["length"] + 1)
    after, _ = agent(exe, exe["length"], state)
    assert (before[0] != after[0]).any(1).all()
