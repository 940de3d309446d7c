"""DREAM's quantities against their equations, and its command line."""

import csv
import io
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import dream
import envs

torch.set_num_threads(1)  # bit-identical, and fast where cores are shared
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parent.parent


def setting(env="map", batch=12, **changes):
    """Untrained networks, and the episodes of a batch of trials."""
    torch.manual_seed(0)
    args = dream.Args(env=env, **(dream.DEFAULTS[env] | changes))
    task, rng = dream.make(args, batch, "train"), np.random.default_rng(0)
    task.reset(seed=0)
    agent, target = dream.Dream(task, args), dream.Dream(task, args)
    torch.nn.init.normal_(agent.f.weight)
    mu = rng.choice(task.problems["train"], batch)
    from_id, epsilons = rng.random(batch) < 0.5, (0.9, 0.9)
    drawn = [None] * (1 + args.no_exploration)
    inputs = agent, task, mu, drawn, from_id, args, epsilons, rng
    exp, (exe,), _ = dream.trial(*inputs)
    return args, agent, target, exp, exe


def unroll(net, steps, b, ends, *z):
    """A recurrent network step by step, one episode alone: (L, ...)."""
    outputs, state, one = [], (None, None), torch.tensor([1])
    for t in range(steps["length"][b] + ends):
        names = "observation", "before", "paid"
        now = {name: steps[name][b, t][None, None] for name in names}
        now["instruction"] = steps["instruction"][b, None]
        *out, state = net(now, one, *z, state)
        outputs.append(out[0][0, 0] if z else out[0][0])
    return torch.stack(outputs)


def decode(agent, exp, b):
    """|f - g(tau_:t)|^2 and g(tau_:t) of every prefix of a trial."""
    g = agent.z(unroll(agent.g, exp, b, 1))
    return ((agent.f(exp["problem"][b]) - g) ** 2).sum(1), g


def captured(monkeypatch, *inputs):
    """The losses, and what q_loss was given for each policy."""
    calls, q_loss = [], dream.q_loss

    def spy(policy, target, steps, reward, z, args):
        calls.append((steps, reward, z))
        return q_loss(policy, target, steps, reward, z, args)

    monkeypatch.setattr(dream, "q_loss", spy)
    return dream.losses(*inputs), calls


