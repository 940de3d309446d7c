"""Prints the table of docs/results.md that has DREAM's runs seed by seed.

python tests/benchmark_results.py
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import envs  # noqa: E402
import plot  # noqa: E402

HEAD = "task", "seeds", "last test return", "with the id", "exploration steps"
HEAD += "environment steps", "steps to 95 % of the optimum", "minutes to it"


def steps_to_95(rows, column="env_steps"):
    """What has gone by until the test return is first 95 % of the optimum."""
    enough = rows["test_return"] >= 0.95 * rows["optimal_return"]
    return rows[column][enough.argmax()] if enough.any() else np.nan


def each(values, form=".3f"):
    """Those of the seeds; – where one is not known."""
    return " / ".join("–" if np.isnan(x) else f"{x:{form}}" for x in values)


def markdown(head, rows):
    """A table, its lines."""
    every = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in every]


def row(task):
    """The cells of a task, or None where there are no runs of DREAM."""
    folder = ROOT / "results/dream" / task
    paths = sorted(folder.glob("*/progress.csv"))
    seeds = [plot.read_csv(path) for path in paths]

    def last(column, form):
        return each((rows[column][-1] for rows in seeds), "z" + form)

    minutes = [steps_to_95(rows, "seconds") / 60 for rows in seeds]
    return seeds and [
        f"`{task}`",
        ", ".join(path.parent.name for path in paths),
        last("test_return", ".3f"),
        last("return_with_id", ".2f"),
        last("exploration_steps", ".1f"),
        last("env_steps", ",.0f"),
        each((steps_to_95(rows) for rows in seeds), ",.0f"),
        each(minutes, ".1f"),
    ]


def table():
    """Its lines, in Markdown."""
    return markdown(HEAD, filter(None, map(row, envs.TASKS)))


if __name__ == "__main__":
    print("\n".join(table()))
