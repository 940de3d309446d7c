"""Nothing is lost: killed runs, broken files, full disks, exploding losses."""

import csv
import multiprocessing
import os
import pickle
import shutil
import sys
import time

import numpy as np
import pytest
import torch

import dream
import import_
import rl2
import varibad

resource = pytest.importorskip("resource", reason="limits are of POSIX")
torch.set_num_threads(1)
PROCESSES = multiprocessing.get_context("forkserver")  # spares the imports
PROCESSES.set_forkserver_preload(["dream", "rl2", "import_", "varibad"])
METHODS = pytest.mark.parametrize("method", [dream, rl2, import_, varibad])
SHORT = {"env": "map", "device": "cpu", "num_envs": 32, "batch": 16}
SHORT |= {"hidden": 16, "updates": 2, "replay": 300, "eval_every": 1000}


def arguments(method, run, **changes):
    changes = SHORT | {"total_steps": 5000} | changes
    changes["checkpoint_minutes"] = 1e-9  # after every round
    if method is dream:
        changes["explore_after"] = 150
    return method.Args(run_dir=run, **changes)


def child(name, args, limit):
    sys.stderr = open(f"{args.run_dir}.err", "w", buffering=1)
    torch.set_num_threads(1)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    finish(sys.modules[name], args)


def begin(method, args, limit=None):
    """A process that trains; its errors go to `<run_dir>.err`."""
    process = PROCESSES.Process(
        target=child, args=(method.__name__, args, limit)
    )
    process.start()
    return process


def finish(method, args):
    method.train(args, *method.open_run(args))
    return rows(args.run_dir)


def rows(run):
    """What progress.csv says, but for the time."""
    with open(run / "progress.csv") as file:
        table = [*csv.DictReader(file)]
    assert all(None not in row.values() for row in table)
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table]


def kill(method, args, times, rng):
    """Start the run so many times, each time killed after a random while."""
    for _ in range(times):
        process = begin(method, args)
        time.sleep(rng.uniform(0.1, 1.5))
        process.kill()
        process.join()
        assert process.exitcode == -9


@METHODS
def test_killed_and_resumed_is_undisturbed(method, tmp_path):
    whole = finish(method, arguments(method, tmp_path / "a"))
    assert len(whole) >= 4
    args = arguments(method, tmp_path / "b", resume=True)
    times = 12 if method is dream else 3
    kill(method, args, times, np.random.default_rng(0))
    assert finish(method, args) == whole


@METHODS
def test_a_finished_run_goes_on(method, tmp_path):
    whole = finish(method, arguments(method, tmp_path / "a"))
    finish(method, arguments(method, tmp_path / "b", total_steps=2500))
    args = arguments(method, tmp_path / "b", resume=True)
    assert finish(method, args) == whole


def error(said):
    (line,) = (x for x in said.splitlines() if x.startswith("error: "))
    assert "Traceback" not in said
    return line


def refused(method, args, capfd):
    """The one line that it is refused with; what is there stays."""
    paths = [*args.run_dir.iterdir()]
    before = [path.read_bytes() for path in paths]
    with pytest.raises(SystemExit) as stopped:
        method.train(args, *method.open_run(args))
    assert stopped.value.code == 2
    assert before == [path.read_bytes() for path in paths]
    return error(capfd.readouterr().err)


def test_what_cannot_be_resumed(tmp_path, capfd):
    args = arguments(dream, tmp_path, total_steps=500)
    finish(dream, args)
    resume = {"resume": True, "total_steps": 500}
    for name, value in (("gamma", 0.9), ("env", "bus"), ("seed", 1)):
        other = arguments(dream, tmp_path, **resume | {name: value})
        assert name in refused(dream, other, capfd)
    assert "method" in refused(rl2, arguments(rl2, tmp_path, **resume), capfd)
    assert "--resume" in refused(dream, args, capfd)  # not empty

    args = arguments(dream, tmp_path, **resume)
    path = tmp_path / "checkpoint.pt"
    good = path.read_bytes()
    saved = torch.load(path, weights_only=True)
    saved["config"]["version"] = 0
    torch.save(saved, path)
    assert "version" in refused(dream, args, capfd)
    for bad in (good[: len(good) // 2], good[:100], b"", b"no checkpoint"):
        path.write_bytes(bad)
        assert str(path) in refused(dream, args, capfd)
    path.unlink()
    assert "no checkpoint.pt" in refused(dream, args, capfd)


def test_a_checkpoint_runs_no_code(tmp_path, capfd):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    run = tmp_path / "run"
    run.mkdir()
    torch.save({"config": Attack()}, run / "checkpoint.pt")
    refused(dream, arguments(dream, run, resume=True), capfd)
    (run / "checkpoint.pt").write_bytes(pickle.dumps(Attack(), protocol=2))
    refused(dream, arguments(dream, run, resume=True), capfd)
    torch.save({"config": Attack()}, run / "agent.pt")
    with pytest.raises(SystemExit):
        dream.save_trials(dream.Args(eval=run))
    assert not (tmp_path / "attacked").exists()


def test_a_full_disk(tmp_path):
    args = arguments(dream, tmp_path / "run", total_steps=1500)
    finish(dream, args)
    before = rows(args.run_dir)
    saved = (args.run_dir / "checkpoint.pt").read_bytes()
    args = arguments(dream, args.run_dir, resume=True)
    process = begin(dream, args, limit=len(saved) // 2)
    process.join()
    assert process.exitcode == 2
    said = error((tmp_path / "run.err").read_text())
    assert "checkpoint.pt" in said and "too large" in said
    assert (args.run_dir / "checkpoint.pt").read_bytes() == saved
    assert rows(args.run_dir)[: len(before) - 1] == before[:-1]
    assert not [*args.run_dir.glob("*.part")]
    whole = finish(dream, arguments(dream, tmp_path / "whole"))
    assert finish(dream, args) == whole


def test_a_directory_that_goes_away(tmp_path):
    args = arguments(dream, tmp_path / "run", total_steps=10**9)
    process = begin(dream, args)
    while not (args.run_dir / "progress.csv").exists():
        time.sleep(0.05)
    shutil.rmtree(args.run_dir, ignore_errors=True)
    shutil.rmtree(args.run_dir, ignore_errors=True)
    process.join()
    assert process.exitcode == 2
    assert "No such file" in error((tmp_path / "run.err").read_text())


@METHODS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(method, value, tmp_path, monkeypatch, capfd):
    args, losses, calls = arguments(method, tmp_path / "run"), method.losses, []

    def broken(*inputs):
        loss = losses(*inputs)
        calls.append(loss)
        factor = value if len(calls) > 10 else 1.0
        return loss | {"execution": loss["execution"] * factor}

    monkeypatch.setattr(method, "losses", broken)
    with pytest.raises(SystemExit) as stopped:
        method.train(args, *method.open_run(args))
    assert stopped.value.code == 2
    assert "_loss is " in error(capfd.readouterr().err)
    monkeypatch.undo()
    whole = finish(method, arguments(method, tmp_path / "whole"))
    args = arguments(method, args.run_dir, resume=True)
    assert finish(method, args) == whole
