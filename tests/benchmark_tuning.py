"""The rule of docs/tuning.md: what each configuration earns, which is chosen.

python tests/benchmark_tuning.py         # the table
python tests/benchmark_tuning.py --next  # lines of docs/runs.txt for rule 2
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmark_descriptions import row  # noqa: E402
from benchmark_results import each  # noqa: E402

import plot  # noqa: E402
import sweep  # noqa: E402

SEEDS = 100, 101, 102
HEAD = "method", "task", "options", *map(str, SEEDS), "mean", "chosen"


def configurations():
    """{(method, task): {suffix: options}} of docs/runs.txt, in its order."""
    found = {}
    for methods, tasks, _, seeds, options, suffix in sweep.paper():
        for pair in product(methods, tasks):
            if seeds[0] >= SEEDS[0]:
                found.setdefault(pair, {})[suffix] = options
    return found


def earned(results, method, task, suffixes):
    """{suffix: mean over the last tenth of seeds 100, 101, 102, (3,)}, nan
    where a run is missing."""
    table = {suffix: np.full(len(SEEDS), np.nan) for suffix in suffixes}
    for suffix, (k, seed) in product(suffixes, enumerate(SEEDS)):
        run = results / method / f"{task}-{suffix}" / str(seed)
        if (run / "progress.csv").exists():
            rows = plot.read_csv(run / "progress.csv")
            (table[suffix][k],) = plot.last_tenth([rows])
    return table


def best_two(table):
    """Rule 2: those that go on to seeds 101 and 102, none while one of seed 100
    is missing; of equals the first."""
    first = {suffix: returns[0] for suffix, returns in table.items()}
    if np.isnan([*first.values()]).any():
        return []
    return sorted(first, key=first.get, reverse=True)[:2]


def chosen(table):
    """Rule 3: the better of the two over three seeds, of equals the one that
    stands first in the table; None while a run is missing."""
    means = {x: table[x].mean() for x in table if x in best_two(table)}
    if not means or np.isnan([*means.values()]).any():
        return None
    return max(means, key=means.get)


def main():
    results = ROOT / "results"
    every = configurations()
    tables = {pair: earned(results, *pair, every[pair]) for pair in every}
    if sys.argv[1:] == ["--next"]:
        for pair, table in tables.items():
            for x in best_two(table):
                cells = *pair, "imrl", "101-102", every[pair][x], x
                print(" | ".join(cells))
        return
    row(*HEAD)
    row(*["---"] * len(HEAD))
    for (method, task), table in tables.items():
        best = chosen(table)
        for suffix, returns in table.items():
            cells = [each([x], "z.2f") for x in [*returns, returns.mean()]]
            cells.append("yes" if suffix == best else "")
            options = f"`{every[method, task][suffix] or 'defaults'}`"
            row(plot.METHODS[method], f"`{task}`", options, *cells)


if __name__ == "__main__":
    main()
