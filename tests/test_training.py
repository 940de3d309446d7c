"""The training loop and the command line of DREAM, in this process."""

import copy
import csv
import errno
import io
import json
import math
import multiprocessing
import os
import pickle
import random
import resource
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from unittest import mock

import numpy as np
import pytest
import torch

import dream
import envs

torch.set_num_threads(1)  # bit-identical, and fast where cores are shared
SMALL = "--hidden-size 16 --batch-size 8 --updates-per-round 2".split()
BUS = ["--env", "distracting-bus", "--num-envs", 16, *SMALL]
MAP = ["--env", "map", "--num-envs", 16, *SMALL, "--explore-after", 48]
COLUMNS = (
    "env_steps,seconds,trials,updates,"
    "test_return,test_return_se,optimal_return,exploration_steps"
).split(",")


def run(*words):
    """The status of a command line, and what it has said."""
    output, error, status = io.StringIO(), io.StringIO(), 0
    with mock.patch("sys.argv", ["dream.py", *map(str, words)]):
        with redirect_stdout(output), redirect_stderr(error):
            try:
                dream.main()
            except SystemExit as stopped:
                status = stopped.code
    return status, output.getvalue(), error.getvalue()


def train(run_dir, *words):
    status, _, error = run(*words, "--run-dir", run_dir)
    assert status == 0, error
    return rows(run_dir)


def rows(run_dir):
    """What progress.csv says, but for the time."""
    with open(run_dir / "progress.csv") as file:
        table = [*csv.DictReader(file)]
    for row in table:
        assert None not in row and None not in row.values()
        assert float(row.pop("seconds")) >= 0
    return table


def files(run_dir):
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


# --- What a run does, written down --------------------------------------------
class Diary:
    """What training passes to the functions that it is made of."""

    def __init__(self, monkeypatch, scale=(1.0,)):
        self.updates, self.trials, self.tests = [], [], []
        self.replay = []  # what is added and drawn, and the priorities then
        self.losses = dream.losses
        trial, evaluate = dream.trial, dream.evaluate
        add, sample = dream.ReplayBuffer.add, dream.ReplayBuffer.sample

        def spy_losses(agent, target, tau_exp, tau_exec, args, explore):
            self.live = agent, target
            now = {
                "random": torch.get_rng_state(),
                "agent": copy.deepcopy(agent),
                "target": copy.deepcopy(target),
                "inputs": (tau_exp, tau_exec, args, explore),
                "factor": scale[len(self.updates) % len(scale)],
            }
            loss = self.losses(agent, target, *now["inputs"])
            loss = {name: now["factor"] * x for name, x in loss.items()}
            self.updates.append(now | {"loss": loss})
            return loss

        def spy_trial(agent, args, task, *inputs):
            result = trial(agent, args, task, *inputs)
            self.trials.append((task, inputs, result))
            return result

        def spy_evaluate(agent, args, final=False):
            before = len(self.trials)
            row = evaluate(agent, args, final)
            played = self.trials[before:]
            del self.trials[before:]
            self.tests.append((agent, weights(agent), final, row, played))
            return row

        def spy_add(buffer, *taus):
            before, first = buffer.priority.clone(), buffer.added
            add(buffer, *taus)
            slots = torch.arange(first, buffer.added) % buffer.size
            self.replay.append(("add", before, slots))

        def spy_sample(buffer, slots):
            self.replay.append(("sample", buffer.priority.clone(), slots))
            return sample(buffer, slots)

        monkeypatch.setattr(dream, "losses", spy_losses)
        monkeypatch.setattr(dream, "trial", spy_trial)
        monkeypatch.setattr(dream, "evaluate", spy_evaluate)
        monkeypatch.setattr(dream.ReplayBuffer, "add", spy_add)
        monkeypatch.setattr(dream.ReplayBuffer, "sample", spy_sample)


