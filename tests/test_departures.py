"""What benchmark_departures.py leaves out can be left out, and still runs."""

import functools
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from unittest import mock

import benchmark_departures
import pytest
import torch

torch.set_num_threads(1)  # bit-identical, and fast where cores are shared


@functools.cache
def trained(text):
    """The last row of a short run of a changed dream.py."""
    script = sys.modules["changed"] = ModuleType("changed")
    script.__file__ = "dream.py"
    exec(compile(text, "dream.py", "exec"), vars(script))
    args = script.Args()
    args.run.total_steps, args.task.env = 1000, "cooking"
    args.dream.explore_after = 0
    small = {"num_envs": 16, "hidden_size": 8, "batch_size": 8}
    vars(args.q_learning).update(small)
    with TemporaryDirectory() as folder:
        args.run.run_dir = Path(folder)
        row = script.train(args, mock.MagicMock(n=0))
    return {name: x for name, x in row.items() if name != "seconds"}


@pytest.mark.parametrize("name", benchmark_departures.WITHOUT)
def test_without(name):
    text = (benchmark_departures.ROOT / "dream.py").read_text()
    whole, row = trained(text), trained(benchmark_departures.without(name))
    assert row.keys() == whole.keys() and row != whole
