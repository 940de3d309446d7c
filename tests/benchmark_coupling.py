"""What coupling costs: python tests/benchmark_coupling.py

Prints after how many trials a return of 0.95 is first reached and held for
three evaluations, where coupling has A actions, of the runs
results/<method>/coupling-<A>/<seed> that docs/runs.txt lists; and the exponent
p of trials ~ A^p, with its 95 % interval.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmark_descriptions import row  # noqa: E402
from benchmark_statistics import median  # noqa: E402

import plot  # noqa: E402

ACTIONS, METHODS = (4, 8, 16, 32), ("dream", "rl2")


def trials_until_learned(rows):
    """Infinite, if it is not."""
    good = rows["test_return"] >= 0.95
    held = good[:-2] & good[1:-1] & good[2:]
    return rows["trials"][held.argmax()] if held.any() else np.inf


def exponent(counts):
    """The slope of log(median over seeds) along log A; counts: {A: (seeds,)}.
    Medians that were not reached are left out."""
    medians = np.array([np.median(x) for x in counts.values()])
    known = np.isfinite(medians)
    actions = np.log([*counts])[known]
    return np.polyfit(actions, np.log(medians[known]), 1)[0]


def interval(counts):
    """The 2.5 and 97.5 % quantiles of the exponent in 2,000 draws of as many
    seeds, with replacement."""
    rng = np.random.default_rng(0)
    found = [
        exponent({A: rng.choice(x, len(x)) for A, x in counts.items()})
        for _ in range(2000)
    ]
    return np.quantile(found, (0.025, 0.975))


def main(results):
    counts = {method: {} for method in METHODS}
    for A in ACTIONS:
        runs = plot.read_runs(results, f"coupling-{A}")
        for method in METHODS:
            every = [trials_until_learned(rows) for rows in runs[method]]
            counts[method][A] = np.array(every)
    row("A", *(plot.METHODS[method] for method in METHODS))
    row(*["---"] * (1 + len(METHODS)))
    for A in ACTIONS:
        every = [counts[method][A] for method in METHODS]
        row(str(A), *(median(x, "not reached") for x in every))
    cells = []
    for method in METHODS:
        low, high = interval(counts[method])
        p = exponent(counts[method])
        cells.append(f"{p:.2f} [{low:.2f}, {high:.2f}]")
    row("p", *cells)


if __name__ == "__main__":
    main(ROOT / "results")
