"""Train what is missing, several runs at a time.

    python sweep.py --methods dream rl2 --envs map sign-nav --seeds 5
    python sweep.py --envs map --suffix short -- --total-steps 2000
    python sweep.py --paper --cluster slurm --partition long  # docs/cluster.md

A run is results/<method>/<env>[-<setting>][-<suffix>]/<seed>. What is finished
is skipped, and what was begun goes on. What follows -- is for the methods.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import tyro

import jobs
from envs import SETTINGS, TASKS

METHODS = "dream", "rl2", "varibad", "import"
PAPER = Path(__file__).with_name("docs") / "runs.txt"


@dataclass
class Args:
    methods: tuple[Literal[METHODS], ...] = ("dream",)  # what learns
    envs: tuple[Literal[tuple(TASKS)], ...] = ("map",)  # the tasks
    setting: tuple[Literal[tuple(SETTINGS)], ...] = ("imrl",)  # of trials
    seeds: int = 5  # number of seeds
    first_seed: int = 0  # the first of them
    suffix: str = ""  # of the directories, to tell other options from defaults
    paper: bool = False  # instead: docs/runs.txt, all that is reported
    dry_run: bool = False  # only print what would run
    workers: int = os.cpu_count()  # runs at a time, one thread each
    cluster: Literal["local", "slurm"] = "local"  # this machine, or a cluster
    partition: str | None = None  # of the cluster

    def __post_init__(self):
        if min(self.seeds, self.workers) < 1:
            raise ValueError("--seeds and --workers have to be at least 1")


def paper():
    """The lines of docs/runs.txt, as `listed` takes them."""
    for line in PAPER.read_text().splitlines()[1:]:
        *names, seeds, options, suffix = map(str.strip, line.split("|"))
        methods, tasks, settings = map(str.split, names)
        first, last = map(int, seeds.split("-"))
        yield methods, tasks, settings, range(first, last + 1), options, suffix


def listed(methods, tasks, settings, seeds, options, suffix):
    """The jobs of a line."""
    for method, env, setting, seed in product(methods, tasks, settings, seeds):
        parts = env, setting.replace("imrl", "", setting == "imrl"), suffix
        path = Path("results", method, "-".join(filter(None, parts)), str(seed))
        words = f"--env {env} --setting {setting} --seed {seed} {options}"
        yield jobs.Job(path, words)


def main():
    words = [*sys.argv[1:], "--"]
    split = words.index("--")
    more = shlex.join(words[split + 1 : -1])  # for the methods
    args = tyro.cli(Args, args=words[:split], description=__doc__)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    line = args.methods, args.envs, args.setting, seeds, more, args.suffix
    lines = paper() if args.paper else [line]
    every = dict.fromkeys(job for line in lines for job in listed(*line))
    missing = [job for job in every if not job.finished()]
    print(f"{len(every) - len(missing)} of {len(every)} runs are there")
    if args.dry_run:
        for job in missing:
            print(shlex.join(job.command()))
        return
    try:
        where = args.cluster, args.workers, args.partition
        sys.exit(jobs.watch(jobs.submit(missing, *where)))
    except RuntimeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