def test_what_a_round_plays(tmp_path, monkeypatch):
    """Problems and halves of the trials; when exploration learns."""
    diary = Diary(monkeypatch)
    words = "--explore-after", 33, "--eval-every", 900
    words += "--env", "cooking", "--total-steps", 3300
    table, known = train(tmp_path, *BUS, *words), []
    assert len(diary.trials) >= 6
    for task, inputs, (tau_exp, _, infos) in diary.trials:
        mu, instructions, knows_mu, _ = inputs
        assert (mu, instructions) == (None, [None, None])
        assert task.split == "train" and task.num_envs == 16
        assert not np.isin(tau_exp["mu"], envs.Cooking.test_problems).any()
        asked = infos[1]["instruction"]
        assert not np.isin(asked, envs.Cooking.test_instructions).any()
        known += knows_mu.tolist()
    assert 0.3 < np.mean(known) < 0.7
    # 48 trials are more than 33.
    learns = [update["inputs"][3] for update in diary.updates]
    assert learns == 6 * [False] + (len(learns) - 6) * [True]
    assert {*diary.updates[0]["loss"]} == {"bottleneck", "decoder", "execution"}

    # The rows count what has been played, and come when they are due.
    steps, count = [0], table[0]
    for _, _, (_, _, infos) in diary.trials:
        steps.append(steps[-1] + sum(info["steps"].sum() for info in infos))
    due = [0]
    for k in range(1, len(steps)):
        if steps[k] >= steps[due[-1]] + 900 or k == len(steps) - 1:
            due.append(k)
    assert len(due) >= 4 and steps[-1] >= 3300 > steps[-2]
    assert len(table) == len(due)
    for k, row in zip(due, table):
        count = [int(row[name]) for name in ("env_steps", "trials", "updates")]
        assert count == [steps[k], 16 * k, 2 * k]
        for name in ("bottleneck", "decoder", "execution", "exploration"):
            learned = k > 3 if name == "exploration" else k > 0
            logged = float(row[f"{name}_loss"])
            assert math.isfinite(logged) == learned
            if learned:
                last = diary.updates[2 * k - 1]["loss"][name]
                assert logged == pytest.approx(last.mean().item())


def test_executions_teach_exploring_where_they_are_asked_to(
    tmp_path, monkeypatch
):
    """A quarter of a batch, in which half of the trials know mu."""
    diary = Diary(monkeypatch)
    words = "--as-exploration", 0.25, "--batch-size", 64, "--total-steps", 1500
    train(tmp_path, *BUS, *words, "--setting", "standard")
    learned = []
    for update in diary.updates:
        tau_exp, tau_exec, *_ = update["inputs"]
        same = tau_exp["prev_action"] == tau_exec["prev_action"]
        learned.append(same.all(1) & tau_exec["knows_mu"])
    assert len(learned) >= 4
    share = torch.stack(learned).float().mean(0)
    assert share[:16].mean() > 0.3 and share[16:].mean() < 0.05


def test_epsilons_of_a_round(tmp_path, monkeypatch):
    """They fall in half of the run; exploration is random until it learns."""
    diary = Diary(monkeypatch)
    words = "--explore-after", 33, "--min-epsilon", 0.1, "--total-steps", 2500
    train(tmp_path, *BUS, *words)
    assert len(diary.trials) >= 5
    steps = 0
    for k, (_, (*_, epsilons), (*_, infos)) in enumerate(diary.trials):
        epsilon = max(1 - 0.9 * steps / 1250, 0.1)
        expected = 1.0 if k < 3 else epsilon, epsilon
        assert epsilons == pytest.approx(expected)
        steps += sum(info["steps"].sum() for info in infos)
    assert epsilon == 0.1


def test_what_an_evaluation_plays(tmp_path, monkeypatch):
    """Test problems without mu, greedily, by the running average."""
    diary = Diary(monkeypatch)
    words = "--total-steps", 1500, "--eval-every", 800, "--target-rate", 0.1
    table = train(tmp_path, *BUS, *words)
    agent, target = diary.live
    assert [test[2] for test in diary.tests] == [False, False, True]
    for tested, before, _, row, (test, known) in diary.tests:
        assert tested is target and tested is not agent
        task, (mu, asked, knows_mu, epsilons), result = test
        assert task.split == "test" and not knows_mu.any()
        assert not any(np.any(epsilon) for epsilon in epsilons)
        held_out = task.problems["test"]
        assert len(held_out) == 523 and (mu == held_out.repeat(4)).all()
        assert len(asked) == 2 and asked[0] is None
        returns = result[2][1]["return"]
        assert row["test_return"] == pytest.approx(returns.mean())

        task, (mu, asked, knows_mu, epsilons), result = known
        assert task.split == "train" and task.num_envs == 256
        assert (mu, asked) == (None, [None, None])
        assert knows_mu.all() and epsilons == (0.5, 0)
        tau, _, infos = result
        returns = infos[1]["return"].mean()
        assert row["return_with_id"] == pytest.approx(returns)
        if before is diary.tests[-1][1]:
            with torch.no_grad():
                f, g = target.f(tau["mu"]), target.g(tau)
            g = torch.stack([x[t] for x, t in zip(g, tau["length"])])
            error = ((f - g) ** 2).sum(1).mean().item()
            assert row["decoder_error"] == pytest.approx(error, rel=1e-4)
            spread = ((f - f.mean(0)) ** 2).sum(1).mean().item()
            assert row["prior_error"] == pytest.approx(spread, rel=1e-4)

    # What is saved is what has been tested; its row is the last one.
    saved, _, row = dream.load_agent(tmp_path)
    expected = [str(row[name]) for name in row if name != "seconds"]
    assert [*table[-1].values()] == expected
    for p, q, tested in zip(
        saved.parameters(), target.parameters(), diary.tests[-1][1]
    ):
        assert p.equal(q) and p.equal(tested)
    assert not all(
        p.equal(q) for p, q in zip(agent.parameters(), target.parameters())
    )


