"""The figures, into figures/, and the table of results. Trials are played by
the agent of a run, of any method.

    python plot.py table             # Markdown, of what is under results/
    python plot.py curves --env map  # of that, too
    python plot.py episode results/dream/map/0      # a trial: GIF, film strip
    python plot.py exploration results/dream/map/0  # what a step tells about z
    python plot.py bottleneck results/dream/distracting-bus/0  # what z keeps
    python plot.py page results/dream/map/0         # trials to step through
"""

import io
import json
import sys
from itertools import pairwise, permutations
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from matplotlib import pyplot as plt
from PIL import Image

import envs
from page import page, principal_plane
from trials import (
    FIGURES,
    METHODS,
    Run,
    load,
    load_dream,
    play,
    told,
    trial,
    write,
)

# Columns of bounds.csv: what they are called, and their lines
BOUNDS = {"no_exploration": ("no exploring", (0, (8, 3)))}
BOUNDS |= {"pearl_ub": ("PEARL-UB", "-."), "optimum": ("optimum", "--")}
NOTES = {"sign-nav": "left: what the agent sees; right: from above"}
NOTES["cooking"] = "from the top: wanted, in the pot, held; the kitchen"
HEIGHTS = {"sign-nav": 1.5}  # of a row of pictures, in inches; or else 2.4
ORDERS = np.array([*permutations(range(4))])  # of outer stops, as in envs.py
# Okabe and Ito's colors; each goes with a marker, for prints in grey.
COLORS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D"
# Student's t for a two-sided 95 % interval, 1 to 10 degrees of freedom
T95 = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228
plt.rcParams |= {
    "axes.axisbelow": True, "axes.grid": True, "axes.titlesize": "medium",
    "backend": "agg", "figure.constrained_layout.use": True, "grid.alpha": 0.3,
    "image.interpolation": "nearest", "legend.frameon": False,
    "pdf.fonttype": 42, "savefig.dpi": 150,
}  # fmt: skip
RESULTS = Path("results")
COLUMNS = "env_steps", "seconds", "test_return"
Env = Annotated[str, tyro.conf.arg(help="folder of the runs: map, coupling-4")]
Seconds = Annotated[bool, tyro.conf.arg(help="of training, instead of steps")]
Results = Annotated[Path, tyro.conf.arg(help="<method>/<env>/<seed> are here")]
Out = Annotated[Path, tyro.conf.arg(help="folder for the figures")]


def save(figure, out, name):
    for kind in ("png", "pdf"):
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        write(out / f"{name}.{kind}", file.getvalue())


# --- Training: results/<method>/<task>/<seed>/progress.csv --------------------
def read_csv(path, columns=()):
    """The rows of a file that has such columns. ValueError: it has not."""
    try:
        if len(path.read_text().splitlines()) < 2:
            raise ValueError("no rows")
        rows = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
        missing = [name for name in columns if name not in rows.dtype.names]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return rows


def finished(path, rows):
    """Whether a run has made its steps, as far as its config.json tells."""
    try:
        config = json.loads(path.with_name("config.json").read_text())
        return rows["env_steps"][-1] >= config["run"]["total_steps"]
    except (OSError, LookupError, ValueError, TypeError):
        return True


def read_runs(results, task, whole=False):
    """{method: [the progress.csv of each seed]} of a task, where there are.
    If whole, those that are not finished are named instead, on stderr."""
    runs = {}
    for method in METHODS:
        for path in sorted((results / method / task).glob("*/progress.csv")):
            if not path.parent.name.isdecimal():  # 0.old, say
                continue
            rows = read_csv(path, COLUMNS)
            if whole and not finished(path, rows):
                print(f"not finished: {path.parent}", file=sys.stderr)
            else:
                runs.setdefault(method, []).append(rows)
    return runs


def read_bounds(results):
    """{bound: {env: return}}, empty where there is no bounds.csv."""
    path, bounds = results / "bounds.csv", {}
    if path.exists():
        names = [line.split(",")[0] for line in path.open()][1:]
        rows = read_csv(path, BOUNDS)
        for bound in BOUNDS:
            known = zip(names, rows[bound])
            bounds[bound] = {env: x for env, x in known if np.isfinite(x)}
    return bounds


def mean_over_seeds(seeds, x):
    """Grid (G,), mean test return (G,), its 95 % interval (2, G), or else NaN.

    The grid has all seeds' rows, from where the last begins to where the first
    ends. The interval: mean +- t s/sqrt(n), Student's t for 1 to 10 degrees.
    """
    grid = np.unique(np.concatenate([seed[x] for seed in seeds]))
    first, last = max(s[x][0] for s in seeds), min(s[x][-1] for s in seeds)
    grid = grid[(first <= grid) & (grid <= last)]
    values = [np.interp(grid, seed[x], seed["test_return"]) for seed in seeds]
    mean, n = np.mean(values, 0), len(seeds)
    deviation = np.std(values, 0, ddof=1) if n > 1 else np.nan * mean
    half = T95[min(n - 1, 10) - 1] * deviation / n**0.5
    return grid, mean, np.stack([mean - half, mean + half])