@pytest.mark.parametrize("env", ["map", "cooking"])
def test_exploration_reward_is_its_equation(monkeypatch, env):
    args, agent, target, exp, exe = setting(env)
    inputs = agent, target, exp, exe, args
    _, (_, (steps, reward, z)) = captured(monkeypatch, *inputs)
    assert z.shape == (12, 0) and not reward.requires_grad
    for b, length in enumerate(steps["length"]):
        d, _ = decode(agent, exp, b)
        r = d[:-1] - d[1:] - args.cost
        assert len(r) == length
        close = dict(rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(reward[:length, b], r, **close)
        # It telescopes: information gained, less the price of the steps.
        gained = d[0] - d[-1] - args.cost * length
        torch.testing.assert_close(reward[:, b].sum(), gained, **close)
        before = exp["distance"][b, : length + 1]
        torch.testing.assert_close(before, d.detach(), **close)
        torch.testing.assert_close(exp["reward"][b], reward[:, b], **close)


def test_decoder_loss_is_over_every_prefix():
    args, agent, target, exp, exe = setting()
    loss = dream.losses(agent, target, exp, exe, args)["decoder"]
    errors = torch.cat([decode(agent, exp, b)[0] for b in range(12)])
    torch.testing.assert_close(loss.mean(), errors.mean())


def gradients(loss, module):
    parameters = [*module.parameters()]
    found = torch.autograd.grad(
        loss.mean(), parameters, retain_graph=True, allow_unused=True
    )
    return [g for g in found if g is not None and g.abs().sum() > 0]


def test_which_loss_teaches_what():
    args, agent, target, exp, exe = setting()
    loss = dream.losses(agent, target, exp, exe, args)
    taught = {
        (name, part)
        for name in loss
        for part in ("f", "g", "z", "execution", "exploration")
        if gradients(loss[name], getattr(agent, part))
    }
    assert taught == {
        ("exploration", "exploration"),
        ("execution", "execution"),
        ("execution", "f"),
        ("execution", "g"),
        ("execution", "z"),
        ("decoder", "g"),
        ("decoder", "z"),
        ("bottleneck", "f"),
    }
    assert not gradients(sum(loss.values()), target)


def test_z_is_from_the_id_or_from_exploration(monkeypatch):
    args, agent, target, exp, exe = setting(noise=0.0)
    inputs = agent, target, exp, exe, args
    _, ((_, _, z), _) = captured(monkeypatch, *inputs)
    for b, from_id in enumerate(exe["from_id"]):
        f, g = agent.f(exp["problem"][b]), decode(agent, exp, b)[1][-1]
        torch.testing.assert_close(z[b], f if from_id else g)
        torch.testing.assert_close(exe["z"][b], z[b].detach())


@pytest.mark.parametrize("peng", [0.0, 0.5])
def test_q_loss_against_a_slow_loop(peng):
    """Each target as the mixture of n-step returns that it stands for."""
    changes = {"lam": 0.6, "gamma": 0.9, "peng": peng}
    args, agent, target, _, exe = setting(**changes)
    z = torch.randn(12, args.hidden)
    policies = agent.execution, target.execution
    loss = dream.q_loss(*policies, exe, exe["reward"].T, z, args)
    errors, traces = [], 0
    for b in range(12):
        q, target_q = (unroll(net, exe, b, 0, z[b, None]) for net in policies)
        action, r = exe["before"][b, 1:], exe["reward"][b]
        T = len(q)
        for t in range(T):
            total, weight = 0, 1
            for n in range(1, T - t + 1):
                value = sum(args.gamma**k * r[t + k] for k in range(n))
                trace = 0
                if t + n < T:
                    best = q[t + n].argmax()
                    value = value + args.gamma**n * target_q[t + n, best]
                    trace = args.lam * (1 if action[t + n] == best else peng)
                    traces += trace > 0
                total = total + weight * (1 - trace) * value
                weight = weight * trace
            errors.append((q[t, action[t]] - total.detach()) ** 2)
        mean_length = exe["length"].float().mean()
        torch.testing.assert_close(loss[b], sum(errors[-T:]) / mean_length)
    torch.testing.assert_close(loss.mean(), torch.stack(errors).mean())
    assert traces > 20  # else it is only one-step learning


SHOWN = {"imrl": (False, False), "rewards": (True, False)}
SHOWN |= {"standard": (True, True)}  # exploring, executing


@pytest.mark.parametrize("setting_", SHOWN)
def test_which_rewards_are_shown(setting_):
    """The reward of the action before, of the instruction of the episode."""
    changes = {"standard": {"setting": "standard"}, "imrl": {}}
    changes["rewards"] = {"exploration_rewards": True}
    args, agent, _, exp, exe = setting(batch=64, **changes[setting_])
    none = exp["instruction"] == (1 if setting_ == "standard" else 4)
    assert none.all() if setting_ == "imrl" else not none.any()
    for shown, steps in zip(SHOWN[setting_], (exp, exe)):
        taken = torch.arange(20) < steps["length"][:, None]
        paid = steps["paid"][:, 1:][taken]
        assert (paid != 0).all() if shown else (paid == 0).all()
        assert (steps["paid"][:, 0] == 0).all()
        if steps is exe and shown:
            assert paid.equal(steps["reward"][taken])

    # The decoder, and both policies, read them; of an instruction each.
    def outputs():
        z = exe["z"]
        yield agent.decode(agent.f(exp["problem"]), exp, 0.0)[0]
        yield agent.exploration(exp, exp["length"], z[:, :0])[0]
        yield agent.execution(exe, exe["length"], z)[0]

    before = [*outputs()]
    for net in (agent.g, agent.exploration.memory, agent.execution.memory):
        torch.nn.init.normal_(net.paid)
    exploring, executing = SHOWN[setting_]
    changes = [not x.equal(y) for x, y in zip(before, outputs())]
    assert changes == [exploring, exploring, executing]


@pytest.mark.parametrize("env", ["map", "coupling"])
def test_padding_never_changes_a_loss(env):
    args, agent, target, exp, exe = setting(env, noise=0.0)
    before = dream.losses(agent, target, exp, exe, args)
    for steps in (exp, exe):
        for name in ("observation", "before"):
            value, end = steps[name], steps["length"][:, None] + 1
            value[torch.arange(value.shape[1]) >= end] = 1
    after = dream.losses(agent, target, exp, exe, args)
    for name, loss in before.items():
        assert loss.equal(after[name])


def test_each_of_the_executions_has_its_own_instruction():
    pairs = dream.make(dream.Args("cooking"), 1, "test").pairs()
    given = dream.instructions(pairs, 3)
    assert (given[0] == pairs[:, 1]).all()
    for problem in np.unique(pairs[:, 0]):
        of = given[:, pairs[:, 0] == problem]
        assert all(len({*column}) == min(3, of.shape[1]) for column in of.T)
        assert all({*row} == {*of[0]} for row in of)


def test_standard_error_where_something_is_drawn():
    """Rewards in exploration are those of an instruction drawn for each."""
    args, agent, *_ = setting()
    row, _, _ = dream.evaluate(agent, args)
    assert row["test_return_se"] == 0
    args, agent, *_ = setting(exploration_rewards=True)
    row, _, exe = dream.evaluate(agent, args)
    error = exe["reward"].sum(1).std(correction=0) / 96**0.5
    assert row["test_return_se"] == pytest.approx(error.item(), rel=1e-4)


def test_executions_after_one_exploration():
    """All instructions are in every place, so each place earns the same."""
    args, agent, *_ = setting()
    (once, _, _), args.execution_episodes = dream.evaluate(agent, args), 3
    row, _, _ = dream.evaluate(agent, args)
    assert len({row[f"test_return_{k}"] for k in (1, 2, 3)}) == 1
    assert row["test_return"] == once["test_return"] == row["test_return_1"]


def test_exploring_in_the_first_execution():
    changes = {"no_exploration": True, "execution_episodes": 3}
    args, agent, target, exp, exe = setting(**changes)
    assert (exp["instruction"] < 4).all()
    taken = torch.arange(20) < exp["length"][:, None]
    assert (exp["earned"][taken] != 0).all() and (exp["paid"] == 0).all()
    # It counts, and teaches no more than exploration does.
    before = dream.losses(agent, target, exp, exe, args)
    exp["earned"] += 1
    after = dream.losses(agent, target, exp, exe, args)
    assert before["exploration"].equal(after["exploration"])
    row, exp, exe = dream.evaluate(agent, args)
    returns = exp["earned"].sum(1), exe["reward"].sum(1)
    assert row["test_return_1"] == pytest.approx(returns[0].mean().item())
    assert row["test_return_2"] == pytest.approx(returns[1].mean().item())
    mean = sum(row[f"test_return_{k}"] for k in (1, 2, 3)) / 3
    assert row["test_return"] == pytest.approx(mean)


def test_replay_keeps_the_latest_trials():
    replay = {}
    for first in range(0, 24, 4):
        problem = torch.arange(first, first + 4)
        dream.store(replay, {"problem": problem}, problem % 10, capacity=10)
    assert sorted(replay["problem"].tolist()) == [*range(14, 24)]


def test_the_id_never_reaches_meta_test(monkeypatch):
    args, agent, _, _, _ = setting()
    _, *honest = dream.evaluate(agent, args)
    sensed = envs.Task._sensed

    def garbled(task):
        batch, info = sensed(task)
        return batch, info | {"problem": np.random.permutation(info["problem"])}

    monkeypatch.setattr(envs.Task, "_sensed", garbled)
    torch.nn.init.normal_(agent.f.weight)
    _, *other = dream.evaluate(agent, args)
    for part, name in ((0, "before"), (1, "before"), (1, "z")):
        assert (honest[part][name] == other[part][name]).all()
    # The test can fail: the actions do depend on z.
    torch.nn.init.normal_(agent.z.weight)
    _, _, changed = dream.evaluate(agent, args)
    assert (changed["before"] != honest[1]["before"]).any()


def run(*arguments):
    """The script, in this process: a new one takes seconds to import torch."""
    said, error, status = io.StringIO(), io.StringIO(), 0
    with mock.patch("sys.argv", ["dream.py", *map(str, arguments)]):
        with redirect_stdout(said), redirect_stderr(error):
            try:
                runpy.run_path(dream.__file__, run_name="__main__")
            except SystemExit as stopped:
                status = stopped.code
    return status, said.getvalue(), error.getvalue()


def rows(directory):
    with open(directory / "progress.csv") as file:
        return [*csv.DictReader(file)]


SHORT = [
    *("--env", "map", "--total-steps", 8000, "--eval-every", 3000),
    *("--explore-after", 300, "--num-envs", 32, "--batch", 16, "--hidden", 16),
]


def test_same_seed_same_numbers(tmp_path):
    results = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        status, *_ = run(*SHORT, "--seed", seed, "--run-dir", tmp_path / name)
        assert status == 0
        results.append(rows(tmp_path / name))
        for row in results[-1]:
            del row["seconds"]
    assert results[0] == results[1] != results[2]
    assert len(results[0]) == 4


def test_evaluation_changes_nothing(tmp_path):
    for name, every in (("a", 3000), ("b", 8000)):
        changes = "--eval-every", every, "--run-dir", tmp_path / name
        assert run(*SHORT, *changes)[0] == 0
    often, seldom = rows(tmp_path / "a")[-1], rows(tmp_path / "b")[-1]
    for name in ("env_steps", "test_return", "return_with_id", "f_norm2"):
        assert often[name] == seldom[name]


def learn(tmp_path, seed, num_actions):
    changes = {"num_actions": num_actions, "seed": seed}
    if num_actions == 32:
        changes |= {"total_steps": 10_000, "explore_after": 1_000}
        changes |= {"hidden": 32, "learning_rate": 4e-3, "noise": 0.05}
    changes |= {"run_dir": tmp_path / str(seed), "device": "cpu"}
    args = dream.Args(env="coupling", **dream.DEFAULTS["coupling"] | changes)
    dream.train(args, *dream.open_run(args))
    return float(rows(args.run_dir)[-1]["test_return"])


def test_coupling_is_learned(tmp_path):
    assert learn(tmp_path, 0, num_actions=8) >= 0.99


def test_coupling_needs_the_exploration_reward(tmp_path, monkeypatch):
    assert learn(tmp_path, 9, num_actions=32) > 0.5
    q_loss = dream.q_loss

    def unrewarded(policy, target, steps, reward, z, args):
        if z.shape[1] == 0:
            reward = torch.zeros_like(reward)
        return q_loss(policy, target, steps, reward, z, args)

    monkeypatch.setattr(dream, "q_loss", unrewarded)
    returns = [learn(tmp_path, seed, num_actions=32) for seed in range(5)]
    assert np.mean(returns) < 0.5


def test_a_run_leaves_its_files_and_is_not_overwritten(tmp_path):
    directory = tmp_path / "run"
    _, first, _ = run(*SHORT, "--run-dir", directory)
    assert first.startswith("map, seed 0: test return ")
    last = rows(directory)[-1]
    said = float(first.split("test return ")[1].split()[0])
    assert abs(said - float(last["test_return"])) < 1e-3
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    names = {"config.json", "progress.csv", "agent.pt", "checkpoint.pt"}
    assert set(before) == names

    status, _, error = run(*SHORT, "--run-dir", directory)
    assert status == 2 and "--overwrite" in error
    assert before == {p.name: p.read_bytes() for p in directory.iterdir()}

    assert run("--eval", directory)[1] == first
    trials = np.load(directory / "episodes.npz")
    assert len(trials["exp_problem"]) == 24 * 4
    distance, length = trials["exp_distance"], trials["exp_length"]
    gained = distance[:, 0] - trials["exp_reward"].sum(1)
    left = distance[np.arange(96), length] + 0.02 * length
    np.testing.assert_allclose(gained, left, rtol=1e-3, atol=1e-4)
    film = np.load(directory / "film.npz")
    assert film["exp_frames"].shape[:2] == (4, film["exp_length"].max() + 1)
    assert film["exe_frames"].shape[:2] == (4, film["exe_length"].max() + 1)
    returns = trials["exe_reward"].sum(1).mean()
    assert abs(returns - float(last["test_return"])) < 1e-5
    for K in 1, 3:
        given = dream.Args(eval=directory, seed=1, execution_episodes=K)
        args, _ = dream.load_args(given)
        assert (args.seed, args.execution_episodes) == (0, K)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--env", "maze"], "--env"),
        (["--num-envs", "0"], "--num-envs"),
        (["--batch", "-3"], "--batch"),
        (["--gamma", "1.5"], "--gamma"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--learning-rate", "inf"], "--learning-rate"),
        (["--total-steps", "many"], "--total-steps"),
        (["--seed", "-1"], "--seed"),
        (["--show-id"], "--show-id"),
        (["--env", "cooking", "--setting", "standard"], "--setting"),
        (["--run-dir", "/proc/nowhere"], "--run-dir"),
        (["--run-dir", str(ROOT / "dream.py")], "--run-dir"),
        (["--eval", "/nowhere"], "/nowhere/agent.pt"),
        (["--no-exploration"], "--execution-episodes"),
        (["--checkpoint-minutes", "-1"], "--checkpoint-minutes"),
    ],
)
def test_bad_input(arguments, said):
    status, output, error = run(*arguments)
    assert (status, output) == (2, "")
    assert said in error and "Traceback" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    status, _, error = run("--device", "cuda")
    assert status == 2 and "--device" in error


def test_interrupt_keeps_what_was_logged(tmp_path):
    command = [sys.executable, ROOT / "dream.py", *SHORT]
    command += ["--run-dir", tmp_path, "--total-steps", 10_000_000]
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=ENVIRON,
        # A shell's background job, as the tests may be, ignores SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = tmp_path / "progress.csv"
    while not log.exists() or log.read_text().count("\n") < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said.startswith("map, seed 0: test return ")
    assert len(rows(tmp_path)) >= 1 and (tmp_path / "agent.pt").exists()
