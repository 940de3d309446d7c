"""What plot.py states: intervals, the table, what is played, files, errors."""

import importlib
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from tqdm import tqdm

import dream
import envs
import plot

ROOT = Path(__file__).resolve().parent.parent
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN = np.arange(0, 576, 11)
TEST = np.setdiff1d(np.arange(576), TRAIN)
BOUNDS = (
    "env,optimum,pearl_ub,pearl_ub_with_rewards,no_exploration,starts\n"
    "map,0.8,-0.25,-0.2,0.3,1\n"
    "sign-nav,1.0,,,0.34,16\n"
)


def write_seed(results, method, env, seed, steps, returns):
    run = results / method / env / str(seed)
    run.mkdir(parents=True)
    lines = ["env_steps,seconds,updates,test_return,optimal_return"]
    lines += [f"{s},{2 * s},nan,{r},0.8" for s, r in zip(steps, returns)]
    (run / "progress.csv").write_text("\n".join(lines) + "\n")


def train(path, env, steps=200, method="dream"):
    """A run that is hardly trained; DREAM's f is not near zero."""
    script = importlib.import_module(method)
    args = script.Args()
    args.task.env = env
    args.run.run_dir, args.run.total_steps = path, steps
    args.run.checkpoint_minutes = 0.0
    args.q_learning.updates_per_round, args.q_learning.batch_size = 1, 8
    script.train(args, tqdm(disable=True))
    if script is dream:
        saved = torch.load(path / "agent.pt", weights_only=True)
        saved["agent"]["f.weight"] *= 20
        torch.save(saved, path / "agent.pt")
    return path


def sign_nav_args():
    args = dream.Args()
    args.task.env = "sign-nav"
    try:
        envs.make("sign-nav")
    except gymnasium.error.DependencyNotInstalled as error:
        pytest.skip(str(error))
    return args


@pytest.fixture(scope="module")
def map_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("map") / "run", "map")


@pytest.fixture
def drawn(monkeypatch):
    """The figures, in place of their files."""
    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, *_: figures.append(figure))
    return figures


def code(problem, useful=1.0, useless=0.0, noise=0.1, size=64, seed=0):
    """z (P, size): a random linear code of two permutations, and noise."""
    rng = np.random.default_rng(seed)
    halves = zip((useful, useless), np.divmod(problem, 24))
    one_hots = [w * np.eye(4)[plot.ORDERS[half]] for w, half in halves]
    z = np.concatenate(one_hots, 1).reshape(len(problem), -1)
    z = z @ rng.normal(size=(32, size))
    return z + noise * rng.normal(size=z.shape)


def shares(problem, z):
    useful, useless = np.divmod(problem, 24)
    return [
        plot.recovered(z, useful, useless),
        plot.recovered(z, useless, useful),
    ]


# --- Training -----------------------------------------------------------------
def test_interval_by_hand():
    # Three seeds, the second with other rows; all have some from 10 to 30.
    seeds = [
        {"env_steps": [0, 10, 20, 30], "test_return": [9, 1, 1, 1]},
        {"env_steps": [10, 30], "test_return": [2, 4]},
        {"env_steps": [10, 20, 30, 40], "test_return": [3, 5, 4, 9]},
    ]
    grid, mean, (low, high) = plot.mean_over_seeds(seeds, "env_steps")
    assert_allclose(grid, [10, 20, 30])
    assert_allclose(mean, [2, 3, 3])
    half = 4.303 * np.array([1, 2, np.sqrt(3)]) / np.sqrt(3)
    assert_allclose(high - mean, half)
    assert_allclose(mean - low, half)


def test_interval_covers_the_mean_in_95_of_100():
    rng = np.random.default_rng(0)
    for n in (2, 3, 11, 15):
        values = rng.normal(size=(n, 8_000))
        steps = np.arange(8_000)
        seeds = [{"env_steps": steps, "test_return": v} for v in values]
        _, _, (low, high) = plot.mean_over_seeds(seeds, "env_steps")
        share = ((low < 0) & (0 < high)).mean()
        assert 0.944 < share < 0.966


