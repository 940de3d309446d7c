"""Intervals, medians and exponents of docs/results.md."""

import benchmark_coupling
import benchmark_statistics
import numpy as np
import pytest


def rows(returns, seconds, steps=None):
    """A progress.csv of these test returns; the optimum is 1."""
    steps = range(len(returns)) if steps is None else steps
    names = "env_steps", "seconds", "test_return", "optimal_return"
    every = [*zip(steps, seconds, returns, np.ones(len(returns)))]
    return np.array(every, [(name, float) for name in names])


def test_the_interval_is_of_means_of_draws_with_replacement():
    # Each of the 27 draws of three is 3.7 % of them. So the lowest and the
    # highest of their means, of three times one value, are the interval.
    assert benchmark_statistics.interval([0, 0, 9]) == (3, 0, 9)
    assert benchmark_statistics.interval([0, 4, 8]) == (4, 0, 8)
    # Of seven, the lowest and the highest are seven times one value in less
    # than 2.5 % of the draws: the interval is narrower than the values.
    mean, low, high = benchmark_statistics.interval([0] * 3 + [1] + [2] * 3)
    assert mean == 1 and 0 < low < 0.5 and 1.5 < high < 2
    assert low == pytest.approx(1 - 1.96 * (6 / 7 / 7) ** 0.5, abs=0.1)


def test_a_mean_is_not_given_an_interval_of_one_seed():
    assert benchmark_statistics.with_interval([0.5]) == "0.50"
    assert benchmark_statistics.with_interval([0, 0, 0.9]) == (
        "0.30 [0.00, 0.90]"
    )


def test_in_equal_time():
    one = rows(np.arange(40), 10 * np.arange(40))
    # Until 190 seconds there are 20 evaluations, of which the last two count
    assert benchmark_statistics.until(one, 190) == 18.5
    assert benchmark_statistics.until(one, 199) == 18.5
    assert benchmark_statistics.until(one, 1e9) == 37.5


def test_a_seed_that_never_learns_takes_longer_than_the_others():
    early = rows([0, 1, 0], [0, 1, 2], steps=[0, 100, 900])
    late = rows([0, 0, 0.95], [0, 1, 2], steps=[0, 100, 800])
    never = rows([0, 0.94, 0.9], [0, 1, 2], steps=[0, 100, 700])
    median = benchmark_statistics.median_steps
    assert median([late, early, early]) == "100"
    assert median([early, never, late]) == "800 (1 of 3 never)"
    assert median([never, early, never]) == "> 700 (2 of 3 never)"
    assert median([early, late]) == "450"


def test_all_methods_are_compared_at_the_time_of_the_shortest(tmp_path):
    def write(run, returns, seconds):
        path = tmp_path / run / "progress.csv"
        path.parent.mkdir(parents=True)
        head = "env_steps,seconds,test_return,optimal_return"
        lines = [f"{10 * s},{s},{x},0.8" for s, x in zip(seconds, returns)]
        path.write_text("\n".join([head, *lines]) + "\n")

    write("dream/map/0", [0, 0.3, 0.8], [0, 50, 100])
    write("rl2/map/0", [0, 0.1], [0, 50])
    write("rl2/map-imrl-rewards/0", [0, 0.2, 0.6], [0, 40, 60])
    write("rl2/map-standard/0", [0, 0.7], [0, 5])  # another task
    assert [*benchmark_statistics.rows(tmp_path, "map")] == [
        ["`map`", "DREAM", "1", "0.80", "0.30", "1,000"],
        ["`map`", "RL²", "1", "0.10", "0.10", "> 500 (1 of 1 never)"],
        ["`map`", "RL², with rewards", "1", "0.60", "0.20",
         "> 600 (1 of 1 never)"],
    ]  # fmt: skip


def test_what_is_learned_has_to_be_held():
    returns = [0.1, 0.96, 0.95, 0.9, 0.95, 1.0, 0.97, 0.1]
    one = np.array(
        [*zip(returns, 10 * np.arange(8))],
        [("test_return", float), ("trials", float)],
    )
    assert benchmark_coupling.trials_until_learned(one) == 40
    assert benchmark_coupling.trials_until_learned(one[:6]) == np.inf


def test_the_exponent_of_a_power():
    actions = 4, 8, 16, 32
    counts = {A: np.array([1.0, 3 * A**1.5, np.inf]) for A in actions}
    assert benchmark_coupling.exponent(counts) == pytest.approx(1.5)
    counts[32][:] = np.inf, np.inf, 0.1  # two of three never: left out
    assert benchmark_coupling.exponent(counts) == pytest.approx(1.5)


def test_the_interval_of_an_exponent():
    exact = {A: np.full(5, A**2.0) for A in (4, 8)}
    assert benchmark_coupling.interval(exact) == pytest.approx([2, 2])
    # With 8 actions one of two takes 64 trials, the other 512; the median of
    # two draws is 64, 288 or 512, which 4 actions learn in 16.
    loose = {4: np.full(2, 16.0), 8: np.array([64.0, 512.0])}
    assert benchmark_coupling.interval(loose) == pytest.approx([2, 5])


def test_the_table_of_coupling(tmp_path, capsys):
    for method, A in (("dream", 1), ("rl2", 2)):
        for actions in (4, 8, 16, 32):
            run = tmp_path / method / f"coupling-{actions}" / "0"
            run.mkdir(parents=True)
            learned = [f"0,0,1,{actions**A + i}" for i in range(3)]
            head = "env_steps,seconds,test_return,trials"
            lines = [head, "0,0,0,0", *learned]
            (run / "progress.csv").write_text("\n".join(lines) + "\n")
    benchmark_coupling.table(tmp_path, "")
    assert capsys.readouterr().out.split("\n")[2:-1] == [
        "| 4 | 4 | 16 |",
        "| 8 | 8 | 64 |",
        "| 16 | 16 | 256 |",
        "| 32 | 32 | 1,024 |",
        "| p | 1.00 [1.00, 1.00] | 2.00 [2.00, 2.00] |",
    ]