def test_updates_are_those_of_a_plain_loop(tmp_path, monkeypatch):
    """AdamW, its rates, its decay, the clipping, and the running average."""
    diary = Diary(monkeypatch, scale=[1.0, 1e5, 30.0])
    words = "--weight-decay", 0.5, "--target-rate", 0.1
    words += "--learning-rate", 2e-3, "--explore-after", 32
    train(tmp_path, *MAP, *words, "--total-steps", 2500)
    first = diary.updates[0]
    agent, target = first["agent"], copy.deepcopy(first["target"])
    for p, q in zip(agent.parameters(), target.parameters()):
        assert p.equal(q), "the average must begin as the agent"
        assert not q.requires_grad
    moments = [[torch.zeros_like(p) for _ in "mv"] for p in agent.parameters()]
    late, clipped = {*agent.pi_exp.parameters()}, 0
    for k, update in enumerate(diary.updates):
        for name, now in (("agent", agent), ("target", target)):
            for p, q in zip(now.parameters(), update[name].parameters()):
                torch.testing.assert_close(p, q, rtol=1e-4, atol=2e-5)
        # From here on, what was before: rounding does not add up.
        agent.load_state_dict(update["agent"].state_dict())
        target.load_state_dict(update["target"].state_dict())
        with torch.random.fork_rng():
            torch.set_rng_state(update["random"])
            loss = diary.losses(agent, target, *update["inputs"])
        total = sum(x.mean() for x in loss.values()) * update["factor"]
        parameters = [*agent.parameters()]
        slopes = torch.autograd.grad(total, parameters, allow_unused=True)
        norm = sum((g**2).sum() for g in slopes if g is not None) ** 0.5
        clipped += norm > 10
        for p, g, moment in zip(parameters, slopes, moments):
            if g is None:
                assert p in late and not update["inputs"][3]
                continue
            f = p is agent.f.weight
            g = g * min(1.0, 10.0 / norm)
            moment[0] = 0.9 * moment[0] + 0.1 * g
            moment[1] = 0.999 * moment[1] + 0.001 * g**2
            # Adam's steps of a parameter count from its first gradient.
            t = k + 1 - (4 if p in late else 0)
            m, v = moment[0] / (1 - 0.9**t), moment[1] / (1 - 0.999**t)
            with torch.no_grad():
                p *= 1 if f else 1 - 2e-3 * 0.5
                p -= (4 if f else 1) * 2e-3 * m / (v.sqrt() + 1e-8)
        for p, q in zip(parameters, target.parameters()):
            q += 0.1 * (p.detach() - q)
    assert len(diary.updates) >= 8 and 2 <= clipped < len(diary.updates) - 2


def test_priorities_are_those_of_the_trials_drawn(tmp_path, monkeypatch):
    diary = Diary(monkeypatch)
    words = "--priority", 0.5, "--buffer-size", 40, "--explore-after", 32
    train(tmp_path, *MAP, *words, "--total-steps", 3000)
    updates, expected = iter(diary.updates), [{1.0} for _ in range(40)]
    for kind, before, slots in diary.replay:
        for priority, allowed in zip(before.tolist(), expected):
            assert any(priority == pytest.approx(x) for x in allowed)
        expected = [{x} for x in before.tolist()]
        loss = next(updates)["loss"] if kind == "sample" else {}
        error = sum(loss[name] for name in loss if name[0] == "e")
        for k, slot in enumerate(slots.tolist()):
            if kind == "add":
                expected[slot] = {before.max().item()}
                continue
            # That of a trial which is drawn twice is either.
            if slot not in slots[:k]:
                expected[slot] = set()
            expected[slot].add((error[k].item() + 1e-6) ** 0.25)
    assert next(updates, None) is None and len(diary.updates) >= 8