def test_one_seed_has_no_interval():
    seeds = [{"env_steps": [0, 5], "test_return": [1, 2]}]
    grid, mean, band = plot.mean_over_seeds(seeds, "env_steps")
    assert_allclose(grid, [0, 5])
    assert_allclose(mean, [1, 2])
    assert np.isnan(band).all()


def test_table_by_hand(tmp_path, capsys):
    write_seed(tmp_path, "rl2", "map", 0, [0, 9], [0, 0.3])
    write_seed(tmp_path, "dream", "map", 0, [0, 9], [-2, 0.5])
    write_seed(tmp_path, "dream", "map", 1, [0, 8], [-2, 0.7])
    write_seed(tmp_path, "dream", "map-imrl-rewards", 0, [0], [0.1])
    write_seed(tmp_path, "import", "sign-nav", 0, [0], [-0.001])
    plot.table(tmp_path)
    assert capsys.readouterr().out == (
        "| task | DREAM | RL² | VariBAD | IMPORT |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| `map` | 0.60 ± 0.10 (n = 2) | 0.30 (n = 1) | – | – |\n"
        "| `sign-nav` | – | – | – | 0.00 (n = 1) |\n"
    )
    (tmp_path / "bounds.csv").write_text(BOUNDS)
    plot.table(tmp_path)
    head, _, of_map, of_sign_nav = capsys.readouterr().out.splitlines()
    assert head.endswith("| IMPORT | no exploring | PEARL-UB | optimum |")
    assert of_map.endswith("| – | 0.30 | -0.25 | 0.80 |")
    assert of_sign_nav.endswith("| 0.00 (n = 1) | 0.34 | – | 1.00 |")


@pytest.mark.parametrize("rows, tenth", [(1, 1), (9, 1), (10, 1), (26, 3)])
def test_table_has_the_mean_over_the_last_tenth(tmp_path, rows, tenth, capsys):
    returns = np.arange(rows) / 10
    write_seed(tmp_path, "dream", "map", 0, range(rows), returns)
    plot.table(tmp_path)
    assert f"| {returns[-tenth:].mean():.2f} (n = 1)" in capsys.readouterr().out


def test_only_finished_runs_are_in_the_table(tmp_path, capsys):
    for seed, total in enumerate((9, 10)):
        write_seed(tmp_path, "dream", "map", seed, [0, 9], [-2, 0.5 + seed])
        config = tmp_path / "dream" / "map" / str(seed) / "config.json"
        config.write_text(f'{{"run": {{"total_steps": {total}}}}}')
    write_seed(tmp_path, "dream", "map", "0.old", [0, 9], [-2, 0.1])
    plot.table(tmp_path)
    text = capsys.readouterr()
    assert "| `map` | 0.50 (n = 1) |" in text.out
    assert text.err == f"not finished: {tmp_path}/dream/map/1\n"


def test_curves_of_what_there_is(tmp_path, drawn):
    for seed, last in enumerate((8, 9)):
        write_seed(tmp_path, "dream", "map", seed, [0, last], [-2, 0.8])
    write_seed(tmp_path, "import", "map", 0, [0, 9], [-2, 0.3])
    write_seed(tmp_path, "import", "map-imrl-rewards", 0, [0, 5], [-2, 0.4])
    write_seed(tmp_path, "rl2", "map-standard", 0, [0, 5], [-2, 0.4])
    (tmp_path / "bounds.csv").write_text(BOUNDS)
    plot.curves("map", seconds=True, results=tmp_path)
    (ax,) = drawn[0].axes
    lines = {line.get_label(): line for line in ax.lines}
    names = ["DREAM, n = 2", "IMPORT, n = 1", "IMPORT with rewards, n = 1"]
    assert [*lines] == [*names, "no exploring", "PEARL-UB", "optimum"]
    assert_allclose(lines[names[0]].get_xdata(), [0, 16])
    assert_allclose(lines[names[1]].get_ydata(), [-2, 0.3])
    assert_allclose(lines[names[2]].get_ydata(), [-2, 0.4])
    assert [lines[name].get_linestyle() for name in names] == ["-", "-", ":"]
    low, high = ax.get_ylim()  # the wide band of two seeds does not matter
    assert -2.5 < low < -2 and 0.8 < high < 1.2
    assert_allclose(lines["PEARL-UB"].get_ydata(), -0.25)
    assert_allclose(lines["optimum"].get_ydata(), 0.8)
    assert_allclose(lines["no exploring"].get_ydata(), 0.3)
    # A method keeps its color and marker, and no two have the same.
    looks = [(line.get_color(), line.get_marker()) for line in ax.lines[:3]]
    assert looks[1] == looks[2]
    assert looks[0][0] != looks[1][0] and looks[0][1] != looks[1][1]
    # One without bounds, against steps
    (tmp_path / "bounds.csv").unlink()
    plot.curves("map", results=tmp_path)
    assert len(drawn[1].axes[0].lines) == 3
    assert_allclose(drawn[1].axes[0].lines[0].get_xdata(), [0, 8])


