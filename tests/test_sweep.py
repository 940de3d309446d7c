"""sweep.py and jobs.py: what is run, gone on with, skipped, and reported.

Slurm itself is not tested here (docs/cluster.md says how it was tried), but
that submitit interrupts a job, queues it again and goes on is."""

import csv
import fcntl
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import jobs
import sweep

ROOT = Path(__file__).resolve().parent.parent
GRID = "coupling", "bus", "map", "distracting-bus", "cooking"
SMALL = "--hidden-size", "8", "--batch-size", "8", "--buffer-size", "256"
SMALL += "--updates-per-round", "1", "--eval-every", "128"
SHORT = "--suffix", "x", "--", *SMALL, "--total-steps", "256"
ENDLESS = "--suffix", "x", "--", *SMALL, "--total-steps", "10000000"
ENDLESS += "--checkpoint-minutes", "0.001"


def start(cwd, *words):
    command = [sys.executable, ROOT / "sweep.py", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, text=True, **pipes)


def run(cwd, *words):
    """Exit status, stdout, stderr."""
    process = start(cwd, *words)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited for nothing"
        time.sleep(0.05)


def rows(path):
    try:
        with open(path / "progress.csv") as file:
            return [*csv.DictReader(file)]
    except FileNotFoundError:
        return []


