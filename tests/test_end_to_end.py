"""RL^2, IMPORT, VariBAD: Q-learning over whole trials, and what each adds."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import import_
import rl2
import varibad

torch.set_num_threads(1)
METHODS = pytest.mark.parametrize("method", [rl2, import_, varibad])


def setting(method, env, batch=12, **changes):
    """Untrained networks, and the episodes of a batch of trials."""
    torch.manual_seed(0)
    args = method.Args(env=env, **(method.DEFAULTS[env] | changes))
    task, rng = method.make(args, batch, "train"), np.random.default_rng(0)
    task.reset(seed=0)
    agent, target = method.Agent(task, args), method.Agent(task, args)
    mu, by_id = rng.choice(task.problems["train"], batch), rng.random(12) < 0.5
    drawn = [None] * (1 + args.no_exploration)
    inputs = agent, task, mu, drawn, by_id, args, (0.9, 0.9), rng
    exp, (exe,), _ = method.trial(*inputs)
    assert len({*exp["length"].tolist()}) > 1 or env == "coupling"
    return args, agent, target, exp, exe


def unroll(net, exp, exe, b):
    """Q at each observation of both episodes, step by step."""
    state, one, q = (None, None), torch.ones(1, dtype=torch.long), ([], [])
    for k, (steps, more) in enumerate(((exp, 1), (exe, 0))):
        for t in range(steps["length"][b] + more):
            names = "observation", "before", "paid"
            now = {name: steps[name][b, t][None, None] for name in names}
            names = "instruction", "problem", "by_id"
            now |= {name: steps[name][b, None] for name in names}
            out, state = net(now, one, state)
            q[k].append(out[0, 0])
        state = state[0], None
    return q[0][:-1], q[1]


@METHODS
@pytest.mark.parametrize("env", ["map", "coupling", "no exploration"])
def test_losses_against_a_slow_loop(method, env):
    counts = env == "no exploration"
    changes = {"no_exploration": counts, "execution_episodes": 2}
    changes |= {"lam": 0.6, "gamma": 0.9}
    env = "map" if counts else env
    args, agent, target, exp, exe = setting(method, env, **changes)
    loss = method.losses(agent, target, exp, exe, args)
    errors = [], []
    for b in range(12):
        q, target_q = unroll(agent, exp, exe, b), unroll(target, exp, exe, b)
        after = 0.0
        for k, steps, gamma in ((1, exe, args.gamma), (0, exp, 1.0)):
            for t in reversed(range(len(q[k]))):
                action = steps["before"][b, t + 1]
                reward = steps["reward"][b, t]
                assert k == 1 or counts == (reward != 0)
                G = (reward + gamma * after).item()
                errors[k].append((q[k][t][action] - G) ** 2)
                best = q[k][t].argmax()
                trace = args.lam if action == best else 0.0
                v = target_q[k][t][best].item()
                after = (1 - trace) * v + trace * G
    for k, name in enumerate(("exploration", "execution")):
        expected = torch.stack(errors[k]).mean()
        torch.testing.assert_close(loss[name].mean(), expected)


@METHODS
def test_command_line(method, tmp_path):
    script, run = method.__file__, ["--run-dir", tmp_path]
    short = "--env", "map", "--total-steps", 600, "--batch", 8, "--hidden", 8
    for words in ([*short, *run], ["--eval", tmp_path]):
        words = [sys.executable, script, *words]
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        )
        assert done.stdout.startswith("map, seed 0: test return ")
    trials = np.load(tmp_path / "episodes.npz")
    assert len(trials["exe_reward"]) == 24 * 4


@METHODS
def test_the_second_execution_remembers_the_first(method):
    args, agent, _, exp, _ = setting(method, "map")
    task, mu = method.make(args, 12, "train"), exp["problem"].numpy()
    given, no_id = np.array([[0], [1]]).repeat(12, 1), np.zeros(12, bool)
    inputs = agent, task, mu, given, no_id, args, (0.9, 0.0)
    exp, exes, _ = method.trial(*inputs, np.random.default_rng(0))
    assert [exe["instruction"][0, 0].item() for exe in exes] == [0, 1]
    # Both executions, as if they were one that begins twice
    state = agent(exp, exp["length"] + 1)[1][0], None
    for exe in exes:
        q, _ = agent(exe, exe["length"], state)
        same = q.argmax(2).T[:, :-1] == exe["before"][:, 1:]
        assert same[torch.arange(20) < exe["length"][:, None]].all()
        state = agent(exe, exe["length"] + 1, state)[1][0], None


@METHODS
def test_execution_remembers_the_end_of_exploration(method):
    """coupling shows the problem in the last observation of exploration."""
    args, agent, _, exp, exe = setting(method, "coupling")

    def q():
        _, (lstm, _) = agent(exp, exp["length"] + 1)
        return agent(exe, exe["length"], (lstm, None))[0][0]

    before = q()
    exp["observation"][:, -1] = (exp["observation"][:, -1] + 1) % 8
    same = (before == q()).all(1)
    knows = exe["by_id"] if method is import_ else torch.zeros(12).bool()
    assert same.equal(knows)


def test_import_passes_on_only_h():
    """With the id, the past is forgotten; without, the id changes nothing."""
    _, agent, _, exp, _ = setting(import_, "map")
    before, _ = agent(exp, exp["length"])
    last = exp["before"].clone()
    exp["before"][:, 1] = (last[:, 1] + 1) % 6
    changed = (agent(exp, exp["length"])[0] != before).any(2).any(0)
    assert changed.equal(~exp["by_id"])
    exp["before"], exp["problem"] = last, (exp["problem"] + 1) % 24
    changed = (agent(exp, exp["length"])[0] != before).any(2).any(0)
    assert changed.equal(exp["by_id"])


def test_import_pulls_the_trial_towards_the_id():
    """The pull is over every step of both episodes, and moves no id."""
    args, agent, target, exp, exe = setting(import_, "map")
    loss = import_.losses(agent, target, exp, exe, args)["embedding"].mean()
    informed, gaps = agent.policy.memory, []
    for b in range(12):
        state, one = (None, None), torch.ones(1, dtype=torch.long)
        for steps, more in ((exp, 1), (exe, 0)):
            for t in range(steps["length"][b] + more):
                names = "observation", "before", "paid"
                now = {name: steps[name][b, t][None, None] for name in names}
                now["instruction"] = steps["instruction"][b, None]
                x, _, state = informed.memory(now, one, state)
                h = informed.trial(x[0, : args.hidden])
                gaps.append(((h - informed.id(exp["problem"][b])) ** 2).sum())
            state = state[0], None
    expected = args.pull * torch.stack(gaps).mean()
    torch.testing.assert_close(loss, expected)
    inputs = loss, informed.id.weight
    (moved,) = torch.autograd.grad(*inputs, allow_unused=True)
    assert moved is None


def gradients(loss, module):
    inputs = loss.mean(), [*module.parameters()]
    found = torch.autograd.grad(*inputs, retain_graph=True, allow_unused=True)
    return sum(g.abs().sum() for g in found if g is not None) > 0


def test_varibad_learns_its_belief_from_the_elbo_alone():
    args, agent, target, exp, exe = setting(varibad, "map")
    loss = varibad.losses(agent, target, exp, exe, args)
    belief = agent.policy.memory
    elbo = "encoder", "posterior", "next", "reward"
    policy = "features", "known"
    taught = {
        (name, part)
        for name in loss
        for part in elbo + policy
        if gradients(loss[name], getattr(belief, part))
    }
    losses = ("elbo", elbo), ("execution", policy), ("exploration", policy)
    assert taught == {(name, part) for name, parts in losses for part in parts}


def test_varibad_wants_mean_and_variance_of_one_size():
    with pytest.raises(ValueError, match="--hidden"):
        varibad.Args(hidden=63)


def test_varibad_divergences_of_successive_posteriors():
    """The mean over both episodes; the first from Normal(0, I)."""
    elbo = {}
    for kl in (0.0, 1.0):
        args, agent, target, exp, exe = setting(varibad, "map", kl=kl)
        torch.manual_seed(1)
        elbo[kl] = varibad.losses(agent, target, exp, exe, args)["elbo"]
    belief, mean_length = agent.policy.memory, 0
    mean_length = (exp["length"] + exe["length"]).float().mean()
    for b in range(12):
        state, one = (None, None), torch.ones(1, dtype=torch.long)
        old, total = torch.distributions.Normal(torch.zeros(32), 1.0), 0.0
        for steps, more in (exp, 1), (exe, 0):
            for t in range(steps["length"][b] + more):
                names = "observation", "before", "paid"
                now = {name: steps[name][b, t][None, None] for name in names}
                now["instruction"] = steps["instruction"][b, None]
                x, _, state = belief.encoder(now, one, state)
                mean, log_var = belief.posterior(x[0]).chunk(2)
                new = torch.distributions.Normal(mean, (log_var / 2).exp())
                total += torch.distributions.kl_divergence(new, old).sum()
                old = new
            state = state[0], None
        mean = total / (exp["length"][b] + exe["length"][b] + 1)
        paid = (elbo[1.0] - elbo[0.0])[b] * mean_length
        torch.testing.assert_close(paid, mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rewarded", [False, True])
def test_varibad_predicts_every_transition(rewarded):
    args, agent, _, _, exe = setting(varibad, "map")
    belief, m = agent.policy.memory, torch.randn(3, 12, 32)
    found = belief.decode(m, exe, rewarded)
    for b in range(12):
        total = 0.0
        i = belief.instruction(exe["instruction"][b]).flatten()
        for t in range(exe["length"][b]):
            observation = exe["observation"][b, t : t + 2]
            s, then = belief.encoder.features(observation)[0]
            known = torch.cat([s, belief.action(exe["before"][b, t + 1])])
            for k in range(3):
                logits = belief.next(torch.cat([m[k, b], known]))
                for field, x in enumerate(logits.split([*belief.nvec])):
                    token = observation[1, field]
                    total += torch.nn.functional.cross_entropy(x, token) / 3
                if rewarded:
                    inputs = torch.cat([m[k, b], known, then, i])
                    error = belief.reward(inputs)[0] - exe["reward"][b, t]
                    total += error**2 / 3
        torch.testing.assert_close(found[b], total)
