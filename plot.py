"""The figures (PNG and PDF, into figures/) and the table of results.

    python plot.py table                         # Markdown, from results/
    python plot.py curves --env map              # from results/ too
    python dream.py --eval runs/dream/map/0      # what it writes is read by:
    python plot.py episode runs/dream/map/0      # a trial: GIF and film strip
    python plot.py exploration runs/dream/map/0  # what its steps tell of z
    python plot.py bottleneck runs/dream/distracting-bus/0  # what z keeps
"""

import csv
import json
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import tyro
from matplotlib import pyplot as plt
from PIL import Image

TASKS = "coupling", "bus", "map", "distracting-bus", "cooking", "sign-nav"
METHODS = {"dream": "DREAM", "rl2": "RL²", "varibad": "VariBAD"}
METHODS |= {"import": "IMPORT"}
BOUNDS = {"PEARL-UB": ":", "no exploring": "-.", "optimum": "--"}
FILES = ("pearl_ub.csv", "without_rewards"), ("no_exploration.csv", "return")
COLUMNS = "env_steps", "seconds", "test_return", "optimal_return"
PARTS = "frames", "length", "before", "reward", "observation"
PARTS = [f"{kind}_{part}" for kind in ("exp", "exe") for part in PARTS]
PICTURED = "actions", "instructions", "exp_distance", *PARTS
CELLS = {"bus": 9, "map": 9, "distracting-bus": 9, "cooking": 3}  # in a row
ORDERS = np.array([*permutations(range(4))])  # of outer stops, as in envs.py
# Okabe and Ito's colors; each goes with a marker, for prints in grey.
COLORS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D"
# Student's t for a two-sided 95 % interval, 1 to 10 degrees of freedom
T95 = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228
plt.rcParams |= {
    "axes.axisbelow": True, "axes.grid": True, "axes.titlesize": "medium",
    "backend": "agg", "figure.constrained_layout.use": True, "grid.alpha": 0.3,
    "legend.frameon": False, "pdf.fonttype": 42, "savefig.dpi": 120,
}
Run = tyro.conf.Positional[Path]
RESULTS, FIGURES = Path("results"), Path("figures")


def stop(message):
    """Bad input: one line, status 2."""
    print("error:", *str(message).split(), file=sys.stderr)
    sys.exit(2)


def save(figure, out, name):
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "pdf"):
        figure.savefig(out / f"{name}.{kind}")
        print(out / f"{name}.{kind}")


# --- training: results/<method>/<env>/<seed>/progress.csv -------------------
def read_results(results):
    """{env: {method: {column: rows} of each seed}}, {bound: {env: return}}."""
    runs, optimum, bounds = {}, {}, ({}, {})
    try:
        for env, method in product(TASKS, METHODS):
            for path in sorted(results.glob(f"{method}/{env}/*/progress.csv")):
                rows = [*csv.DictReader(path.read_text().splitlines())]
                seed = {c: [float(row[c]) for row in rows] for c in COLUMNS}
                if rows:
                    methods = runs.setdefault(env, {})
                    methods.setdefault(METHODS[method], []).append(seed)
                    optimum[env] = seed["optimal_return"][-1]
        for bound, (file, column) in zip(bounds, FILES):
            for path in results.glob(file):  # it may be missing
                for row in csv.DictReader(path.read_text().splitlines()):
                    bound[row["env"]] = float(row[column])
    except (OSError, KeyError, TypeError, ValueError) as error:
        stop(f"{path} cannot be read: {error!r}")
    if not runs:
        stop(f"{results} holds no <method>/<env>/<seed>/progress.csv")
    return runs, dict(zip(BOUNDS, (*bounds, optimum)))


def mean_over_seeds(seeds, x):
    """Grid (G,), mean test return (G,), its 95 % interval (2, G), or else NaN.

    The grid has the rows of all seeds, from where all have begun to where the
    first has ended; a seed is interpolated. The interval is mean +- ts/sqrt(n),
    with Student's t for n - 1 degrees of freedom, but for 10 where n > 11.
    """
    grid = np.unique(np.concatenate([seed[x] for seed in seeds]))
    first, last = max(s[x][0] for s in seeds), min(s[x][-1] for s in seeds)
    grid = grid[(first <= grid) & (grid <= last)]
    values = [np.interp(grid, seed[x], seed["test_return"]) for seed in seeds]
    mean, n = np.mean(values, 0), len(seeds)
    deviation = np.std(values, 0, ddof=1) if n > 1 else np.nan * mean
    half = T95[min(n - 1, 10) - 1] * deviation / n**0.5
    return grid, mean, np.stack([mean - half, mean + half])


