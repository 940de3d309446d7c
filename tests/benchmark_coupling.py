"""What coupling costs: python tests/benchmark_coupling.py

Trains DREAM and RL^2 on coupling with 4 to 32 actions, five seeds each, into
results/<method>/coupling-<A>/<seed>, and prints as a table after how many
trials a return of 0.95 is first reached and held for three evaluations. Runs
that are there already, whole, are not made again.
"""

import csv
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STEPS = 32_000  # two in a trial
OPTIONS = ["--env", "coupling", "--total-steps", STEPS, "--eval-every", 128]
OPTIONS += ["--checkpoint-minutes", 0]
ACTIONS, SEEDS = (4, 8, 16, 32), range(5)
METHODS = {"dream": ["--explore-after", 0], "rl2": []}


def read(run):
    """The rows of progress.csv, as far as there are any."""
    with suppress(FileNotFoundError), open(run / "progress.csv") as file:
        return [*csv.DictReader(file)]
    return []


def trials_until_learned(method, num_actions, seed):
    """Infinite, if it is not."""
    run = ROOT / "results" / method / f"coupling-{num_actions}" / str(seed)
    rows = read(run)
    if not rows or int(rows[-1]["env_steps"]) < STEPS:
        command = [sys.executable, f"{method}.py", *OPTIONS, *METHODS[method]]
        command += ["--num-actions", num_actions, "--seed", seed]
        command += ["--run-dir", run.relative_to(ROOT), "--overwrite"]
        words = [str(word) for word in command]
        quiet = subprocess.DEVNULL
        subprocess.run(words, cwd=ROOT, stderr=quiet, stdout=quiet, check=True)
        rows = read(run)
    good = [float(row["test_return"]) >= 0.95 for row in rows]
    for row, held in zip(rows, zip(good, good[1:], good[2:])):
        if all(held):
            return int(row["trials"])
    return np.inf


if __name__ == "__main__":
    print("| A | DREAM | RL² |\n| --- | --- | --- |")
    for num_actions in ACTIONS:
        cells = []
        for method in METHODS:
            counts = [
                trials_until_learned(method, num_actions, seed)
                for seed in SEEDS
            ]
            median, never = np.median(counts), np.isinf(counts).sum()
            learned = np.isfinite(median)
            cells.append(f"{median:,.0f}" if learned else f"> {STEPS // 2:,}")
            if never:
                cells[-1] += f" ({never} of 5 never)"
        print(f"| {num_actions} | " + " | ".join(cells) + " |", flush=True)