def test_a_buffer_holds_a_round_at_least(tmp_path):
    words = *BUS, "--total-steps", 1500, "--buffer-size"
    few, enough = (train(tmp_path / str(n), *words, n) for n in (3, 16))
    assert few == enough


def test_same_seed_same_numbers(tmp_path):
    words = *MAP, "--total-steps", 2000, "--eval-every", 900
    a = train(tmp_path / "a", *words, "--seed", 3)
    assert a == train(tmp_path / "b", *words, "--seed", 3)
    c = train(tmp_path / "c", *words, "--seed", 4)
    assert len(a) >= 3 and a[-1] != c[-1] and a[0] != c[0]
    assert list(a[0])[:7] == COLUMNS[:1] + COLUMNS[2:]
    with open(tmp_path / "a" / "progress.csv") as file:
        assert file.readline().startswith(",".join(COLUMNS))
    assert float(a[-1]["optimal_return"]) == pytest.approx(0.8)


def test_evaluation_changes_nothing(tmp_path):
    words = *MAP, "--total-steps", 3000
    often = train(tmp_path / "a", *words, "--eval-every", 1)
    seldom = train(tmp_path / "b", *words, "--eval-every", 10_000)
    assert len(often) > len(seldom) == 2
    assert often[0] == seldom[0] and often[-1] == seldom[-1]


def test_the_id_never_reaches_meta_test(monkeypatch):
    """Neither f nor the problem that `info` tells changes what is done."""
    args = dream.Args()
    args.task.env, args.q_learning.hidden_size = "distracting-bus", 16
    torch.manual_seed(0)
    agent, done = dream.Dream(envs.make("distracting-bus"), args), []
    for net in agent.decoded, agent.pi_exec.head:
        for p in net.parameters():
            torch.nn.init.normal_(p)
    act, batch = dream.act, envs.Task._batch

    def spy(*inputs, **given):
        tau, info = act(*inputs, **given)
        done.append(tau["prev_action"])
        return tau, info

    def garbled(task, *inputs):
        batch_, info = batch(task, *inputs)
        if task.split == "test":
            info |= {"problem": info["problem"][::-1].copy()}
        return batch_, info

    def actions():
        done.clear()
        dream.evaluate(agent, args)
        return [x.clone() for x in done]

    monkeypatch.setattr(dream, "act", spy)
    honest = actions()
    monkeypatch.setattr(envs.Task, "_batch", garbled)
    torch.nn.init.normal_(agent.f.weight)
    other = actions()
    assert other[0].equal(honest[0]) and other[1].equal(honest[1])
    assert not other[3].equal(honest[3])  # f matters to who knows the id
    for p in agent.decoded.parameters():
        torch.nn.init.normal_(p)
    assert not actions()[1].equal(honest[1])  # as g does in the test


def test_executions_count_and_differ(tmp_path, monkeypatch):
    """Each of K executions has a column; --eval may have another K."""
    words = "--setting", "online", "--total-steps", 800, "--executions", 3
    (_, last) = train(tmp_path, *MAP, *words)
    each = [float(last[f"test_return_{k}"]) for k in (1, 2, 3)]
    assert float(last["test_return"]) == pytest.approx(np.mean(each))
    saved = torch.load(tmp_path / "agent.pt", weights_only=True)
    assert saved["config"]["run"]["executions"] == 3
    tested = mock.Mock(wraps=envs.meta_test)
    monkeypatch.setattr(envs, "meta_test", tested)
    for K, expected in ((0, 3), (1, 1)):  # 0: as in training
        assert run("--eval", tmp_path, "--executions", K)[0] == 0
        given = tested.call_args.kwargs
        assert given["executions"] == expected and given["final"]


# --- Learning -----------------------------------------------------------------
def coupling(run_dir, seed):
    """The test return after 4,000 steps, in three seconds."""
    words = ["--env", "coupling", "--total-steps", 4000, "--seed", seed]
    words += "--hidden-size 32 --batch-size 32 --learning-rate 3e-3".split()
    return float(train(run_dir, *words)[-1]["test_return"])


def test_coupling_is_learned(tmp_path):
    assert coupling(tmp_path, 0) >= 0.99


def test_coupling_needs_the_exploration_reward(tmp_path, monkeypatch):
    reward = dream.exploration_reward
    monkeypatch.setattr(
        dream, "exploration_reward", lambda *inputs: 0 * reward(*inputs)
    )
    returns = [coupling(tmp_path / str(seed), seed) for seed in (0, 1)]
    assert np.mean(returns) < 0.5