def curves(
    env: Env,
    seconds: Seconds = False,
    results: Results = RESULTS,
    out: Out = FIGURES,
):
    """Test return in training: mean, 95 % interval (cut at the frame). Dotted:
    with rewards in exploration (--setting imrl-rewards)."""
    x = "seconds" if seconds else "env_steps"
    figure, ax = plt.subplots(figsize=(8, 4.5))
    for setting, line in (("", "-"), ("-imrl-rewards", ":")):
        for method, seeds in read_runs(results, env + setting).items():
            grid, mean, band = mean_over_seeds(seeds, x)
            i, name = [*METHODS].index(method), METHODS[method]
            name += " with rewards" if setting else ""
            style = {"color": COLORS[i], "marker": MARKERS[i], "ls": line}
            style |= {"label": f"{name}, n = {len(seeds)}"}
            ax.plot(grid, mean, markevery=len(grid) // 10 + 1, **style)
            ax.fill_between(grid, *band, color=COLORS[i], alpha=0.15, lw=0)
    if not ax.lines:
        raise ValueError(f"--env: no {results}/<method>/{env}/<seed> has rows")
    for bound, returns in read_bounds(results).items():
        if env in returns:
            name, style = BOUNDS[bound]
            ax.axhline(returns[env], color="0.3", ls=style, label=name)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel(x.replace("env_", "environment "))
    y = np.concatenate([line.get_ydata() for line in ax.lines])  # not bands
    ax.set(title=env, ylabel="test return", ylim=(min(y) - 0.1, max(y) + 0.1))
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, out, f"curves-{env}" + "-seconds" * seconds)


