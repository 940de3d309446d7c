"""How sweep.py runs a training to its end, on this machine or on Slurm."""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

STOP = []  # once there is something in it, the jobs on this machine end
STOPPED = "stopped"  # what they say then
START = time.time()
# Trainings are deaf to Ctrl-C and to Slurm's warnings. A job ends its training
# by SIGKILL, which does no harm, since every file is written whole.
DEAF = ["sh", "-c", 'trap "" INT TERM USR2; exec "$@"', "sh"]


@dataclass(frozen=True)
class Job:
    path: Path  # results/<method>/<task>/<seed>
    options: str  # of the method

    @property
    def log(self):
        """What it prints; locked as long as the training runs."""
        return Path("runs/sweep", *self.path.parts[1:]).with_suffix(".log")

    def progress(self):
        """Environment steps made, steps to be made, and the test return."""
        try:
            config = json.loads((self.path / "config.json").read_text())
            lines = (self.path / "progress.csv").read_text().splitlines()
            row = dict(zip(lines[0].split(","), lines[-1].split(",")))
            of_run = config.get("run", config)  # older: no groups
            steps = int(row["env_steps"]), int(of_run["total_steps"])
            return *steps, float(row["test_return"])
        except (OSError, LookupError, ValueError, TypeError, AttributeError):
            return 0, None, None

    def begun(self):
        return (self.path / "checkpoint.pt").exists()

    def finished(self):
        """Whether all is written: the checkpoint is removed last."""
        steps, total, _ = self.progress()
        return total is not None and steps >= total and not self.begun()

    def started(self):
        """Whether it has, since this sweep has."""
        return self.log.exists() and self.log.stat().st_mtime >= START

    def __str__(self):
        steps, total, test_return = self.progress()
        if total is None:
            return str(self.path)
        score = f"test return {test_return:.2f}"
        return f"{self.path}  {steps:,} of {total:,} steps, {score}"

    def command(self):
        method = self.path.parts[1].replace("import", "import_")
        script = os.path.relpath(Path(__file__).with_name(f"{method}.py"))
        words = [*shlex.split(self.options), "--run-dir", str(self.path)]
        words += ["--resume" if self.begun() else "--overwrite"]
        return [sys.executable, script, *words]

    def __call__(self):
        """Train to the end; RuntimeError has the last line that was printed."""
        if STOP:
            raise RuntimeError(STOPPED)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a+") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError("another sweep is running it") from None
            if self.finished():
                return
            kept = (self.path / "agent.pt").exists() and not self.begun()
            if kept and self.progress()[1] is None:
                raise RuntimeError("config.json or progress.csv is damaged")
            start = log.tell()
            print(shlex.join(self.command()), file=log, flush=True)
            quiet = {"OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "10"}
            training = subprocess.Popen(
                DEAF + self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | quiet,
            )
            try:
                while training.poll() is None and not STOP:
                    time.sleep(0.1)
            finally:  # also when submitit leaves, to be queued again
                training.kill()
                status = training.wait()
                for part in self.path.glob("*.part"):
                    part.unlink()
            log.seek(start)
            if status < 0:
                killed = f"killed by signal {-status}"
                raise RuntimeError(STOPPED if STOP else killed)
            if status > 0:
                raise RuntimeError(last_line(log.read()))
            (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def checkpoint(self):
        """What submitit queues again when Slurm interrupts it: the same."""
        from submitit.helpers import DelayedSubmission  # optional

        return DelayedSubmission(self)


def last_line(text):
    """The last that says something; of tyro's box, all above its first rule."""
    _, box, text = text.rpartition("╭")
    lines = [line.strip("│ ") for line in re.split(r"[\r\n]", text)]
    if box:
        words = takewhile(partial(re.search, r"\w"), lines[1:])
        return " ".join(words)
    return [line for line in lines if re.search(r"\w", line)][-1]


def reason(text):
    """Of the text of an error. In submitit's there is a whole traceback."""
    errors = re.findall(r"^\w+Error: .*", text, re.MULTILINE)
    if errors:
        return errors[-1].removeprefix("RuntimeError: ")
    return " ".join(text.splitlines()[:2])


def submit(jobs, cluster, workers, partition):
    """{job: its future}, of which workers run at a time."""
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: STOP.append(True))
    if not jobs:
        return {}
    if cluster == "slurm":
        return on_slurm(jobs, workers, partition)
    pool = ThreadPoolExecutor(workers)
    return {job: pool.submit(job) for job in jobs}


def on_slurm(jobs, workers, partition):
    """The same, in a job array. Raises RuntimeError where that fails."""
    try:
        import cloudpickle
        import submitit
    except ImportError:
        message = "--cluster slurm: pip install -r requirements-sweep.txt"
        raise RuntimeError(message) from None
    # So that it is found by jobs in whatever directory
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # A folder of its own: where Slurm counts anew, ids of jobs come again.
    folder = f"runs/sweep/slurm/{START:.0f}"
    executor = submitit.SlurmExecutor(folder, max_num_timeout=999)
    executor.update_parameters(
        job_name="sweep",
        partition=partition,
        time=24 * 60,  # minutes, after which it is queued again
        mem="8GB",
        cpus_per_task=1,
        array_parallelism=workers,
        additional_parameters={"requeue": True},
    )
    with executor.batch():
        return {job: executor.submit(job) for job in jobs}


def watch(futures):
    """Print a table until all jobs are done, or STOP. Returns exit status."""
    left, done, failed, before = dict(futures), [], [], None
    while True:
        for job, future in futures.items():
            if job in left and future.done():
                error = future.exception()
                if str(error) == STOPPED:
                    continue
                del left[job]
                if error:
                    failed.append((job, reason(str(error))))
                else:
                    done.append(job)
        runs = [job for job in left if job.started()]
        word = "stopped" if STOP else "run"
        counts = f"{len(runs)} {word}, {len(left) - len(runs)} wait, "
        counts += f"{len(done)} done, {len(failed)} failed"
        rows = [f"failed  {job.path}  {line}" for job, line in failed]
        rows += [f"{'stopped' if STOP else 'runs   '} {job}" for job in runs]
        rows += [f"done    {job}" for job in done[::-1]]
        over = STOP or not left
        rows = rows if over else rows[: shutil.get_terminal_size().lines - 2]
        if sys.stdout.isatty():
            print(end="\x1b[H\x1b[J")  # a clean screen, from the top
        if sys.stdout.isatty() or counts != before:
            print("\n".join([counts, *rows]), flush=True)
        if over:
            return 130 if STOP else min(len(failed), 1)
        before = counts
        time.sleep(1)
