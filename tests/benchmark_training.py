"""Speed of training: python tests/benchmark_training.py, with nothing else on.

Prints, as CSV, for each task on one and on two threads, and for map with 16,
64 and 256 copies: environment steps and updates per second of training, and
peak memory (GiB), with a replay that is not yet full. Everything learns from
the start; each is the median of several stretches of a run, after a warm-up.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STEPS = {"coupling": 1_000, "sign-nav": 8_000}  # in a stretch
RUNS = [
    *(
        (env, threads, 64)
        for threads in (1, 2)
        for env in (
            "coupling",
            "bus",
            "map",
            "distracting-bus",
            "cooking",
            "sign-nav",
        )
    ),
    *(("map", 1, num_envs) for num_envs in (16, 256)),
]


def measure(env, threads, num_envs, stretches=5):
    every = STEPS.get(env, 20_000)
    with tempfile.TemporaryDirectory() as run:
        command = [sys.executable, "dream.py", "--env", env]
        command += ["--num-envs", num_envs, "--explore-after", 0]
        command += [
            "--updates-per-round",
            num_envs // (4 if env == "sign-nav" else 8),
        ]
        command += ["--eval-every", every, "--total-steps", every * stretches]
        command += ["--run-dir", run, "--overwrite"]
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        rows = [*csv.DictReader(open(Path(run, "progress.csv")))]
    names = "seconds", "env_steps", "updates"
    table = np.array([[float(row[name]) for name in names] for row in rows])
    seconds, steps, updates = np.diff(table, axis=0)[1:].T
    speeds = np.median(steps / seconds), np.median(updates / seconds)
    return *speeds, usage.ru_maxrss / 2**20


if __name__ == "__main__":
    print("env,threads,num_envs,env_steps_per_s,updates_per_s,peak_gb")
    for setting in RUNS:
        steps, updates, peak = measure(*setting)
        print(*setting, f"{steps:.0f},{updates:.1f},{peak:.1f}", sep=",")
