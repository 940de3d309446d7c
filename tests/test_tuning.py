"""The rule of docs/tuning.md."""

import importlib
import json
from dataclasses import asdict

import benchmark_tuning
import numpy as np
import pytest

NAN = np.nan


def table(**returns):
    return {name: np.array(x) for name, x in returns.items()}


def test_two_go_on_and_the_better_of_them_is_chosen():
    one = table(a=(0.5, NAN, NAN), b=(0.9, NAN, NAN), c=(0.7, NAN, NAN))
    assert benchmark_tuning.best_two(one) == ["b", "c"]
    assert benchmark_tuning.chosen(one) is None  # 101 and 102 are not run
    one["b"][1:], one["c"][1:] = 0.2, 0.6
    assert benchmark_tuning.chosen(one) == "c"  # 0.63, b 0.43
    one["a"][1:] = 1.0  # a has the highest mean, but did not go on
    assert benchmark_tuning.chosen(one) == "c"


def test_of_equals_the_first_is_chosen():
    one = table(a=(0.8, 0.8, 0.5), b=(0.5, 0.8, 0.8), c=(0.5, 0.9, 0.9))
    assert benchmark_tuning.best_two(one) == ["a", "b"]
    assert benchmark_tuning.chosen(one) == "a"
    # b does better with seed 100, but a stands first and has the same mean
    one = table(a=(0.5, 0.75, 0.75), b=(0.75, 0.75, 0.5), c=(0, NAN, NAN))
    assert benchmark_tuning.best_two(one) == ["b", "a"]
    assert benchmark_tuning.chosen(one) == "a"


def test_while_a_run_is_missing_none_goes_on():
    one = table(a=(0.5, NAN, NAN), b=(NAN, NAN, NAN), c=(0.7, 0.9, 0.9))
    assert benchmark_tuning.best_two(one) == []
    assert benchmark_tuning.chosen(one) is None


def test_the_last_tenth_of_each_seed(tmp_path):
    for seed, first in ((100, 0.0), (102, 0.5)):
        run = tmp_path / "rl2/map-fast" / str(seed)
        run.mkdir(parents=True)
        rows = [first] * 18 + [first + 0.2, first + 0.4]
        lines = ["env_steps,test_return", *(f"1,{x}" for x in rows)]
        (run / "progress.csv").write_text("\n".join(lines) + "\n")
    found = benchmark_tuning.earned(tmp_path, "rl2", "map", ["fast", "slow"])
    assert found["fast"] == pytest.approx([0.3, NAN, 0.8], nan_ok=True)
    assert np.isnan(found["slow"]).all()


def test_each_method_has_six_configurations_of_each_task():
    every = benchmark_tuning.configurations()
    methods, tasks = zip(*every)
    assert {*methods} == {"rl2", "varibad", "import"}
    assert {*tasks} == {"coupling", "map", "distracting-bus", "cooking"}
    assert {x[0] for x in every if x[1] == "coupling"} == {"varibad"}
    assert len(every) == 10
    for of_one in every.values():
        assert len({*of_one.values()}) == 6 and next(iter(of_one)) == "default"


def test_commands_still_give_the_configurations_of_their_runs(monkeypatch):
    """Also where a default has changed since: then docs/runs.txt names it."""
    found = 0
    for (method, task), of_one in benchmark_tuning.configurations().items():
        script = importlib.import_module(method.replace("import", "import_"))
        for suffix, options in of_one.items():
            runs = benchmark_tuning.ROOT / "results" / method
            for path in runs.glob(f"{task}-{suffix}/10?/config.json"):
                words = "--env", task, "--seed", path.parent.name
                words = ["", *words, *options.split()]
                monkeypatch.setattr("sys.argv", words)
                config = asdict(script.parse()) | {"method": method}
                assert json.loads(path.read_text()) == config, path
                found += 1
    assert found >= 31
