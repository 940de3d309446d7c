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
    trials, _ = rl2.trial(agent, task, mu, None, (0.9, 0.9), rng)
    return args, agent, target, trials


def unroll(net, trials, b):
    """Q at each observation of both episodes, step by step."""
    state, one, q = (None, None), torch.ones(1, dtype=torch.long), {}
    for prefix, more in (("exp_", 1), ("exe_", 0)):
        q[prefix] = []
        for t in range(trials[prefix + "length"][b] + more):
            names = "observation", "before"
            now = [trials[prefix + name][b, None, t, None] for name in names]
            i, no_z = trials[prefix + "instruction"][b, None], torch.zeros(1, 0)
            out, state = net.policy(*now, one, i, no_z, state)
            q[prefix].append(out[0, 0])
        state = state[0], None
    return q["exp_"][:-1], q["exe_"]


@pytest.mark.parametrize("env", ["map", "coupling"])
def test_losses_against_a_slow_loop(env):
    args, agent, target, trials = setting(env, lam=0.6, gamma=0.9)
    loss = rl2.losses(agent, target, trials, args)
    errors = {"exp_": [], "exe_": []}
    for b in range(12):
        q, target_q = unroll(agent, trials, b), unroll(target, trials, b)
        after = 0.0
        for k, prefix in ((1, "exe_"), (0, "exp_")):
            gamma = args.gamma if prefix == "exe_" else 1.0
            for t in reversed(range(len(q[k]))):
                action = trials[prefix + "action"][b, t]
                reward = trials[prefix + "reward"][b, t]
                assert prefix == "exe_" or reward == 0
                G = (reward + gamma * after).item()
                errors[prefix].append((q[k][t][action] - G) ** 2)
                best = q[k][t].argmax()
                trace = args.lam if action == best else 0.0
                v = target_q[k][t][best].item()
                after = (1 - trace) * v + trace * G
    for name, prefix in (("execution", "exe_"), ("exploration", "exp_")):
        expected = torch.stack(errors[prefix]).mean()
        torch.testing.assert_close(loss[name], expected)


def test_execution_remembers_the_end_of_exploration():
    """coupling shows the problem in the last observation of exploration."""
    args, agent, _, trials = setting("coupling")
    exp, exe = (
        {k[4:]: x for k, x in trials.items() if k.startswith(prefix)}
        for prefix in ("exp_", "exe_")
    )
    _, state = agent(exp, exp["length"] + 1)
    before, _ = agent(exe, exe["length"], state)
    exp["observation"][:, -1] = (exp["observation"][:, -1] + 1) % 8
    _, state = agent(exp, exp["length"] + 1)
    after, _ = agent(exe, exe["length"], state)
    assert (before[0] != after[0]).any(1).all()
