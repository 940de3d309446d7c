"""Prints the table of docs/results.md that has intervals for all methods.

python tests/benchmark_statistics.py
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmark_results import markdown, steps_to_95  # noqa: E402

import envs  # noqa: E402
import plot  # noqa: E402

HEAD = "task", "method", "seeds", "return after all steps"
HEAD += "return in equal time", "steps to 95 % of the optimum"
SETTINGS = {"": "", "-imrl-rewards": ", with rewards"}


def interval(values):
    """The mean over seeds, and the 2.5 and 97.5 % quantiles of the means of
    10,000 draws of as many seeds, with replacement."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    draws = rng.choice(values, (10_000, len(values))).mean(1)
    return values.mean(), *np.quantile(draws, (0.025, 0.975))


def until(rows, seconds):
    """The mean of the last tenth of the evaluations up to then."""
    return plot.last_tenth([rows[rows["seconds"] <= seconds]])[0]


def median(counts, beyond):
    """The median, or `beyond` where it is infinite; how many seeds never got
    there, which is an infinite count."""
    middle, never = np.median(counts), np.isinf(counts).sum()
    text = f"{middle:,.0f}" if middle < np.inf else beyond
    return text + f" ({never} of {len(counts)} never)" * bool(never)


def median_steps(seeds):
    """To 95 % of the optimum, the median; a seed that never gets there takes
    longer than all that do, and longer than it was trained."""
    steps = np.array([steps_to_95(rows) for rows in seeds])
    shortest = min(rows["env_steps"][-1] for rows in seeds)
    return median(np.nan_to_num(steps, nan=np.inf), f"> {shortest:,.0f}")


def with_interval(values):
    mean, low, high = interval(values)
    bounds = f" [{low:z.2f}, {high:z.2f}]" if len(values) > 1 else ""
    return f"{mean:z.2f}{bounds}"


def rows(results, task):
    """The cells of each method on a task, without and with rewards."""
    runs = {
        (method, setting): seeds
        for setting in SETTINGS
        for method, seeds in plot.read_runs(results, task + setting).items()
    }
    ends = [x["seconds"][-1] for seeds in runs.values() for x in seeds]
    for method, setting in product(plot.METHODS, SETTINGS):
        if (method, setting) in runs:
            seeds = runs[method, setting]
            yield [
                f"`{task}`",
                plot.METHODS[method] + SETTINGS[setting],
                str(len(seeds)),
                with_interval(plot.last_tenth(seeds)),
                with_interval([until(x, min(ends)) for x in seeds]),
                median_steps(seeds),
            ]


def table(results):
    """Its lines, in Markdown."""
    cells = [row for task in envs.TASKS for row in rows(results, task)]
    return markdown(HEAD, cells)


if __name__ == "__main__":
    print("\n".join(table(ROOT / "results")))