# --- The run directory --------------------------------------------------------
def test_what_a_run_leaves(tmp_path):
    words = *MAP, "--total-steps", 900, "--run-dir", tmp_path / "run"
    _, said, _ = run(*words)
    last = rows(tmp_path / "run")[-1]
    assert said.count("\n") == 1
    for part in (
        f"map, seed 0: test return {float(last['test_return']):.3f} ",
        f"exploration of {float(last['exploration_steps']):.1f} steps",
        f"after {int(last['env_steps']):,} environment steps",
    ):
        assert part in said
    before = files(tmp_path / "run")
    names = {"config.json", "progress.csv", "agent.pt", "checkpoint.pt"}
    assert {*before} == names
    config = json.loads(before["config.json"])
    assert config["method"] == "dream" and config["run"]["total_steps"] == 900
    assert config["q_learning"]["hidden_size"] == 16

    # To test it again says the same, and changes nothing.
    assert run("--eval", tmp_path / "run") == (0, said, "")
    # It is not overwritten unless that is asked for.
    status, output, error = run(*words)
    assert (status, output) == (2, "") and "--overwrite" in one_line(error)
    assert before == files(tmp_path / "run")
    assert run(*words, "--overwrite", "--seed", 1)[0] == 0
    assert rows(tmp_path / "run")[0]["env_steps"] == "0"
    assert before["agent.pt"] != files(tmp_path / "run")["agent.pt"]


def test_where_a_run_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--env coupling --total-steps 1 --num-envs 2".split() + SMALL
    for more, name in (
        ([], "coupling/0"),
        (["--seed", 7], "coupling/7"),
        (["--num-actions", 4], "coupling-4/0"),
        (["--setting", "online"], "coupling-online/0"),
        (["--checkpoint-minutes", 0, "--seed", 8], "coupling/8"),
    ):
        assert run(*words, *more)[0] == 0
        left = files(tmp_path / "runs" / "dream" / name)
        assert ("checkpoint.pt" in left) == ("--checkpoint-minutes" not in more)


def test_defaults_of_a_task_yield_to_the_command_line():
    def parse(*words):
        with mock.patch("sys.argv", ["dream.py", *map(str, words)]):
            return dream.parse()

    args = parse("--env", "cooking", "--total-steps", 3)
    assert (args.task.env, args.run.total_steps) == ("cooking", 3)
    of_task = dream.DEFAULTS["cooking"]
    assert args.dream.explore_after == of_task["explore_after"]
    assert of_task["explore_after"] != dream.Args().dream.explore_after
    args = parse("--seed", 2, "--gamma", 0.5, "--resume")
    assert (args.task.env, args.run.seed, args.run.resume) == ("map", 2, True)
    assert args.q_learning.gamma == 0.5
    assert args.run.total_steps == dream.Args().run.total_steps
    for key, changes in dream.DEFAULTS.items():
        option = "--setting" if key in envs.SETTINGS else "--env"
        groups = vars(parse(option, key)).values()
        found = {name: x for group in groups for name, x in vars(group).items()}
        assert {name: found[name] for name in changes} == changes


# --- Stopping and going on ----------------------------------------------------
OFTEN = *MAP, "--buffer-size", 100, "--eval-every", 700
OFTEN += "--checkpoint-minutes", 1e-9, "--total-steps"


def test_killed_and_resumed_is_undisturbed(tmp_path):
    """Killed at any moment, a run goes on as if nothing had happened."""
    whole = train(tmp_path / "a", *OFTEN, 4000)
    run_dir, moment = tmp_path / "b", random.Random(0)
    words = *OFTEN, 4000, "--run-dir", run_dir, "--resume"
    for _ in range(5):
        process = multiprocessing.get_context("fork").Process(
            target=run, args=words
        )
        process.start()
        while not (run_dir / "checkpoint.pt").exists():
            time.sleep(0.01)
        time.sleep(moment.uniform(0.0, 0.4))
        process.kill()
        process.join()
    assert train(run_dir, *OFTEN, 4000, "--resume") == whole
    assert len(whole) >= 5
    # It has ended: to resume it once more changes nothing.
    assert train(run_dir, *OFTEN, 4000, "--resume") == whole