def children(pid):
    """Of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(x) for task in tasks for x in task.read_text().split()]


def ends_of_commands(log):
    """The last option of each training of a log: goes it on?"""
    lines = log.read_text().split("\n")
    return [line.split()[-1] for line in lines if "--run-dir" in line]


def files(folder):
    return sorted(x.name for x in folder.iterdir())


def write(path, config, steps, checkpoint=False):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    lines = "env_steps,test_return\n0,0.0\n" + f"{steps},0.5\n"
    (path / "progress.csv").write_text(lines)
    if checkpoint:
        (path / "checkpoint.pt").touch()


# --- Runs ---------------------------------------------------------------------
def test_what_is_missing_is_run_and_what_is_there_is_skipped(tmp_path):
    first, second = [tmp_path / f"results/dream/coupling-x/{i}" for i in (0, 1)]
    write(first, {"run": {"total_steps": 256}}, 256)
    before = first.stat().st_mtime_ns
    words = "--envs", "coupling", "--seeds", "2"
    status, out, _ = run(tmp_path, *words, *SHORT)
    assert status == 0
    assert out.startswith("1 of 2 runs are there\n")
    assert "results/dream/coupling-x/0" not in out
    assert "done    results/dream/coupling-x/1  256 of 256 steps" in out
    assert first.stat().st_mtime_ns == before
    # Without checkpoint, which is large, and without anything half-written
    assert files(second) == ["agent.pt", "config.json", "progress.csv"]
    assert int(rows(second)[-1]["env_steps"]) >= 256
    config = json.loads((second / "config.json").read_text())
    assert config["run"]["run_dir"] == "results/dream/coupling-x/1"

    status, out, _ = run(tmp_path, *words, "--dry-run", *SHORT)
    assert (status, out) == (0, "2 of 2 runs are there\n")


def test_a_failure_is_reported_and_does_not_stop_the_others(tmp_path):
    words = "--methods", "rl2", "dream", "--envs", "coupling", "--seeds", "1"
    more = *SHORT, "--explore-after", "0"  # an option of dream only
    status, out, _ = run(tmp_path, *words, "--workers", "1", *more)
    assert status == 1
    last = out[out.index("0 run, 0 wait, 1 done, 1 failed") :]
    line = (
        "failed  results/rl2/coupling-x/0  Unrecognized options: --explore-aft"
    )
    assert line in last
    assert "done    results/dream/coupling-x/0" in last


@pytest.mark.parametrize(
    "config", ["", "[]", "null", '{"run"', '{"run": {"total_steps": null}}']
)
def test_an_agent_is_kept_whose_config_cannot_be_read(tmp_path, config):
    path = tmp_path / "results/dream/coupling-x/0"
    write(path, {}, 256)
    (path / "config.json").write_text(config)
    (path / "agent.pt").write_text("an hour of work")
    words = "--envs", "coupling", "--seeds", "1", *SHORT
    status, out, _ = run(tmp_path, *words)
    assert status == 1
    said = "results/dream/coupling-x/0  config.json or progress.csv is damaged"
    assert f"failed  {said}" in out
    assert (path / "agent.pt").read_text() == "an hour of work"


def test_what_is_quoted_is_one_word(tmp_path):
    words = "--suffix", "a -- b", "--seeds", "1", "--dry-run"
    status, out, _ = run(tmp_path, *words, "--", "--gamma", "0.5")
    assert status == 0
    assert "'results/dream/map-a -- b/0'" in out and "--gamma 0.5" in out


def test_ctrl_c_and_a_killed_training_which_is_then_resumed(tmp_path):
    words = "--envs", "coupling", "--workers", "2"
    process = start(tmp_path, *words, "--seeds", "2", *ENDLESS)
    paths = [tmp_path / f"results/dream/coupling-x/{seed}" for seed in (0, 1)]
    wait_for(lambda: all(len(rows(path)) > 1 for path in paths))
    trainings = children(process.pid)
    assert len(trainings) == 2

    os.kill(trainings[0], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{trainings[0]}").exists())
    time.sleep(2)
    assert process.poll() is None  # the other goes on
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == ""
    assert "  killed by signal 9\n" in out
    assert "1 stopped, 0 wait, 0 done, 1 failed\n" in out
    assert "stopped results/dream/coupling-x/1  " in out
    assert not Path(f"/proc/{trainings[1]}").exists()

    before = [rows(path) for path in paths]
    for path in paths:
        assert not [*path.glob("*.part")]
        assert (path / "checkpoint.pt").exists()
        assert None not in [x for row in rows(path) for x in row.values()]
    # What was evaluated after the last checkpoint is evaluated again.
    saved = torch.load(paths[0] / "checkpoint.pt")["progress"][2]
    status, out, _ = run(tmp_path, *words, "--seeds", "1", *SHORT)
    assert status == 0
    log = tmp_path / "runs/sweep/dream/coupling-x/0.log"
    assert ends_of_commands(log) == ["--overwrite", "--resume"]
    # The losses of later rows are new columns, nan in the rows before.
    n = len(saved)
    for old, row in zip(before[0][:n], rows(paths[0])[:n], strict=True):
        assert row == dict.fromkeys(row, "nan") | old
    assert not (paths[0] / "checkpoint.pt").exists()


def test_what_waits_at_ctrl_c_is_not_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "STOP", [True])
    job = jobs.Job(Path("results/dream/coupling/0"), "--env coupling")
    with ThreadPoolExecutor() as pool:
        future = pool.submit(job)
    assert jobs.watch({job: future}) == 130
    assert capsys.readouterr().out == "0 stopped, 1 wait, 0 done, 0 failed\n"
    assert not [*tmp_path.iterdir()]


def test_two_sweeps_do_not_run_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = jobs.Job(Path("results/dream/coupling/0"), "--env coupling")
    job.log.parent.mkdir(parents=True)
    with open(job.log, "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="another sweep is running it"):
            job()


def test_submitit_interrupts_a_job_and_goes_on(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    cloudpickle = pytest.importorskip("cloudpickle")
    monkeypatch.chdir(tmp_path)
    cloudpickle.register_pickle_by_value(jobs)
    path = Path("results/rl2/coupling/0")
    words = " ".join(("--env coupling --checkpoint-minutes 0.001", *SMALL))
    words += " --total-steps 3000"
    executor = submitit.LocalExecutor("runs/sweep/slurm", max_num_timeout=9)
    executor.update_parameters(timeout_min=60, signal_delay_s=5)
    future = executor.submit(jobs.Job(path, words))
    wait_for(lambda: len(rows(path)) > 1)
    (task,) = children(future.job_id)
    os.kill(task, signal.SIGUSR2)  # as Slurm does
    assert future.exception() is None
    log = Path("runs/sweep/rl2/coupling/0.log")
    assert ends_of_commands(log) == ["--overwrite", "--resume"]
    assert int(rows(path)[-1]["env_steps"]) >= 3000
    assert files(path) == ["agent.pt", "config.json", "progress.csv"]


# --- What is there ------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "steps", "checkpoint", "finished"),
    [
        ({"run": {"total_steps": 500}}, 512, False, True),
        ({"run": {"total_steps": 500}}, 499, False, False),
        # Its last evaluation may have been interrupted.
        ({"run": {"total_steps": 500}}, 512, True, False),
        # An old run, without groups of options
        ({"total_steps": 500}, 500, False, True),
        ({"total_steps": 500}, 499, False, False),
    ],
)
def test_finished(tmp_path, config, steps, checkpoint, finished):
    path = tmp_path / "dream/map/0"
    write(path, config, steps, checkpoint)
    job = jobs.Job(path, "")
    assert job.finished() == finished
    assert str(job).endswith(f"/0  {steps} of 500 steps, test return 0.50")


def test_what_does_not_exist_or_cannot_be_read_is_not_finished(tmp_path):
    path = tmp_path / "dream/map/0"
    job = jobs.Job(path, "")
    assert not job.finished()
    write(path, {"of": "another program"}, 500)
    assert not job.finished()
    assert str(job) == str(tmp_path / "dream/map/0")


@pytest.mark.parametrize("env", GRID)
def test_what_is_committed_is_there(env):
    path = ROOT / f"results/dream/{env}/0"
    assert jobs.Job(path, "").finished()


# --- What is said -------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "rl3"], "invalid choice 'rl3'"),
        (["--envs", "maze"], "invalid choice 'maze'"),
        (["--setting", "meta"], "invalid choice 'meta'"),
        (["--workers", "0"], "--seeds and --workers have to be at least 1"),
        (["--seeds", "0"], "--seeds and --workers have to be at least 1"),
        (["--", "--gamma", "1"], "options after -- go with a --suffix only"),
        (["--paper", "--", "--gamma", "1"], "go with a --suffix only"),
        (
            ["--suffix", "a", "--", "--env=map", "--help"],
            "not after --: ['--env', '--help']",
        ),
        (
            ["--suffix", "a", "--", "--run_dir", "b"],
            "not after --: ['--run-dir']",
        ),
        (["--suffix", "../a"], "--suffix: without /"),
        (["--suffix", "imrl-rewards"], "--suffix: without /, settings and"),
        (["--envs", "bus", "--suffix", "show-id"], "settings and tasks"),
        (["--cluster", "slurm"], "error: "),  # no submitit, or no Slurm
    ],
)
def test_bad_input(tmp_path, words, message):
    path = {"PATH": "/nowhere"}  # also without srun, should there be one
    command = [sys.executable, ROOT / "sweep.py", *words]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.glob("results/**/*")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nerror: disk full\n", "error: disk full"),
        (" 10%|█  | 1/9\r 20%|██ | 2/9\nerror: x\n\n", "error: x"),
        (
            "╭─ Bad ─╮\n│ no --x │\n│ ─── │\n│ For full helptext │\n╰──╯",
            "no --x",
        ),
        # As tyro prints it
        (
            "rl2.py --env moon\n╭─ Parsing error ─────╮\n"
            "│ Argument --env: invalid choice   │\n│ 'moon'           │\n"
            "│ ─────────── │\n│ Argument helptext:    │\n"
            "│     --env STR  the task   │\n╰───────────────╯\n",
            "Argument --env: invalid choice 'moon'",
        ),
    ],
)
def test_last_line(text, line):
    assert jobs.last_line(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("killed by signal 9", "killed by signal 9"),
        ("Job 3:\n---\nTraceback\n  x\nRuntimeError: a: b\n\n---\nSee", "a: b"),
        ("Traceback\nOSError: full\n---\nSee", "OSError: full"),
        ("Job 3\nhas no output (state: CANCELLED)\nlog", None),
    ],
)
def test_reason(text, line):
    expected = line or "Job 3 has no output (state: CANCELLED)"
    assert jobs.reason(text) == expected


# --- All that is reported -----------------------------------------------------
def listed():
    return [job for line in sweep.paper() for job in sweep.listed(*line)]


def test_paper_has_every_run_once():
    paths = [str(job.path) for job in listed()]
    assert len(set(paths)) == len(paths)
    expected = set()
    for method, rewards in itertools.product(
        ["dream", "rl2", "varibad", "import"], ["", "-imrl-rewards"]
    ):
        seeds = dict.fromkeys(GRID, 5) | {"sign-nav": 3}
        for env, n in seeds.items():
            names = [f"{method}/{env}{rewards}/{seed}" for seed in range(n)]
            expected |= set(names)
            if method != "dream" and env != "coupling":
                expected |= {f"{method}/{env}{rewards}-twice/0"}
        for env, seed in itertools.product(
            ["map-standard", "map-online"], range(3)
        ):
            expected |= {f"{method}/{env}/{seed}"}
        if method in ("dream", "rl2"):
            for A, seed in itertools.product([4, 8, 16, 32], range(10)):
                expected |= {f"{method}/coupling-{A}/{seed}"}
            for seed in range(5):
                expected |= {f"{method}/coupling-32-twice/{seed}"}
        if method != "dream":
            expected |= {f"{method}/bus-show-id/0"}
    expected |= {"dream/cooking-without-decay/1"}
    expected |= {"dream/sign-nav/3", "dream/sign-nav/4"}
    expected |= {"dream/sign-nav-instruction-picture/0"}
    for name, seed in itertools.product(
        [
            "distracting-bus-problem-id-attributes",
            "distracting-bus-problem-id-words",
            "distracting-bus-problem-id-picture",
            "distracting-bus-told-3",
            "cooking-problem-id-words-instruction-words",
            "cooking-told-3",
        ],
        range(3),
    ):
        expected |= {f"dream/{name}/{seed}"}
    expected |= {f"varibad/coupling-twice/{seed}" for seed in range(3)}
    for seed in range(5):  # what were its defaults
        expected |= {f"varibad/coupling-learning-rate-1e-3/{seed}"}
    # docs/tuning.md: six configurations for each method and task
    shared = "default", "priority-0", "no-cut-traces"
    own = {
        "rl2": ("min-epsilon-0.4", "q-lambda-0.5"),
        "varibad": ("kl-coef-0.1", "kl-coef-1-latent-size-5"),
        "import": ("pull-coef-0.1", "pull-coef-10"),
    }
    for method, env in itertools.product(
        own, ["map", "distracting-bus", "cooking"]
    ):
        names = own[method]
        if (method, env) == ("import", "cooking"):
            names = "pull-coef-1", "pull-coef-0.01"
        slower = "1e-3" if env == "map" else "3e-4"
        names = *names, f"learning-rate-{slower}"
        expected |= {f"{method}/{env}-{x}/100" for x in (*shared, *names)}
    kl = "learning-rate-2e-3", "kl-coef-4e-5", "kl-coef-4e-3"
    expected |= {f"varibad/coupling-{x}/100" for x in (*shared, *kl)}
    # Of which two go on, so far on these tasks
    two = {f"{method}/map": ("default", "learning-rate-1e-3") for method in own}
    two["rl2/map"] = "priority-0", "q-lambda-0.5"
    two["rl2/distracting-bus"] = "no-cut-traces", "q-lambda-0.5"
    two["varibad/distracting-bus"] = "default", "kl-coef-0.1"
    two["import/distracting-bus"] = "default", "pull-coef-0.1"
    two["varibad/coupling"] = "default", kl[0]
    for name, seed in itertools.product(two, (101, 102)):
        expected |= {f"{name}-{x}/{seed}" for x in two[name]}
    assert set(paths) == {f"results/{name}" for name in expected}


def test_twice_is_twice_the_steps_of_dream():
    dream = importlib.import_module("dream")
    lines = [line for line in sweep.paper() if line[-1] == "twice"]
    assert len(lines) == 6
    for _, (env,), _, _, more, _ in lines:
        steps = int(more.split()[-1])
        defaults = {"total_steps": dream.RunArgs.total_steps}
        defaults |= dream.DEFAULTS.get(env, {})
        assert steps == 2 * defaults["total_steps"]


def test_every_line_of_paper_is_understood(monkeypatch):
    for methods, tasks, settings, seeds, more, suffix in sweep.paper():
        few = methods, tasks[-1:], settings[-1:], seeds[:1], more, suffix
        for job in sweep.listed(*few):
            _, script, *words, _ = job.command()
            monkeypatch.setattr(sys, "argv", [script, *words])
            args = importlib.import_module(Path(script).stem).parse()
            assert args.task.env == tasks[-1]
            assert args.task.setting == settings[-1]
            assert args.run.seed == seeds[0]
            assert args.run.run_dir == job.path


def test_dry_run_prints_what_would_run(tmp_path):
    words = "--methods", "import", "--envs", "map", "--setting", "online"
    words += "--seeds", "1", "--first-seed", "100", "--suffix", "pull-10"
    status, out, _ = run(
        tmp_path, *words, "--dry-run", "--", "--pull-coef", "10"
    )
    assert status == 0
    assert out.split("\n")[0] == "0 of 1 runs are there"
    command = out.split("\n")[1]
    assert "/import_.py --env map --setting online --seed 100" in command
    path = "results/import/map-online-pull-10/100"
    assert command.endswith(f"--pull-coef 10 --run-dir {path} --overwrite")
    assert not [*tmp_path.iterdir()]
