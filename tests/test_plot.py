"""What plot.py states: intervals, the table, the classifier, files, errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import envs
import plot

ROOT = Path(__file__).resolve().parent.parent
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN = np.arange(0, 576, 11)
TEST = np.setdiff1d(np.arange(576), TRAIN)


def write_seed(results, method, env, seed, steps, returns, optimum=0.8):
    run = results / method / env / str(seed)
    run.mkdir(parents=True)
    lines = ["env_steps,seconds,test_return,optimal_return"]
    lines += [f"{s},{2 * s},{r},{optimum}" for s, r in zip(steps, returns)]
    (run / "progress.csv").write_text("\n".join(lines) + "\n")


def make_run(run, env="map", **changes):
    """A trial of each of two instructions; episodes of 3 and 2 steps of 4."""
    rng = np.random.default_rng(0)
    arrays = {
        "actions": ["left", "ride", "end"], "instructions": ["here", "there"],
        "exp_distance": rng.random((2, 5)),
    }
    for kind, length in (("exp", 3), ("exe", 2)):
        arrays |= {
            kind + "_frames": rng.integers(256, size=(2, 5, 36, 36, 3)),
            kind + "_length": np.full(2, length),
            kind + "_before": rng.integers(3, size=(2, 5)),
            kind + "_reward": rng.random((2, 4)),
            kind + "_observation": rng.integers(9, size=(2, 5, 3)),
        }
    for name in ("exp_frames", "exe_frames"):
        arrays[name] = arrays[name].astype(np.uint8)
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    run.mkdir(parents=True)
    config = {"method": "dream", "env": env, "seed": 7}
    (run / "config.json").write_text(json.dumps(config))
    for name in ("episodes.npz", "film.npz"):
        np.savez_compressed(run / name, **arrays)
    return run


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
    write_seed(tmp_path, "dream", "sign-nav", 0, [0], [-0.001], optimum=1)
    write_seed(tmp_path, "dream", "bus", 0, [], [])  # not one row yet
    plot.table(tmp_path)
    assert capsys.readouterr().out == (
        "| task | DREAM | RL² | optimum |\n"
        "| --- | --- | --- | --- |\n"
        "| `map` | 0.60 ± 0.10 (n = 2) | 0.30 (n = 1) | 0.80 |\n"
        "| `sign-nav` | 0.00 (n = 1) | – | 1.00 |\n"
    )
    bounds = "env,optimum,without_rewards,with_rewards\nmap,0.8,0.25,0.4\n"
    (tmp_path / "pearl_ub.csv").write_text(bounds)
    bounds = "env,return\nmap,0.3\nsign-nav,0.34\n"
    (tmp_path / "no_exploration.csv").write_text(bounds)
    plot.table(tmp_path)
    assert capsys.readouterr().out == (
        "| task | DREAM | RL² | PEARL-UB | no exploring | optimum |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| `map` | 0.60 ± 0.10 (n = 2) | 0.30 (n = 1) | 0.25 | 0.30 | 0.80 |\n"
        "| `sign-nav` | 0.00 (n = 1) | – | – | 0.34 | 1.00 |\n"
    )


def test_curves_of_what_there_is(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, *_: drawn.append(figure))
    for seed, last in enumerate((8, 9)):
        write_seed(tmp_path, "dream", "map", seed, [0, last], [-2, 0.8])
    write_seed(tmp_path, "import", "map", 0, [0, 9], [-2, 0.3])
    (tmp_path / "pearl_ub.csv").write_text("env,without_rewards\nmap,0.2\n")
    plot.curves("map", seconds=True, results=tmp_path)
    (ax,) = drawn[0].axes
    lines = {line.get_label(): line for line in ax.lines}
    names = ["DREAM, n = 2", "IMPORT, n = 1", "PEARL-UB", "optimum"]
    assert [*lines] == names
    assert_allclose(lines["DREAM, n = 2"].get_xdata(), [0, 16])
    assert_allclose(lines["PEARL-UB"].get_ydata(), 0.2)
    assert_allclose(lines["optimum"].get_ydata(), 0.8)
    styles = [lines[name].get_linestyle() for name in names]
    assert styles == ["-", "-", ":", "--"]
    looks = {(i.get_color(), i.get_marker()) for i in ax.lines[:2]}
    assert len({color for color, _ in looks}) == 2
    assert len({marker for _, marker in looks}) == 2


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
    city = envs.DistractingBus()
    for problem in (0, 37, 575):
        halves = np.divmod(problem, 24)
        for bus in range(8):
            stop = plot.ORDERS[halves[bus // 4]][bus % 4] + bus // 4 * 4
            there = city.ride[problem][city.inner[bus]]
            assert tuple(there) == city.outer[stop]


def test_episode_as_film_and_gif(tmp_path):
    plot.episode(make_run(tmp_path / "run"), tmp_path / "out")
    path = tmp_path / "out" / "episode-dream-map-7.gif"
    with Image.open(path) as gif:
        assert gif.n_frames == 4 + 2 * 3  # an exploration, two executions
        shown = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            shown.append(gif.info["duration"])
    assert shown == [400] * 3 + [1500] + 2 * [400, 400, 1500]
    assert path.stat().st_size <= 2_000_000
    with Image.open(path.with_suffix(".png")) as film:
        assert film.width == 960
    assert path.with_suffix(".pdf").read_bytes()[:4] == b"%PDF"


def test_captions_path_and_steps_shown(tmp_path):
    cells = np.array([[[4, 4], [4, 5], [0, 7], [0, 8], [0, 0]]] * 2)
    reward = np.tile([-0.1, -0.1, 1.0, np.nan], (2, 1))
    before = np.array([[3, 0, 1, 2, 0]] * 2)
    changes = {"exp_observation": cells, "exp_reward": reward}
    run = make_run(tmp_path / "run", exp_before=before, **changes)
    env, _, a = plot.load(run, "film.npz", *plot.PICTURED)
    _, axes = plot.plt.subplots(1, 3)
    plot.strip(axes, env, a, "exp", 0)
    captions = [ax.get_xlabel() for ax in axes]
    assert captions[0].strip() == "start"
    assert captions[1] == "2: ride\nreward -0.10\nreturn -0.20"
    assert captions[2] == "3: end\nreward 1.00\nreturn 0.80"
    walk, ride, more = axes[2].lines
    assert_allclose(walk.get_xydata(), [[4, 4], [4, 5]])
    assert_allclose(ride.get_xydata(), [[4, 5], [0, 7]])
    assert [i.get_linestyle() for i in (walk, ride, more)] == ["-", ":", "-"]


def test_exploration_shows_the_stored_numbers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, *_: drawn.append(figure))
    run = make_run(tmp_path / "run")
    plot.exploration(run)
    top, middle, *_ = drawn[0].axes
    with np.load(run / "film.npz") as file:
        reward, distance = file["exp_reward"][0], file["exp_distance"][0]
    assert_allclose([bar.get_height() for bar in top.patches], reward[:3])
    assert_allclose(middle.lines[0].get_ydata(), distance[:4])


def test_bottleneck_states_the_shares(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, *_: drawn.append(figure))
    z, problem = (np.repeat(x, 4, 0) for x in (code(TEST, 0, 1), TEST))
    arrays = {"f": code(TRAIN), "f_problem": TRAIN}
    arrays |= {"exe_z": z, "exp_problem": problem}
    plot.bottleneck(make_run(tmp_path / "run", "distracting-bus", **arrays))
    titles = [ax.get_title() for ax in drawn[0].axes]
    assert "f(μ)" in titles[0] and "100% of useful" in titles[0]
    assert "g(τ)" in titles[3] and "100% of useless" in titles[3]
    for ax, count in zip(drawn[0].axes, (53, 53, 523, 523)):
        points = [dots.get_offsets() for dots in ax.collections]
        assert sum(len(dots) for dots in points) == count


def error_of(capsys, command, *inputs, **options):
    with pytest.raises(SystemExit) as stopped:
        command(*inputs, **options)
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


def test_bad_input_is_told_in_one_line(tmp_path, capsys):
    results, run = tmp_path / "results", tmp_path / "run"
    assert "results" in error_of(capsys, plot.table, results)
    write_seed(results, "dream", "map", 0, [0], [1])
    text = error_of(capsys, plot.curves, "moon", results=results)
    assert "moon" in text and "map" in text
    (results / "pearl_ub.csv").write_text("env\nmap\n")
    assert "pearl_ub.csv" in error_of(capsys, plot.table, results)
    write_seed(results, "dream", "bus", 0, [0], ["x"])
    assert "bus" in error_of(capsys, plot.table, results)

    for command in (plot.episode, plot.exploration, plot.bottleneck):
        assert "--eval" in error_of(capsys, command, run)
    make_run(run, exe_frames=None)
    assert "exe_frames" in error_of(capsys, plot.episode, run)
    (run / "film.npz").write_bytes(b"PK\3\4 torn off")
    assert "--eval" in error_of(capsys, plot.episode, run)
    unknown = make_run(tmp_path / "a", exp_reward=np.full((2, 4), np.nan))
    assert "f(mu)" in error_of(capsys, plot.exploration, unknown)
    arrays = {"f": code(TRAIN), "f_problem": TRAIN, "exe_z": code(TRAIN)}
    wrong = make_run(tmp_path / "b", exp_problem=TRAIN, **arrays)
    assert "distracting-bus" in error_of(capsys, plot.bottleneck, wrong)


@pytest.mark.parametrize("case", ["run", "out"])
def test_the_command_line_leaves_with_status_2(tmp_path, case):
    (tmp_path / "file").write_text("")
    command = {
        "run": ["episode", tmp_path / "none"],
        "out": ["curves", "--env", "map", "--out", tmp_path / "file"],
    }[case]
    command = [sys.executable, "plot.py", *map(str, command)]
    options = {"capture_output": True, "text": True, "env": ENVIRON}
    done = subprocess.run(command, cwd=ROOT, **options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_committed_results_are_tabled(capsys):
    plot.table(ROOT / "results")
    assert "| `map` | 0.80" in capsys.readouterr().out


def test_readme_shows_the_table(capsys):
    plot.table(ROOT / "results")
    assert capsys.readouterr().out in (ROOT / "README.md").read_text()
