"""Train what is missing, several runs at a time.

    python sweep.py --methods dream rl2 --envs map sign-nav --seeds 5
    python sweep.py --paper --cluster slurm --partition long  # docs/cluster.md

A run is results/<method>/<env>[-<setting>][-<suffix>]/<seed>. What is finished
is skipped, and what was begun goes on. What runs print is in runs/sweep.
"""

import os
import shlex
import signal
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import tyro

import jobs
from envs import SETTINGS, TASKS

METHODS = "dream", "rl2", "varibad", "import"
GRID = "coupling", "bus", "map", "distracting-bus", "cooking"
IMRL = "imrl", "imrl-rewards"
TWICE = {"bus": 1_600_000, "map": 1_000_000, "distracting-bus": 2_000_000}
TWICE |= {"cooking": 5_000_000, "sign-nav": 2_000_000}
PAPER = [  # methods, tasks, settings, seeds, further options, their suffix
    (METHODS, GRID, IMRL, range(5), "", ""),
    (METHODS, ["sign-nav"], IMRL, range(3), "", ""),
    (METHODS, ["map"], ["standard", "online"], range(3), "", ""),
    (METHODS[1:], ["bus-show-id"], ["imrl"], [0], "", ""),
]
for env, steps in TWICE.items():
    more = f"--total-steps {steps}"
    PAPER += [(METHODS[1:], [env], IMRL, [0], more, "twice")]
for A in 4, 8, 16, 32:
    more = f"--num-actions {A} --total-steps 32000 --eval-every 128"
    PAPER += [(["rl2"], ["coupling"], ["imrl"], range(10), more, f"{A}")]
    more += " --explore-after 0"
    PAPER += [(["dream"], ["coupling"], ["imrl"], range(10), more, f"{A}")]


@dataclass
class Args:
    methods: tuple[Literal[METHODS], ...] = ("dream",)  # what learns
    envs: tuple[Literal[tuple(TASKS)], ...] = ("map",)  # the tasks
    setting: tuple[Literal[tuple(SETTINGS)], ...] = ("imrl",)  # of trials
    seeds: int = 5  # number of seeds
    first_seed: int = 0  # the first of them
    options: str = ""  # further options of the methods, in one string
    suffix: str = ""  # what these are called in the names of directories
    paper: bool = False  # instead: all that README.md and docs report
    dry_run: bool = False  # only print what would run
    workers: int = os.cpu_count()  # runs at a time, one thread each
    cluster: Literal["local", "slurm"] = "local"  # this machine, or a cluster
    partition: str | None = None  # of the cluster


def listed(methods, tasks, settings, seeds, options, suffix):
    """The jobs of a line of PAPER."""
    for method, env, setting, seed in product(methods, tasks, settings, seeds):
        parts = env, setting.replace("imrl", "", setting == "imrl"), suffix
        path = Path("results", method, "-".join(filter(None, parts)), str(seed))
        words = f"--env {env} --setting {setting} --seed {seed} {options}"
        yield jobs.Job(path, words)


def main():
    args = tyro.cli(Args, description=__doc__)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    line = args.methods, args.envs, args.setting, seeds
    lines = PAPER if args.paper else [(*line, args.options, args.suffix)]
    every = dict.fromkeys(job for line in lines for job in listed(*line))
    missing = [job for job in every if not job.finished()]
    print(f"{len(every) - len(missing)} of {len(every)} runs are there")
    if args.dry_run:
        print("\n".join(shlex.join(job.command()) for job in missing))
        return

    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: jobs.STOP.append(1))
    try:
        if args.cluster == "slurm":
            futures = jobs.on_slurm(missing, args.workers, args.partition)
        else:
            futures = jobs.here(missing, args.workers)
    except (ImportError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    failed = jobs.watch(futures)
    sys.exit(130 if jobs.STOP else min(failed, 1))


if __name__ == "__main__":
    main()
