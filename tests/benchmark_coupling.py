"""What coupling costs: python tests/benchmark_coupling.py

Prints after how many trials a return of 0.95 is first reached and held for
three evaluations, where coupling has A actions, of the runs
results/<method>/coupling-<A>/<seed> that docs/runs.txt lists, and of
coupling-<A>-twice, which are twice as long; and the exponent p of trials ~ A^p,
with its 95 % interval. Then the same of the runs
results/<method>/coupling-<A>-exploration/<seed>, which begin with what others,
results/<method>/coupling-<A>-execution/<seed>, have learned of execution alone:

    python tests/benchmark_coupling.py execution dream --env coupling \
        --num-actions 8 --total-steps 32000 \
        --run-dir results/dream/coupling-8-execution/0
    python tests/benchmark_coupling.py exploration dream --env coupling \
        --num-actions 8 --total-steps 32000 --eval-every 128 \
        --explore-after 0 --run-dir results/dream/coupling-8-exploration/0

(without --explore-after for rl2). In `execution`, DREAM is told the id in each
trial, and RL2 explores by the action that shows the problem, in each trial.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmark_changed import run  # noqa: E402
from benchmark_descriptions import row  # noqa: E402
from benchmark_statistics import median  # noqa: E402

import plot  # noqa: E402

ACTIONS, METHODS = (4, 8, 16, 32), ("dream", "rl2")
LEARNED = """
    task_dir, seed = args.run.run_dir.parent, str(run.seed)
    part = task_dir.name.replace("exploration", "execution")
    with loading(task_dir.with_name(part) / seed / "agent.pt") as saved:
        saved = saved["agent"].items()
        agent.load_state_dict(
            {name: x for name, x in saved if name.startswith(BEGINNING)},
            strict=False,
        )
"""
CHANGES = {  # of the scripts, {what stands there: instead}
    ("execution", "dream"): {
        "half = torch.rand(n) < 0.5": "half = torch.ones(n, dtype=torch.bool)",
        'explore = count["trials"] >= args.dream.explore_after': (
            "explore = False"
        ),
    },
    ("exploration", "dream"): {
        "    agent = Dream(task, args)\n    # Not": (
            "    agent = Dream(task, args)"
            + LEARNED.replace("BEGINNING", '("f.", "pi_exec.")')
            + "    # Not"
        ),
    },
    ("execution", "rl2"): {
        "tau_exp, info = act(agent, task, start, epsilons[0])": (
            "last = torch.eye(len(task.actions))[-1]\n    "
            "ask = lambda tau, state: (last.expand(task.num_envs, 1, -1), 0)\n"
            "    tau_exp, info = act(ask, task, start, 0)"
        ),
        ', "exploration": t < explored}': "}",
        'loss["execution"] + loss["exploration"]': 'loss["execution"]',
    },
    ("exploration", "rl2"): {
        "    agent = Agent(task, args)\n    # Not": (
            "    agent = Agent(task, args)"
            + LEARNED.replace("BEGINNING", '""')
            + "    # Not"
        ),
    },
}


def trials_until_learned(rows):
    """Infinite, if it is not; who begins with it has it at the next row."""
    good = rows["test_return"] >= 0.95
    held = good[:-2] & good[1:-1] & good[2:]
    return rows["trials"][max(held.argmax(), 1)] if held.any() else np.inf


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


def table(results, suffix):
    """Of those A of which there are runs."""
    counts = {method: {} for method in METHODS}
    row("A", *(plot.METHODS[method] for method in METHODS))
    row(*["---"] * (1 + len(METHODS)))
    for A in ACTIONS:
        runs = plot.read_runs(results, f"coupling-{A}{suffix}")
        if not runs:
            continue
        for method in METHODS:
            every = [trials_until_learned(rows) for rows in runs[method]]
            counts[method][A] = np.array(every)
        every = [counts[method][A] for method in METHODS]
        row(str(A), *(median(x, "not reached") for x in every))
    if len(counts["dream"]) < 2:
        return
    cells = []
    for method in METHODS:
        low, high = interval(counts[method])
        p = exponent(counts[method])
        cells.append(f"{p:.2f} [{low:.2f}, {high:.2f}]")
    row("p", *cells)


def main():
    if len(sys.argv) == 1:
        for suffix in "", "-twice", "-exploration":
            table(ROOT / "results", suffix)
            print()
        return
    part, method, *words = sys.argv[1:]
    if (part, method) not in CHANGES:
        sys.exit(__doc__)
    sys.exit(run(method, CHANGES[part, method], words))


if __name__ == "__main__":
    main()