def curves(env: str, seconds: bool = False, results=RESULTS, out=FIGURES):
    """Test return while training: mean and 95 % interval over seeds."""
    runs, bounds = read_results(results)
    if env not in runs:
        stop(f"--env: {results} has {', '.join(runs)}, not {env!r}")
    x = "seconds" if seconds else "env_steps"
    figure, ax = plt.subplots(figsize=(8, 4))
    for method, seeds in runs[env].items():
        grid, mean, band = mean_over_seeds(seeds, x)
        i, every = [*METHODS.values()].index(method), len(grid) // 10 + 1
        style = {"color": COLORS[i], "label": f"{method}, n = {len(seeds)}"}
        ax.plot(grid, mean, marker=MARKERS[i], markevery=every, **style)
        ax.fill_between(grid, *band, color=COLORS[i], alpha=0.2, lw=0)
    for name, bound in bounds.items():
        if env in bound:
            ax.axhline(bound[env], color="k", ls=BOUNDS[name], label=name)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    unit = x.replace("env_", "environment ")
    ax.set(title=env, xlabel=unit, ylabel="test return")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, out, f"curves-{env}")


def table(results=RESULTS):
    """Print last test returns in Markdown: mean, standard error over seeds."""
    runs, bounds = read_results(results)
    methods = [m for m in METHODS.values() if m in set().union(*runs.values())]
    shown = [name for name, bound in bounds.items() if bound]
    lines = [head := ["task", *methods, *shown], ["---"] * len(head)]
    for env in runs:
        cells = []
        for method in methods:
            seeds = runs[env].get(method, [])
            last, n = [seed["test_return"][-1] for seed in seeds], len(seeds)
            error = f" ± {np.std(last, ddof=1) / n**0.5:.2f}" if n > 1 else ""
            cells.append(f"{np.mean(last):z.2f}{error} (n = {n})" if n else "–")
        for bound in map(bounds.get, shown):
            cells.append(f"{bound[env]:z.2f}" if env in bound else "–")
        lines.append([f"`{env}`", *cells])
    print(*(f"| {' | '.join(line)} |" for line in lines), sep="\n")


# --- trials: RUN/episodes.npz and RUN/film.npz ------------------------------
def load(run, file, *names):
    """(env, "<method>-<env>-<seed>", {array}) of an evaluated run."""
    try:
        config = json.loads((run / "config.json").read_text())
        env, name = config["env"], "{method}-{env}-{seed}".format(**config)
        with np.load(run / file) as arrays:
            a = {name: arrays[name] for name in names}
    except Exception as error:  # whatever is wrong with the files
        stop(f"{run}: {error}; `python dream.py --eval {run}` writes it")
    if env == "sign-nav":  # without the sky that is left and right of it
        for frames in {"exp_frames", "exe_frames"} & {*names}:
            a[frames] = np.delete(a[frames], np.r_[320:400, 560:640], 3)
    return env, name, a


def draw(ax, env, a, kind, k, t):
    """Step t of the k-th exploration ("exp") or execution ("exe") pictured."""
    cells, frame = CELLS.get(env, 1), a[kind + "_frames"]
    top = cells * frame.shape[2] / frame.shape[3] - 0.5
    ax.clear()
    ax.imshow(frame[k, t], extent=(-0.5, cells - 0.5, -0.5, top))
    ax.set(xticks=[], yticks=[], anchor="N")
    path = a[kind + "_observation"][k, : t + 1, :2] if env in CELLS else ()
    for step in zip(path, path[1:]):
        ride = np.abs(step[1] - step[0]).sum() > 1
        ax.plot(*np.transpose(step), "k:" if ride else "k")
    words, reward = ["start", " ", " "], a[kind + "_reward"][k, :t]
    if t > 0:
        words[0] = f"{t}: {a['actions'][a[kind + '_before'][k, t]]}"
    if t > 0 and np.isfinite(reward).all():
        words[1:] = f"reward {reward[-1]:z.2f}", f"return {reward.sum():z.2f}"
    ax.set_xlabel("\n".join(words))


def strip(axes, env, a, kind, k):
    """Some steps in a row of axes; that of the largest reward is one."""
    end, reward = a[kind + "_length"][k], a[kind + "_reward"][k]
    times = np.linspace(0, end, min(end + 1, len(axes))).round().astype(int)
    peak = reward[:end].argmax() + 1
    if peak not in times:
        times[1 + np.abs(times[1:-1] - peak).argmin()] = peak
    for ax, t in zip(axes, times):
        draw(ax, env, a, kind, k, t)
    for ax in axes[len(times) :]:
        ax.set_axis_off()


def episode(run: Run, out=FIGURES):
    """A trial as film strip and GIF: explore, execute each instruction."""
    env, name, a = load(run, "film.npz", *PICTURED)
    titles = ["Exploration", *(f"Execution: {i}" for i in a["instructions"])]
    height = 0.9 + 1.55 * a["exp_frames"].shape[2] / a["exp_frames"].shape[3]
    film = plt.figure(figsize=(8, len(titles) * height))
    screen, ax = plt.subplots(figsize=(6.4, 4.6), dpi=100)
    pictures, ms = [], []  # and how long they are shown
    for row, part in enumerate(film.subfigures(len(titles))):
        kind, k = ("exe", row - 1) if row else ("exp", 0)
        for figure in part, screen:
            figure.suptitle(titles[row], x=0.01, ha="left", weight="bold")
        strip(part.subplots(1, 5), env, a, kind, k)
        end = a[kind + "_length"][k]
        for t in range(end + 1):
            draw(ax, env, a, kind, k, t)
            screen.canvas.draw()
            rgb = np.array(screen.canvas.buffer_rgba())[..., :3]
            pictures.append(Image.fromarray(rgb))
        ms += [400] * end + [1500]
    save(film, out, f"episode-{name}")
    path = out / f"episode-{name}.gif"
    rare_too = Image.Quantize.MAXCOVERAGE
    for colors in (128, 64, 32, 16):
        first, *more = (p.quantize(colors, rare_too) for p in pictures)
        first.save(path, save_all=True, append_images=more, duration=ms, loop=0)
        if path.stat().st_size <= 2_000_000:
            break
    print(path)