def test_minutes_between_checkpoints(tmp_path, monkeypatch):
    """2.5 minutes, where a round takes one; and one at the end."""
    now, saved, save, add = [1000], [], dream.save, dream.ReplayBuffer.add

    def slow_add(*inputs):
        now[0] += 60
        add(*inputs)

    def spy(path, content):
        if path.name == "checkpoint.pt":
            saved.append(now[0] - 1000)
        save(path, content)

    clock = mock.Mock(monotonic=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr(dream, "time", clock)
    monkeypatch.setattr(dream, "save", spy)
    monkeypatch.setattr(dream.ReplayBuffer, "add", slow_add)
    words = *MAP, "--checkpoint-minutes", 2.5, "--eval-every", 10_000
    status, said, _ = run(*words, "--total-steps", 4000, "--run-dir", tmp_path)
    end = now[0] - 1000
    assert saved == [*range(0, end, 180), end] and end >= 420
    assert status == 0 and f"and {end} seconds of training" in said


class Killed(BaseException):
    pass


def test_killed_between_two_files(tmp_path, monkeypatch):
    """At whichever file, written in part or not yet renamed."""
    whole, save = train(tmp_path / "whole", *OFTEN, 1500), dream.save
    for moment in 1, 5, 6, 8:
        run_dir, saved = tmp_path / str(moment), []

        def killed(path, content, moment=moment, saved=saved):
            saved.append(path)
            if len(saved) == moment + 1:
                path.with_name(path.name + ".part").write_text("a part of it")
                raise Killed
            save(path, content)

        monkeypatch.setattr(dream, "save", killed)
        try:
            train(run_dir, *OFTEN, 1500)
        except Killed:
            pass
        monkeypatch.setattr(dream, "save", save)
        assert len(saved) == moment + 1
        assert train(run_dir, *OFTEN, 1500, "--resume") == whole


def test_a_finished_run_goes_on(tmp_path):
    """As if it had been longer at once, but for epsilon: here, that is 1."""
    words = "--min-epsilon", 1, *OFTEN
    whole = train(tmp_path / "a", *words, 3000)
    first = train(tmp_path / "b", *words, 1900)
    assert first[:-1] == whole[: len(first) - 1] and first != whole
    assert train(tmp_path / "b", *words, 3000, "--resume") == whole


def test_resuming_nothing_begins(tmp_path):
    assert len(train(tmp_path / "new", *OFTEN, 500, "--resume")) == 2


# --- What goes wrong: one line, status 2 --------------------------------------
def one_line(error):
    """The line of an error, beside the progress bar."""
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if "error: " in line]
    return line


def refused(*words):
    status, output, error = run(*words)
    assert (status, output) == (2, "")
    assert error.count("\n") == 1 and error.startswith("error: ")
    return one_line(error)