# --- Trials -------------------------------------------------------------------
class FixedScript:
    """A method that does what it is told, in place of a script."""

    def __init__(self, *actions):
        self.actions, self.trials = actions, []

    def trial(self, agent, args, task, mu, instructions, epsilons):
        self.trials.append((mu, instructions, epsilons))
        task.explore(mu, instructions[0])
        for action in self.actions[0]:
            *_, info = task.step(np.array([action]))
        infos = [info]
        for instruction in instructions[1:]:
            task.execute(instruction)
            for action in self.actions[1]:
                *_, info = task.step(np.array([action]))
            infos.append(info)
        return {"length": info["steps"]}, [], infos


def test_frames_belong_to_the_steps():
    args = dream.Args()  # of map
    ride, end = 4, 5
    script = FixedScript([1, ride, end, 0, 0], [0, 0, end])
    _, episodes = plot.play(script, None, args)
    names = ["(0, 0)", "(8, 8)", "(0, 8)", "(8, 0)"]
    titles = ["Exploration", *(f"Execution: {name}" for name in names)]
    assert [*episodes] == titles
    # Each instruction in a trial of its own, of one problem, without mu
    assert [i[1].item() for _, i, _ in script.trials] == [0, 1, 2, 3]
    assert {mu.item() for mu, _, _ in script.trials} == {12}
    assert all(i[0] is None and e == (0, 0) for _, i, e in script.trials)

    explored = episodes["Exploration"]  # waiting after its end is not kept
    assert [step["action"] for step in explored] == [
        "start",
        "up",
        "ride",
        "end",
    ]
    there = envs.make("map").ride[12, 4, 5]
    assert_allclose([s["at"] for s in explored], [(4, 4), (4, 5), there, there])
    assert [s["words"].strip() for s in explored] == [
        "start", "1: up", "2: ride", "3: end",
    ]  # fmt: skip
    for name, steps in episodes.items():
        for step in steps:  # the black square is where the agent was
            x, y = np.array(step["at"]) * 24 + 12
            assert (step["frame"][-y - 1, x] == 0).all()
            cells = step["frame"][12::24, 12::24]
            assert (cells == 0).all(2).sum() == 1
            yellow = (cells == (240, 228, 66)).all(2)
            assert yellow.sum() == (name != "Exploration")
    executed = episodes["Execution: (8, 8)"]
    assert [step["words"].split("\n")[1].strip() for step in executed] == [
        "", "return -0.10", "return -0.20", "return -2.00",
    ]  # fmt: skip


def test_settings_are_played():
    for setting, words in (
        ("imrl-rewards", "1: up\nreturn -0.10"),
        ("online", "1: up\nreturn -0.10"),
    ):
        args = dream.Args()
        args.task.setting = setting
        script = FixedScript([1] * 20, [1] * 20)
        _, episodes = plot.play(script, None, args)
        assert episodes["Exploration"][1]["words"] == words
        assert len(episodes) == 5
        first = [asked[0] for _, asked, _ in script.trials]
        assert [i is None for i in first] == [setting != "online"] * 4