def exploration(run: Run, out=FIGURES):
    """Exploration reward and |f(mu) - g(tau_:t)|^2 along an episode."""
    env, name, a = load(run, "film.npz", *PICTURED)
    t = np.arange(a["exp_length"][0] + 1)
    reward = a["exp_reward"][0, : t[-1]]
    if np.isnan(reward).any():
        stop(f"{run}: the problem pictured has no f(mu), thus no reward")
    height = 0.9 + 1.55 * a["exp_frames"].shape[2] / a["exp_frames"].shape[3]
    size = {"figsize": (8, 4 + height), "height_ratios": [1.7, 2.3, height]}
    figure, axes = plt.subplot_mosaic("AAAAA;BBBBB;12345", **size)
    top, middle, *film = axes.values()
    strip(film, env, a, "exp", 0)
    top.bar(t[1:], reward, color=COLORS[0])
    middle.plot(t, a["exp_distance"][0, t], "o-", color=COLORS[1])
    wide = {"xlim": (-0.5, t[-1] + 0.5)}
    top.set(ylabel="exploration\nreward", xticks=t, **wide)
    middle.set(ylabel=r"$|f(\mu) - g(\tau_{:t})|^2$", ylim=(0, None), **wide)
    actions = a["actions"][a["exp_before"][0, t[1:]]]
    middle.set_xticks(t, ["start", *actions], rotation=90)
    save(figure, out, f"exploration-{name}")


def recovered(z, half, other):
    """Share of outer stops that a linear classifier reads off z (P, Z).

    For each of the four buses of a permutation, half (P,): ridge regression of
    the one-hot of its stop on z, from the problems that differ in the other
    permutation (P,) to those held out. Guessing gets 0.25, with few 0.2.
    """
    right, one_hot = [], np.eye(4)[ORDERS[half]] - 0.25  # (P, buses, stops)
    for fold in np.unique(other):
        test = other == fold
        x, y = z - z[~test].mean(0), one_hot[~test].reshape(-1, 16)
        gram = x[~test].T @ x[~test]
        ridge = (0.01 * np.trace(gram) / len(gram) + 1e-9) * np.eye(len(gram))
        weights = np.linalg.solve(gram + ridge, x[~test].T @ y)
        guess = (x[test] @ weights).reshape(-1, 4, 4).argmax(2)
        right.extend(guess == ORDERS[half[test]])
    return np.mean(right)


def bottleneck(run: Run, out=FIGURES):
    """What z keeps of distracting-bus: its two permutations, by color."""
    names = "f", "f_problem", "exe_z", "exp_problem"
    env, name, a = load(run, "episodes.npz", *names)
    if env != "distracting-bus":
        stop(f"{run}: bottleneck is for distracting-bus, not {env}")
    problem, first = np.unique(a["exp_problem"], return_index=True)
    rows = [("f(μ) of training problems", a["f"], a["f_problem"])]
    rows += [("g(τ) of test problems", a["exe_z"][first], problem)]
    center = a["f"].mean(0)  # and principal components of f
    plane = np.linalg.svd(a["f"] - center, full_matrices=False)[2][:2]
    figure, axes = plt.subplots(2, 2, figsize=(8, 8), sharex=True, sharey=True)
    for row, (title, z, problem) in zip(axes, rows):
        x, y = plane @ (z - center).T
        halves, buses = np.divmod(problem, 24), ("useful", "useless")
        for ax, kind, half, other in zip(row, buses, halves, halves[::-1]):
            stops, share = ORDERS[half], recovered(z, half, other)
            for i, j in permutations(range(4), 2):
                on = (stops[:, 0] == i) & (stops[:, 1] == j)
                style = {"color": COLORS[i], "marker": MARKERS[j]}
                ax.scatter(x[on], y[on], edgecolor="white", lw=0.5, **style)
            ax.set_title(f"{title}\n{share:.0%} of {kind} stops recovered")
    figure.suptitle("First two principal components of f; guessing: 25%")
    for i in range(4):
        style = {"color": COLORS[i], "label": f"1st bus to stop {i + 1}"}
        ax.scatter([], [], marker="_", lw=5, s=150, **style)
        style = {"color": "grey", "label": f"2nd bus to stop {i + 1}"}
        ax.scatter([], [], marker=MARKERS[i], **style)
    figure.legend(loc="outside lower center", ncols=4)
    save(figure, out, f"bottleneck-{name}")


if __name__ == "__main__":
    commands = curves, episode, exploration, bottleneck, table
    commands = {function.__name__: function for function in commands}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    except OSError as error:
        stop(error)