def test_what_cannot_be_resumed(tmp_path):
    words = *OFTEN, 500, "--priority", 0.75
    train(tmp_path, *words)
    words += "--run-dir", tmp_path, "--resume"
    before = files(tmp_path)
    assert "'priority': 0.75" in refused(*words, "--priority", 0.5)
    assert "'env': 'map'" in refused(*words, "--env", "bus")
    assert "other options" in refused(*words, "--seed", 1)
    assert "other options" in refused(*words, "--hidden-size", 8)
    assert before == files(tmp_path)

    path = tmp_path / "checkpoint.pt"
    good = path.read_bytes()
    half, part = good[: len(good) // 2], good[:100]
    for bad in (half, part, b"", b"no checkpoint", pickle.dumps({"a": 1})):
        path.write_bytes(bad)
        status, output, error = run(*words)
        assert (status, output) == (2, "")
        assert str(path) in error and "Traceback" not in error
    saved = torch.load(io.BytesIO(good), weights_only=True)
    saved["config"]["method"] = "rl2"
    torch.save(saved, path)
    assert "rl2" in refused(*words)
    path.unlink()
    assert str(path) in refused(*words)


def test_what_cannot_be_tested(tmp_path):
    assert "nowhere" in refused("--eval", tmp_path / "nowhere")
    train(tmp_path, *MAP, "--total-steps", 1)
    path = tmp_path / "agent.pt"
    saved = torch.load(path, weights_only=True)
    saved["config"]["method"] = "import"
    torch.save(saved, path)
    assert "import" in refused("--eval", tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in refused("--eval", tmp_path)


def test_a_file_is_read_once(tmp_path, monkeypatch):
    """A checkpoint has gigabytes."""
    train(tmp_path, *OFTEN, 500)
    read = mock.Mock(wraps=torch.load)
    monkeypatch.setattr(torch, "load", read)
    train(tmp_path, *OFTEN, 600, "--run-dir", tmp_path, "--resume")
    assert run("--eval", tmp_path)[0] == 0
    names = [call.args[0].name for call in read.call_args_list]
    assert names == ["checkpoint.pt", "agent.pt"]


UNFIT = "method", "no method", "beginning", "empty", "text", "no such part"
UNFIT += "hidden size", "task", "attack", "half", "list", "no config", "no row"


@pytest.mark.parametrize("wrong", UNFIT)
def test_what_does_not_fit(tmp_path, wrong):
    """One line that names the file."""
    train(tmp_path, *MAP, "--total-steps", 1)
    assert len(dream.load_agent(tmp_path)) == 3
    path = tmp_path / "agent.pt"
    saved, whole = torch.load(path, weights_only=True), path.read_bytes()
    config = saved["config"]
    changed = {
        "method": lambda: config.update(method="rl2"),
        "no method": lambda: config.pop("method"),
        "no such part": lambda: saved.update(target=saved.pop("agent")),
        "hidden size": lambda: config["q_learning"].update(hidden_size=5),
        "task": lambda: config["task"].update(env="bus"),
        # weights_only refuses functions
        "attack": lambda: config.update(method=os.getcwd),
        "no config": lambda: saved.update(config=None),
        "no row": lambda: saved.pop("row"),
    }
    files = {
        "beginning": whole[:1000],
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no agent",
    }
    if wrong in files:
        path.write_bytes(files[wrong])
    elif wrong == "list":
        torch.save([1, 2], path)
    else:
        changed[wrong]()
        torch.save(saved, path)
    with pytest.raises(ValueError) as error:
        dream.load_agent(tmp_path)
    line = str(error.value)
    assert str(path) in line and "\n" not in line and "Traceback" not in line
    assert ("rl2" in line) == (wrong == "method")


@pytest.mark.parametrize("kind", ["text", "weights", "older", "larger"])
@pytest.mark.parametrize("name", ["agent.pt", "checkpoint.pt"])
def test_a_file_that_is_no_agent(tmp_path, kind, name):
    """A text, a file of something else, networks of another version."""
    train(tmp_path, *OFTEN, 1)
    path = tmp_path / name
    saved = torch.load(path, weights_only=True)
    agent = saved["agent"]
    if kind == "text":
        path.write_text("no agent")
    elif kind == "weights":
        torch.save(agent, path)
    elif kind == "older":
        del agent["f.weight"]
        torch.save(saved, path)
    else:
        agent["f.weight"] = agent["f.weight"].repeat(2, 1)
        torch.save(saved, path)
    words = "--eval", tmp_path
    if name == "checkpoint.pt":
        words = *OFTEN, 1, "--run-dir", tmp_path, "--resume"
    assert str(path) in refused(*words)


def test_an_agent_of_a_gpu_is_tested_on_a_cpu(tmp_path, monkeypatch):
    train(tmp_path, *MAP, "--total-steps", 1)
    saved = torch.load(tmp_path / "agent.pt", weights_only=True)
    gpu = mock.Mock(return_value="cuda:0")
    monkeypatch.setattr(torch.serialization, "location_tag", gpu)
    torch.save(saved, tmp_path / "agent.pt")
    monkeypatch.undo()
    status, output, error = run("--eval", tmp_path, "--device", "cpu")
    assert (status, error) == (0, "") and "test return" in output


def test_a_file_runs_no_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in "agent.pt", "checkpoint.pt":
        torch.save({"config": Attack()}, run_dir / name)
    for words in (["--eval", run_dir], ["--run-dir", run_dir, "--resume"]):
        status, _, error = run(*words)
        assert status == 2 and str(run_dir) in one_line(error)
    (run_dir / "agent.pt").write_bytes(pickle.dumps(Attack(), protocol=2))
    assert run("--eval", run_dir)[0] == 2
    assert not (tmp_path / "attacked").exists()


@contextmanager
def room_for(size):
    """No file may have more bytes, as on a disk that is almost full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


PARTS = [
    (kind, share) for kind in ("tensors", "text") for share in (0, 0.5, 0.999)
]
PARTS += [("tensors", share) for share in (0.02, 0.9)]


@pytest.mark.parametrize("kind, share", PARTS)
def test_a_whole_file_or_none(tmp_path, kind, share):
    """Also where torch finds the disk full halfway."""
    path, content = tmp_path / "agent.pt", "a row,\n" * 10_000
    if kind == "tensors":
        content = {str(k): torch.randn(5000) for k in range(20)}
    dream.save(path, content)
    whole = path.read_bytes()
    if kind == "text":
        assert whole.decode() == content
    else:
        loaded = torch.load(path, weights_only=True)
        assert {*loaded} == {*content}
        assert all(loaded[k].equal(x) for k, x in content.items())
    with room_for(int(share * len(whole))), pytest.raises(OSError):
        dream.save(path, content)
    assert path.read_bytes() == whole
    dream.save(path, content)
    assert [*files(tmp_path)] == ["agent.pt"]


@pytest.mark.parametrize("name", ["checkpoint.pt", "agent.pt", "progress.csv"])
def test_a_full_disk(tmp_path, name):
    """What has been saved stays, and can be resumed."""
    train(tmp_path, *OFTEN, 900)
    before = files(tmp_path)
    words = *OFTEN, 1500, "--run-dir", tmp_path, "--resume"
    minutes = 1e-9 if name == "checkpoint.pt" else 0  # what is written first
    with room_for(int(0.999 * len(before[name]))):
        status, output, error = run(*words, "--checkpoint-minutes", minutes)
    assert (status, output) == (2, "")
    said = os.strerror(errno.EFBIG) if name == "progress.csv" else "disk full?"
    assert said in one_line(error)
    assert before[name] == files(tmp_path)[name]
    assert name + ".part" in files(tmp_path)
    assert int(train(tmp_path, *words)[-1]["env_steps"]) >= 1500
    assert {*files(tmp_path)} == {*before}


def broken(monkeypatch, run_dir, name, value, update):
    """Status and message of a run where a loss is lost in the third round."""
    losses, calls = dream.losses, []

    def spy(*inputs):
        loss = losses(*inputs)
        calls.append(loss)
        if len(calls) > 4 + update:
            loss[name] = loss[name] * value
        return loss

    monkeypatch.setattr(dream, "losses", spy)
    status, output, error = run(
        *MAP, "--total-steps", 2000, "--run-dir", run_dir
    )
    assert (status, output) == (2, "")
    return error


NOT_FINITE = pytest.mark.parametrize(
    "name, value",
    [("execution", math.nan), ("execution", math.inf), ("decoder", math.nan)],
)


@NOT_FINITE
def test_a_loss_that_is_not_finite(tmp_path, monkeypatch, name, value):
    """One line names it; the run can go on from before."""
    error = broken(monkeypatch, tmp_path, name, value, update=1)
    assert f"{name} loss" in one_line(error)
    monkeypatch.undo()
    words = *MAP, "--total-steps", 2000, "--resume"
    assert train(tmp_path, *words)[-1]["execution_loss"] != "nan"


@NOT_FINITE
def test_it_is_found_in_whichever_update(tmp_path, monkeypatch, name, value):
    error = broken(monkeypatch, tmp_path, name, value, update=0)
    assert f"{name} loss" in one_line(error)


def test_an_error_has_a_line_of_its_own(tmp_path, monkeypatch):
    error = broken(monkeypatch, tmp_path, "execution", math.nan, update=1)
    assert error.splitlines()[-1].startswith("error: ")


def test_too_little_memory(tmp_path, monkeypatch):
    too_much = mock.Mock(side_effect=MemoryError("Unable to allocate 8 TiB"))
    monkeypatch.setattr(envs, "make", too_much)
    assert "error: Unable to allocate 8 TiB" in refused("--run-dir", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path):
    words = "--device", "cuda", "--run-dir", tmp_path / "run"
    assert "--device cuda" in refused(*words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        ("--env maze", "--env"),
        ("--num-envs 0", "--num-envs"),
        ("--batch-size -3", "--batch-size"),
        ("--buffer-size 0", "--buffer-size"),
        ("--gamma 1.5", "--gamma"),
        ("--q-lambda -0.1", "--q-lambda"),
        ("--target-rate 2", "--target-rate"),
        ("--learning-rate nan", "--learning-rate"),
        ("--learning-rate inf", "--learning-rate"),
        ("--lr-half-life 0", "--lr-half-life"),
        ("--total-steps many", "--total-steps"),
        ("--min-epsilon 1.1", "--min-epsilon"),
        ("--seed -1", "--seed"),
        ("--checkpoint-minutes -1", "--checkpoint-minutes"),
        ("--env coupling --num-actions 0", "--num-actions"),
        ("--halving 3", "--halving"),
        ("--env cooking --setting standard", "setting"),
        ("--run-dir /proc/nowhere", "/proc/nowhere"),
        (f"--run-dir {dream.__file__}", "dream.py"),
    ],
)
def test_a_command_line_that_is_wrong(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    status, output, error = run(*words.split())
    assert (status, output) == (2, "")
    assert said in error and "Traceback" not in error


def test_help_has_every_option_and_the_defaults_of_the_task():
    status, output, _ = run("--env", "cooking", "--help")
    assert status == 0 and "--checkpoint-minutes" in output
    assert "2500000)" in output, "of cooking"
    _, output, _ = run("--setting", "standard", "--help")
    assert "1500000)" in output and "(default: standard)" in output