def test_the_agent_of_a_run_plays_as_it_was_tested(map_run):
    script, agent, args, name = plot.load(map_run)
    assert name == "dream-map-0" and script is dream
    _, episodes = plot.play(script, agent, args)
    task = envs.make("map", 4)
    problem, asked = np.full(4, 12), np.arange(4)
    unknown = torch.zeros(4, dtype=torch.bool)
    inputs = task, problem, [None, asked], unknown, (0, 0)
    _, _, infos = dream.trial(agent, args, *inputs)
    explored, *executed = episodes.values()
    assert len(explored) == infos[0]["steps"][0] + 1
    for steps, length, total in zip(
        executed, infos[1]["steps"], infos[1]["return"]
    ):
        assert len(steps) == length + 1
        assert steps[-1]["words"].endswith(f"return {total:z.2f}")


@pytest.mark.parametrize("module", ["rl2", "varibad", "import_"])
def test_agents_of_other_methods_play(tmp_path, module):
    """Each instruction's return is that of a trial of the method's own."""
    run = train(tmp_path / "run", "coupling", method=module)
    script, agent, args, name = plot.load(run)
    assert script.__name__ == module
    assert name == f"{module.strip('_')}-coupling-0"
    _, episodes = plot.play(script, agent, args)
    row = script.evaluate(agent, args)
    assert [*episodes] == ["Exploration", "Execution: pull"]
    assert [len(steps) for steps in episodes.values()] == [2, 2]
    # One training problem of eight, of which the test return is the mean
    total = float(episodes["Execution: pull"][1]["words"].split()[-1])
    assert total <= 8 * row["test_return"] <= 7 + total
    for command in (plot.exploration, plot.page):
        with pytest.raises(ValueError, match="only DREAM"):
            command(run)


def test_episode_as_film_and_gif(tmp_path, map_run):
    script, agent, args, _ = plot.load(map_run)
    _, episodes = plot.play(script, agent, args)
    plot.episode(map_run, tmp_path)
    path = tmp_path / "episode-dream-map-0.gif"
    with Image.open(path) as gif:
        shown = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            shown.append(gif.info["duration"])
    # Equal pictures may be shown as one, for as long as they are together.
    times = [
        t for e in episodes.values() for t in (len(e) - 1) * [400] + [1500]
    ]
    assert sum(shown) == sum(times) and len(shown) <= len(times)
    assert path.stat().st_size <= 2_000_000
    with Image.open(path.with_suffix(".png")) as film:
        assert film.width == 1200
    assert path.with_suffix(".pdf").read_bytes()[:4] == b"%PDF"


def test_a_file_is_written_whole_or_as_it_was(tmp_path, monkeypatch, capsys):
    path = tmp_path / "new" / "file"
    plot.write(path, b"before")
    assert capsys.readouterr().out == f"{path}\n"
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plot.write(path, b"after")
    assert path.read_bytes() == b"before"
    assert [*path.parent.iterdir()] == [path]


def test_the_folder_of_a_run_names_its_figures(tmp_path, map_run):
    names = {"map-short": "map-short", "maps": "map", "map": "map"}
    for folder, name in names.items():
        shutil.copytree(map_run, tmp_path / folder / "0")
        assert plot.load(tmp_path / folder / "0")[3] == f"dream-{name}-0"


def test_the_longest_gif_is_small_enough(tmp_path, monkeypatch):
    """Of sign-nav, whose frames compress the least, with all 12 steps."""
    args = sign_nav_args()
    script = FixedScript([0] * 12, [2, 0] * 6)
    loaded = script, None, args, "name"
    monkeypatch.setattr(plot, "load", lambda run: loaded)
    plot.episode(tmp_path, tmp_path)
    assert (tmp_path / "episode-name.gif").stat().st_size <= 2_000_000


def test_sign_nav_is_shown_as_the_agent_sees_it():
    args, seen = sign_nav_args(), []

    class Script(FixedScript):
        def trial(self, agent, args, task, *inputs):
            step = task.step
            task.step = lambda actions: seen.append(step(actions)) or seen[-1]
            return super().trial(agent, args, task, *inputs)

    _, episodes = plot.play(Script([0, 0, 2] * 4, [1] * 12), None, args)
    frames = [batch["observation"][0] for batch, *_ in seen[:12]]
    for step, frame in zip(episodes["Exploration"][1:], frames):
        assert step["frame"].shape == (240, 512, 3)  # and the view from above
        assert (step["frame"][:, :320][::4, ::4] == frame).all()
    _, ax = plot.plt.subplots()
    plot.draw(ax, episodes["Exploration"][:3], "sign-nav")
    assert ax.images[0].get_interpolation() == "nearest"
    assert len(ax.lines) == 0


