"""Train what is missing, several runs at a time.

    python sweep.py --methods dream rl2 --envs map sign-nav --seeds 5
    python sweep.py --suffix gamma-0.9 -- --gamma 0.9
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
BEFORE = {"--help", "--eval", "--env", "--seed", "--setting", "--run-dir"}


@dataclass
class Args:
    methods: tuple[Literal[METHODS], ...] = ("dream",)  # what learns
    envs: tuple[Literal[tuple(TASKS)], ...] = ("map",)  # the tasks
    setting: tuple[Literal[tuple(SETTINGS)], ...] = ("imrl",)  # kinds of trials
    seeds: int = 5  # number of seeds
    first_seed: int = 0  # the first of them
    suffix: str = ""  # of the folders <env>-<suffix>; says what follows --
    paper: bool = False  # instead of these, all of docs/runs.txt
    dry_run: bool = False  # only print what would run
    workers: int = os.cpu_count()  # runs at a time, one thread each
    cluster: Literal["local", "slurm"] = "local"  # this machine, or a cluster
    partition: str | None = None  # of the Slurm cluster


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


def check(args, more):
    """Raises RuntimeError where more would be run, or less, than is said."""
    if min(args.seeds, args.workers) < 1:
        raise RuntimeError("--seeds and --workers have to be at least 1")
    given = {word.split("=")[0].replace("_", "-") for word in more}
    if given & BEFORE:
        raise RuntimeError(f"not after --: {sorted(given & BEFORE)}")
    if more and (args.paper or not args.suffix):
        raise RuntimeError("options after -- go with a --suffix only")
    # What follows the task in the folders of another setting or task
    taken = [x.removeprefix(f"{env}-") for x in TASKS for env in args.envs]
    if "/" in args.suffix or args.suffix.startswith((*SETTINGS, *taken)):
        raise RuntimeError("--suffix: without /, settings and tasks")


def main():
    split = [*sys.argv, "--"].index("--")
    args = tyro.cli(Args, args=sys.argv[1:split], description=__doc__)
    more = sys.argv[split + 1 :]  # for the methods
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    line = args.methods, args.envs, args.setting, seeds, shlex.join(more)
    try:
        check(args, more)
        lines = paper() if args.paper else [(*line, args.suffix)]
        every = dict.fromkeys(job for line in lines for job in listed(*line))
        missing = [job for job in every if not job.finished()]
        print(f"{len(every) - len(missing)} of {len(every)} runs are there")
        if not args.dry_run:
            where = args.cluster, args.workers, args.partition
            sys.exit(jobs.watch(jobs.submit(missing, *where)))
        for job in missing:
            print(shlex.join(job.command()))
    except RuntimeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
