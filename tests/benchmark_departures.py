"""Trains DREAM without one of its departures from the paper.

    python tests/benchmark_departures.py heads --env map --seed 100

What follows the name is for dream.py, a changed copy of which is run. What is
an option of dream.py is left out by that option. Without a name, the tables of
docs/departures.md are printed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmark_changed import changed, run  # noqa: E402
from benchmark_results import each, markdown, steps_to_95  # noqa: E402

import envs  # noqa: E402
import plot  # noqa: E402

HEAD = "task", "without", "seeds", "steps to 95 %", "updates to 95 %"
HEAD += ("last tenth",)
TABLES = {  # under results/: runs without departures, and with all of them
    "departures": "dream/{}",
    "departures-second-form": "departures-second-form/{}/dream",
}
WITHOUT = {  # departure: parts of dream.py, and what stands there instead
    "f-start": {
        "task.num_problems, hidden, 0.02)": "task.num_problems, hidden, 1.0)",
        "args.dream.bottleneck_coef * kl": (
            "args.dream.bottleneck_coef * kl.clamp(min=10)"
        ),
    },
    "f-rate": {"1 if described else 4": "1"},
    "transition": {
        "x = self.transition(torch.cat([prev_s, action, s], 2))": (
            "x = s + action"
        ),
    },
    "plain-sums": {"plain = 0.2 * s": "plain = 0 * s"},
    "heads": {"layers = 2 * hidden, 2 * hidden": "layers = (hidden,)"},
    "attention": {
        "mlp(x_size + hidden, *layers": (
            "mlp(x_size + parts * hidden, *layers"
        ),
        "torch.cat([x, token], 2)": "torch.cat([x, tokens.flatten(2)], 2)",
    },
    "end-redrawn": {'if task.actions[-1] == "end":': "if False:"},
    "average": {  # a copy every 50 updates, and the agent itself is tested
        "average.lerp_(p.detach(), q.target_rate)": (
            'average.lerp_(p.detach(), float(count["updates"] % 50 == 0))'
        ),
        "evaluate(target, args, final)": "evaluate(agent, args, final)",
        '"agent": target.state_dict()': '"agent": agent.state_dict()',
    },
}


def without(name):
    """The text of dream.py without that departure."""
    return changed("dream", WITHOUT[name])


def cells(task, name, folder):
    """Those of the runs <folder>/<seed>."""
    paths = sorted(folder.glob("*/progress.csv"))
    seeds = [plot.read_csv(path) for path in paths]
    return [
        f"`{task}`",
        name,
        ", ".join(path.parent.name for path in paths),
        each((steps_to_95(seed) for seed in seeds), ",.0f"),
        each((steps_to_95(seed, "updates") for seed in seeds), ",.0f"),
        each(plot.last_tenth(seeds), "z.2f"),
    ]


def table(form, dream):
    """Of each task DREAM as it is, the runs dream/<seed>, then without each
    departure, results/<form>/<task>/<name>/<seed>."""
    rows = []
    for task in envs.TASKS:
        whole = ROOT / "results" / dream.format(task)
        folders = sorted((ROOT / "results" / form / task).glob("*/"))
        if folders and whole.exists():
            rows.append(cells(task, "–", whole))
        rows += [cells(task, f"`{x.name}`", x) for x in folders if x != whole]
    return markdown(HEAD, rows)


def main():
    if len(sys.argv) == 1:
        for tables in TABLES.items():
            print("\n".join(table(*tables)), end="\n\n")
        return
    name, *words = sys.argv[1:]
    if name not in WITHOUT:
        sys.exit(f"{__doc__}\nDepartures: {', '.join(WITHOUT)}")
    sys.exit(run("dream", WITHOUT[name], words))


if __name__ == "__main__":
    main()