def test_way_and_steps_shown():
    script = FixedScript([1, 4, 2, 5], [0] * 20)
    _, episodes = plot.play(script, None, dream.Args())
    steps = episodes["Exploration"]
    _, axes = plot.plt.subplots(1, 3)
    plot.strip(axes, steps, "map")
    assert [ax.get_xlabel().strip() for ax in axes] == [
        "start", "2: ride", "4: end",
    ]  # fmt: skip
    walk, ride, more, _ = axes[2].lines
    assert_allclose(walk.get_xydata(), [[4, 4], [4, 5]])
    assert_allclose(ride.get_xydata(), [steps[1]["at"], steps[2]["at"]])
    assert [i.get_linestyle() for i in (walk, ride, more)] == ["-", ":", "-"]
    _, axes = plot.plt.subplots(1, 3)
    plot.strip(axes, steps, "map", peak=1)
    assert [ax.get_xlabel()[0] for ax in axes] == ["s", "1", "4"]
    _, axes = plot.plt.subplots(1, 7)  # more than there are steps
    plot.strip(axes, steps, "map")
    assert [ax.axison for ax in axes] == [True] * 5 + [False] * 2


def test_exploration_rewards_telescope_to_the_distances(map_run, drawn):
    plot.exploration(map_run)
    top, middle, *film = drawn[0].axes
    reward = np.array([bar.get_height() for bar in top.patches])
    distance = middle.lines[0].get_ydata()
    assert len(distance) == len(reward) + 1 and np.ptp(distance) > 1e-3
    assert_allclose(reward, -np.diff(distance) - 0.02, atol=1e-5)
    told = distance[0] - distance[-1]
    assert_allclose(reward.sum(), told - 0.02 * len(reward), atol=1e-5)
    assert [bar.get_center()[0] for bar in top.patches] == [
        *range(1, len(distance))
    ]
    # The distances are those of the exploration that is shown.
    script, agent, args, _ = plot.load(map_run)
    tau, episodes = plot.play(script, agent, args)
    with torch.no_grad():
        f, g = agent.f(torch.tensor([12])), agent.g(tau)[0]
    expected = ((f - g) ** 2).sum(1)[: tau["length"] + 1]
    assert_allclose(distance, expected, rtol=1e-4)
    actions = [label.get_text() for label in middle.get_xticklabels()]
    assert actions == [step["action"] for step in episodes["Exploration"]]
    labels = [ax.get_xlabel() for ax in film]
    assert any(x.startswith(f"{reward.argmax() + 1}: ") for x in labels)


# --- The bottleneck -----------------------------------------------------------
@pytest.mark.parametrize("problem", [TRAIN, TEST])
def test_classifier_recovers_what_was_planted(problem):
    useful, useless = shares(problem, code(problem))
    assert useful == 1
    assert 0.15 < useless < 0.3
    useful, useless = shares(problem, code(problem, 0, 1))
    assert 0.15 < useful < 0.3
    assert useless == 1
    assert shares(problem, code(problem, 1, 1)) == [1, 1]


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize("problem", [TRAIN, TEST])
def test_classifier_guesses_on_noise(problem, size):
    noises = [code(problem, 0, 0, size=size, seed=seed) for seed in range(8)]
    share = np.mean([shares(problem, z) for z in noises])
    assert abs(share - 0.25) < 0.03
    nothing = shares(problem, np.ones((len(problem), size)))
    assert max(nothing) < 0.35  # a constant