def last_tenth(seeds, column="test_return"):
    """Each seed's mean over the last tenth of its evaluations."""
    return [np.mean(seed[column][len(seed) * 9 // 10 :]) for seed in seeds]


def summary(seeds):
    """Mean and standard error of the seeds' means over their last tenth."""
    last, n = last_tenth(seeds), len(seeds)
    error = f" ± {np.std(last, ddof=1) / n**0.5:.2f}" if n > 1 else ""
    return f"{np.mean(last):z.2f}{error} (n = {n})"


def table(results: Results = RESULTS):
    """Print the test return of the last tenth of training, in Markdown."""
    bounds, rows = read_bounds(results), []
    for env in envs.TASKS:
        runs = read_runs(results, env, whole=True)
        cells = [summary(runs[m]) if m in runs else "–" for m in METHODS]
        for bound in bounds.values():
            cells.append(f"{bound[env]:z.2f}" if env in bound else "–")
        if runs:
            rows.append([f"`{env}`", *cells])
    if not rows:
        raise ValueError(f"no {results}/<method>/<task>/<seed> has rows")
    head = ["task", *METHODS.values(), *(BOUNDS[b][0] for b in bounds)]
    for row in [head, ["---"] * len(head), *rows]:
        print("|", " | ".join(row), "|")


# --- Trials: RUN/config.json and RUN/agent.pt ---------------------------------
def draw(ax, steps, env):
    """The last of some steps; where the task has cells, also the way there."""
    frame, cells = steps[-1]["frame"], env != "sign-nav"
    width = frame.shape[1] // 24 if cells else 1  # in cells of 24 pixels
    top = width * frame.shape[0] / frame.shape[1] - 0.5
    ax.clear()
    ax.imshow(frame, extent=(-0.5, width - 0.5, -0.5, top))
    ax.set(xticks=[], yticks=[], anchor="N", xlabel=steps[-1]["words"])
    for a, b in pairwise(step["at"] for step in steps if cells):
        ride = np.abs(b - a).sum() > 1
        ax.plot(*np.transpose([a, b]), "k:" if ride else "k")


def strip(axes, steps, env, peak=0):
    """Some steps in a row of axes, among them the one that is the peak."""
    times = np.unique(np.linspace(0, len(steps) - 1, len(axes)).astype(int))
    if peak not in times:
        times[1 + np.abs(times[1:-1] - peak).argmin()] = peak
    for ax, t in zip(axes, times):
        draw(ax, steps[: t + 1], env)
    for ax in axes[len(times) :]:
        ax.set_axis_off()


def episode(run: Run, out: Out = FIGURES):
    """A trial as film strip and GIF: explore, execute each instruction."""
    script, agent, args, name = load(run)
    env, (_, episodes) = args.task.env, play(script, agent, args)
    film = plt.figure(figsize=(8, HEIGHTS.get(env, 2.4) * len(episodes)))
    parts = film.subfigures(len(episodes))
    parts[0].text(0.99, 0.98, NOTES.get(env, ""), ha="right", va="top")
    # Without a layout, which would move the picture with its words
    screen, ax = plt.subplots(figsize=(6.4, 4.6), dpi=100, layout="none")
    screen.subplots_adjust(left=0.02, right=0.98, bottom=0.14, top=0.9)
    pictures, ms = [], []  # and how long they are shown
    for part, (title, steps) in zip(parts, episodes.items()):
        for figure in part, screen:
            figure.suptitle(title, x=0.01, ha="left", weight="bold")
        strip(part.subplots(1, 5), steps, env)
        for t in range(len(steps)):
            draw(ax, steps[: t + 1], env)
            screen.canvas.draw()
            picture = Image.fromarray(np.array(screen.canvas.buffer_rgba()))
            picture = picture.convert("RGB")
            pictures.append(picture.quantize(64, Image.Quantize.MAXCOVERAGE))
        ms += [400] * (len(steps) - 1) + [1500]
    save(film, out, f"episode-{name}")
    file, (first, *more) = io.BytesIO(), pictures
    frames = {"save_all": True, "append_images": more, "duration": ms}
    first.save(file, "gif", loop=0, **frames)
    write(out / f"episode-{name}.gif", file.getvalue())


def exploration(run: Run, out: Out = FIGURES):
    """Exploration reward and |f(mu) - g(tau_:t)|^2 along an episode."""
    script, agent, args, name = load_dream(run)
    tau, episodes = play(script, agent, args)
    _, error, reward = told(script, agent, args, tau)
    steps, c = episodes["Exploration"], args.dream.step_penalty
    t, height = np.arange(len(steps)), HEIGHTS.get(args.task.env, 2.4)
    size = {
        "figsize": (8, 3.7 + height),
        "height_ratios": [17, 20, 10 * height],
    }
    figure, axes = plt.subplot_mosaic("AAAAA;BBBBB;12345", **size)
    top, middle, *film = axes.values()
    top.bar(t[1:], reward, color=COLORS[0])
    top.set_title(f"What each step tells about z, less its price c = {c:g}")
    top.set(ylabel="exploration\nreward", xticks=t, xlim=(-0.5, t[-1] + 0.5))
    middle.plot(t, error, "o-", color=COLORS[1])
    middle.set(ylabel=r"$|f(\mu) - g(\tau_{:t})|^2$", xlim=top.get_xlim())
    middle.set_ylim(0, 1.1 * error.max())
    middle.set_xticks(t, [step["action"] for step in steps], rotation=90)
    strip(film, steps, args.task.env, peak=int(reward.argmax()) + 1)
    save(figure, out, f"exploration-{name}")


# --- The bottleneck -----------------------------------------------------------
def recovered(z, half, other):
    """Share of the outer stops in a permutation, half (P,), that a linear
    regression reads off z (P, Z), from problems that differ in the other (P,).
    Guessing gets 0.25, with few problems 0.2."""
    right, one_hot = [], np.eye(4)[ORDERS[half]] - 0.25  # (P, buses, stops)
    for fold in np.unique(other):
        test = other == fold
        x, y = z - z[~test].mean(0), one_hot[~test].reshape(-1, 16)
        weights = np.linalg.pinv(x[~test], rcond=0.05) @ y  # where z varies
        guess = (x[test] @ weights).reshape(-1, 4, 4).argmax(2)
        right.extend(guess == ORDERS[half[test]])
    return np.mean(right)


@torch.no_grad()
def bottleneck(run: Run, out: Out = FIGURES):
    """What z keeps of distracting-bus: its two permutations, by color."""
    script, agent, args, name = load(run)
    distracting = args.task.env == "distracting-bus"
    distracting = distracting and args.task.setting != "standard"
    if script.__name__ != "dream" or not distracting:
        raise ValueError(f"{run} is {name}, not DREAM on distracting-bus")
    test = np.array(envs.DistractingBus.test_problems)
    train = np.setdiff1d(range(24 * 24), test)
    task = envs.make(num_envs=len(test), **vars(args.task))
    tau, _, _ = trial(script, agent, args, task, test, [None])
    f = agent.f(torch.tensor(train)).numpy()
    g = script.at_end(agent.g(tau), tau["length"]).numpy()
    project, rng = principal_plane(f, g), np.random.default_rng(0)
    jitter = 0.03 * np.ptp(project(f))
    figure, axes = plt.subplots(2, 2, figsize=(8, 8), sharex=True, sharey=True)
    kinds = ("f(μ) of training", f, train), ("g(τ) of test", g, test)
    for row, (title, z, problem) in zip(axes, kinds):
        x, y = project(z).T + rng.normal(0, jitter, (2, len(z)))
        halves, buses = np.divmod(problem, 24), ("useful", "useless")
        for ax, kind, half, other in zip(row, buses, halves, halves[::-1]):
            for i, m in enumerate(MARKERS):
                on, label = ORDERS[half, 0] == i, f"first bus to stop {i + 1}"
                ax.scatter(x[on], y[on], 20, COLORS[i], marker=m, label=label)
            share = f"{recovered(z, half, other):.0%} of {kind} stops"
            ax.set_title(f"{title} problems\n{share} recovered")
    figure.suptitle("Two principal components of f, jittered; guessing: 25%")
    figure.legend(handles=ax.collections, loc="outside lower center", ncols=4)
    save(figure, out, f"bottleneck-{name}")


if __name__ == "__main__":
    commands = curves, episode, exploration, bottleneck, page, table
    commands = {command.__name__: command for command in commands}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    except (OSError, ValueError) as error:  # bad input: one line, status 2
        print("error:", *str(error).split(), file=sys.stderr)
        sys.exit(2)
