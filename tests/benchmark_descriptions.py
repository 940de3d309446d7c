"""Tables and figures of docs/descriptions.md, of the runs under results/dream.

python tests/benchmark_descriptions.py
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmark_results import each, steps_to_95  # noqa: E402

import plot  # noqa: E402

COLUMNS = {"test return": "test_return", "with the id": "return_with_id"}
COLUMNS["with it, unseen"] = "return_with_id_unseen"
SEEN = {
    "kitchen and instruction seen": "return_seen_seen",
    "instruction unseen": "return_seen_unseen",
    "kitchen unseen": "return_unseen_seen",
    "both unseen": "return_unseen_unseen",
}
IDEAL = {  # steps of an exploration with 0, 1, 2, 3 attributes told
    # Riding 3, 2, 1, 0 buses: two steps to where the first goes, four (back, to
    # the next, there) to where each other goes, and the end.
    "distracting-bus": (11, 7, 3, 1),
    # Opening 3, 2, 1, 0 fridges, and the end; the mean over which are left: the
    # middle one is one step away, the others two, from one to the next is one.
    "cooking": (8, (5 + 5 + 7) / 3, (4 + 3 + 4) / 3, 1),
}


def runs(name):
    """The progress.csv of each seed that has ended."""
    return plot.read_runs(ROOT / "results", name).get("dream", [])


def row(*cells):
    print("|", " | ".join(cells), "|")


def of_forms(env, names, columns):
    """Table and figure: what is learned from each form. names: {form: task}."""
    if not all(map(runs, names.values())):
        return
    row("form", *columns, "95 % after")
    row(*["---"] * (len(columns) + 2))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for i, (form, name) in enumerate(names.items()):
        seeds = runs(name)
        known = seeds[0].dtype.names
        cells = [
            each(plot.last_tenth(seeds, column)) if column in known else "–"
            for column in columns.values()
        ]
        steps = each([steps_to_95(rows) for rows in seeds], ",.0f")
        row(form, *cells, steps)
        with_id = [x for x in COLUMNS.values() if x in known][-1]
        for ax, column in zip(axes, (with_id, "test_return")):
            grid = np.unique(np.concatenate([x["env_steps"] for x in seeds]))
            grid = grid[grid <= min(x["env_steps"][-1] for x in seeds)]
            y = [np.interp(grid, x["env_steps"], x[column]) for x in seeds]
            style = {"color": plot.COLORS[i], "marker": plot.MARKERS[i]}
            style |= {"markevery": len(grid) // 8 + 1}
            ax.plot(grid, np.mean(y, 0), label=form, **style)
            ax.set(xlabel="environment steps", ylim=(-0.5, None))
    unseen = " (one-hot: trained ids, others: unseen ones)"
    axes[0].set_title("with the id" + unseen * with_id.endswith("unseen"))
    axes[1].set_title("test: exploring, without the id")
    axes[0].set_ylabel("return")
    for ax in axes:
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:.1f} M")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4,
                  loc="outside lower center")  # fmt: skip
    plot.save(figure, ROOT / "figures", f"descriptions-{env}")


def of_told(env):
    """Table and figure: what one agent does with N attributes told."""
    seeds = runs(f"{env}-told-3")
    if not seeds:
        return
    row("facts told", "exploration steps", "ideal", "test return")
    row(*["---"] * 4)
    steps = []
    for n in range(4):
        steps.append(plot.last_tenth(seeds, f"exploration_steps_told_{n}"))
        returns = plot.last_tenth(seeds, f"test_return_told_{n}")
        ideal = f"{IDEAL[env][n]:.1f}"
        row(str(n), each(steps[-1], ".1f"), ideal, each(returns))
    figure, ax = plt.subplots(figsize=(5, 3.6))
    ax.plot(range(4), steps, "o-", color=plot.COLORS[0], label="DREAM, a seed")
    ax.plot(range(4), IDEAL[env], "k--", label="ideal")
    ax.set(xticks=range(4), xlabel="attributes told", ylim=(0, 21))
    ax.set_ylabel("exploration steps")
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1]))
    ax.legend(handles.values(), handles.keys())
    plot.save(figure, ROOT / "figures", f"told-{env}")


def main():
    names = {"one-hot": "distracting-bus"}
    for form in "attributes", "words", "picture":
        names[form] = f"distracting-bus-problem-id-{form}"
    of_forms("distracting-bus", names, COLUMNS)
    name = "cooking-problem-id-words-instruction-words"
    names = {"one-hot": "cooking", "words": name}
    of_forms("cooking", names, COLUMNS | SEEN)
    names = {"one-hot": "sign-nav", "picture": "sign-nav-instruction-picture"}
    of_forms("sign-nav", names, COLUMNS)
    for env in IDEAL:
        of_told(env)


if __name__ == "__main__":
    main()