def test_orders_are_those_of_the_city():
    city = envs.make("distracting-bus")
    for problem in (0, 37, 575):
        halves = np.divmod(problem, 24)
        for bus in range(8):
            stop = plot.ORDERS[halves[bus // 4]][bus % 4] + bus // 4 * 4
            there = city.ride[problem][city.inner[bus]]
            assert tuple(there) == city.outer[stop]


def test_bottleneck_states_the_shares(tmp_path, monkeypatch, drawn):
    """An f that keeps useful stops only, a g that has the useless ones."""
    run = train(tmp_path / "run", "distracting-bus", 10)
    script, agent, args, _ = plot.load(run)
    f = np.zeros((576, 64))
    f[TRAIN] = code(TRAIN)
    agent.f.weight.data = torch.tensor(f, dtype=torch.float32)
    g = torch.tensor(code(TEST, 0, 1), dtype=torch.float32)
    agent.g = lambda tau: g[:, None].repeat(1, 21, 1)
    monkeypatch.setattr(plot, "load", lambda run: (script, agent, args, name))
    name = "dream-distracting-bus-0"
    plot.bottleneck(run)
    titles = [ax.get_title() for ax in drawn[0].axes]
    assert "f(μ)" in titles[0] and "100% of useful" in titles[0]
    assert "g(τ)" in titles[3] and "100% of useless" in titles[3]
    for ax, count in zip(drawn[0].axes, (53, 53, 523, 523)):
        points = [dots.get_offsets() for dots in ax.collections]
        assert sum(len(dots) for dots in points) == count
    # The g of a problem stands at the color of its own first bus.
    order = plot.ORDERS[TEST // 24, 0]
    counts = [len(dots.get_offsets()) for dots in drawn[0].axes[2].collections]
    assert counts == np.bincount(order).tolist()


# --- Errors -------------------------------------------------------------------
def test_bad_input_is_told(tmp_path, map_run):
    results = tmp_path / "results"
    with pytest.raises(ValueError, match="results"):
        plot.table(results)
    write_seed(results, "dream", "map", 0, [0], [1])
    with pytest.raises(ValueError, match="moon"):
        plot.curves("moon", results=results)
    (results / "bounds.csv").write_text("env,optimum\nmap,0.8\n")
    with pytest.raises(ValueError, match="no_exploration"):
        plot.table(results)
    with pytest.raises(ValueError, match="dream-map-0.*distracting-bus"):
        plot.bottleneck(map_run)
    agent = map_run / "agent.pt"
    before = agent.read_bytes()
    with pytest.raises(ValueError, match="no .html"):
        plot.page(map_run, agent)
    assert agent.read_bytes() == before


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no rows"),
        ("env_steps,seconds,test_return\n", "no rows"),
        ("env_steps,seconds\n1,2\n", "no column test_return"),
        ("env_steps,seconds,test_return\n1,2\n", "2 columns"),
        ("\xff\n\xff\n", "utf-8"),
    ],
)
def test_a_damaged_csv_is_named(tmp_path, text, message):
    write_seed(tmp_path, "rl2", "map", 0, [0], [1])
    path = tmp_path / "rl2" / "map" / "0" / "progress.csv"
    path.write_bytes(text.encode("latin-1"))
    for command in plot.table, partial(plot.curves, "map"):
        with pytest.raises(ValueError, match=f"{path}: (.|\\n)*{message}"):
            command(results=tmp_path)


@pytest.mark.parametrize(
    "config, word",
    [
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        ('{"method": "ppo"}', "ppo"),
        ('{"method": "os"}', "method os, not one of"),
        ('{"method": "dream"}', "agent.pt"),
    ],
)
def test_a_run_that_is_no_run(tmp_path, config, word):
    if config:
        (tmp_path / "config.json").write_text(config)
    for command in (plot.episode, plot.exploration, plot.bottleneck, plot.page):
        with pytest.raises(ValueError, match=word):
            command(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["episode", "none"],
        ["page", "none"],
        ["curves", "--env", "map", "--results", "none"],
        ["table", "--results", "none"],
        ["curves", "--env", "map", "--results", "results", "--out", "file"],
    ],
)
def test_the_command_line_leaves_with_status_2(tmp_path, command):
    (tmp_path / "file").write_text("")
    write_seed(tmp_path / "results", "dream", "map", 0, [0], [1])
    done = subprocess.run(
        [sys.executable, ROOT / "plot.py", *command],
        cwd=tmp_path, env=ENVIRON, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
