"""The changed copies of benchmark_departures.py and benchmark_coupling.py."""

import functools
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from unittest import mock

import benchmark_changed
import benchmark_coupling
import benchmark_departures
import pytest
import torch

torch.set_num_threads(1)  # bit-identical, and fast where cores are shared


def script_of(text):
    script = sys.modules["changed"] = ModuleType("changed")
    script.__file__ = "changed.py"
    exec(compile(text, "changed.py", "exec"), vars(script))
    return script


def train(script, folder, env, steps, **groups):
    """The last row of a short run, but for its time."""
    args = script.Args()
    args.run.total_steps, args.task.env, args.run.run_dir = steps, env, folder
    small = {"num_envs": 16, "hidden_size": 8, "batch_size": 8}
    vars(args.q_learning).update(small)
    for name, values in groups.items():
        vars(getattr(args, name)).update(values)
    row = script.train(args, mock.MagicMock(n=0))
    return {name: x for name, x in row.items() if name != "seconds"}


@functools.cache
def trained(text):
    with TemporaryDirectory() as folder:
        return train(
            script_of(text), Path(folder), "cooking", 1000,
            dream={"explore_after": 0},
        )  # fmt: skip


@pytest.mark.parametrize("name", benchmark_departures.WITHOUT)
def test_without(name):
    text = (benchmark_departures.ROOT / "dream.py").read_text()
    whole, row = trained(text), trained(benchmark_departures.without(name))
    assert row.keys() == whole.keys() and row != whole


@pytest.mark.parametrize("method", ["dream", "rl2"])
def test_exploration_begins_with_what_execution_has_learned(method, tmp_path):
    agents = []
    for part, steps in (("execution", 64), ("exploration", 0)):
        changes = benchmark_coupling.CHANGES[part, method]
        script = script_of(benchmark_changed.changed(method, changes))
        folder = tmp_path / f"coupling-4-{part}" / "0"
        row = train(script, folder, "coupling", steps)
        agents.append(torch.load(folder / "agent.pt")["agent"])
        assert "exploration_loss" not in row
        if (part, method) == ("execution", "rl2"):
            assert row["problem_shown"] == 1
        if (part, method) == ("execution", "dream"):
            buffer = torch.load(folder / "checkpoint.pt")["buffer"]
            knew = buffer["taus"][1]["knows_mu"][: buffer["added"]]
            assert len(knew) == 32 and knew.all()
    same = {x for x in agents[0] if agents[0][x].equal(agents[1][x])}
    given = ("f.", "pi_exec.") if method == "dream" else ""
    learned = {name for name in agents[0] if name.startswith(given)}
    assert learned <= same and "decoded.weight" not in same
