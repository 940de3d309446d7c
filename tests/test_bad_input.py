"""Whatever is passed: it is right, or there is a clear message.

To reset and step, a ValueError; on the command line, status 2.
"""

import io
import math
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import fields
from unittest import mock

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dream
import envs
import import_
import rl2
import varibad

N = 3
COPIES = {}
for name in envs.TASKS:
    with suppress(gymnasium.error.DependencyNotInstalled):  # OpenGL
        vector = gymnasium.make_vec(f"imrl/{name}-v0", num_envs=N)
        COPIES[name] = vector.unwrapped
numbers = st.integers(-3, 600) | st.integers() | st.floats()
anything = (
    numbers | st.booleans() | st.text(max_size=5)
    | st.lists(numbers, max_size=4)
    | st.lists(st.integers(-1, 4), min_size=N, max_size=N)
    | st.lists(st.lists(st.integers(0, 3)), max_size=3)
    | st.dictionaries(st.text(max_size=2), numbers, max_size=2)
)
bounded = settings(max_examples=150, deadline=None, derandomize=True)
tasks = pytest.mark.parametrize("task", COPIES)


def whole(value, low, size):
    """Value as N whole numbers from low to size - 1, or None."""
    values = value if isinstance(value, list) else [value] * N
    right = [type(x) is int and low <= x < size for x in values]
    return values if len(values) == N and all(right) else None


@tasks
@bounded
@given(value=anything)
def test_problem(task, value):
    copies = COPIES[task]
    options = {"problem": value, "instruction": "none"}
    expected = whole(value, 0, copies.num_problems)
    if expected is None:
        with pytest.raises(ValueError, match="problem"):
            copies.reset(options=options)
    else:
        _, info = copies.reset(options=options)
        assert info["problem"].tolist() == expected


@tasks
@bounded
@given(value=anything, problem=st.integers(0, 7))
def test_instruction(task, value, problem):
    copies = COPIES[task]
    problem %= copies.num_problems
    options = {"problem": problem, "instruction": value}
    offered = copies.offers["test"][problem]
    expected = whole(value, -1, len(offered) - 1)
    explore = value == "none"
    if explore:
        expected = [-1] * N
    if expected is None or not offered[expected].all():
        with pytest.raises(ValueError, match="instruction"):
            copies.reset(options=options)
    else:
        _, info = copies.reset(options=options)
        assert info["instruction"].tolist() == expected


@tasks
@bounded
@given(value=anything)
def test_actions(task, value):
    copies = COPIES[task]
    copies.reset(seed=0)
    expected = whole(value, 0, len(copies.actions))
    if expected is None:
        before = copies.t.copy(), copies.problem
        with pytest.raises(ValueError, match="actions"):
            copies.step(value)
        assert (copies.t == before[0]).all()
    else:
        batch, reward, _, _, _ = copies.step(value)
        assert batch in copies.observation_space
        assert np.isfinite(reward).all()


@tasks
@bounded
@given(value=anything)
def test_an_action_of_a_single_copy(task, value):
    env = gymnasium.make(f"imrl/{task}-v0").unwrapped
    with pytest.raises(ValueError, match="reset"):
        env.step(0)
    env.reset(seed=0)
    if type(value) is int and 0 <= value < len(env.task.actions):
        _, _, ended, _, _ = env.step(value)
        if ended:
            with pytest.raises(ValueError, match="reset"):
                env.step(0)
    else:
        with pytest.raises(ValueError, match="actions"):
            env.step(value)


@tasks
@bounded
@given(name=st.text(), split=st.text())
def test_names(task, name, split):
    if name not in ("problem", "instruction"):
        with pytest.raises(ValueError, match="options: problem, instruction"):
            COPIES[task].reset(options={name: 0})
    if split not in ("train", "test"):
        with pytest.raises(ValueError, match="split"):
            gymnasium.make_vec(f"imrl/{task}-v0", split=split)


METHODS = {"dream": dream, "rl2": rl2, "import": import_, "varibad": varibad}
NUMBERS = [f.name for f in fields(dream.Args) if f.type in (int, float)]
words = (
    st.integers(-3, 3) | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(["1e3", "nan", "-inf", "1_000", "0x10", "true", "--"])
).map(str)


@pytest.mark.parametrize("method", METHODS)
@settings(bounded, max_examples=50)
@given(name=st.sampled_from(NUMBERS), word=words)
def test_command_line(method, name, word):
    """A number in the range of the option, or one message and status 2."""
    method, option = METHODS[method], "--" + name.replace("_", "-")
    error, args = io.StringIO(), None
    with mock.patch("sys.argv", ["script", f"{option}={word}"]):
        with redirect_stderr(error), redirect_stdout(io.StringIO()):
            try:
                args = method.parse()
            except SystemExit as stopped:
                said = error.getvalue()
                assert stopped.code == 2 and "Traceback" not in said
                assert option in said
    if args is None:
        with pytest.raises((ValueError, TypeError)):  # or an unknown option
            kind = type(getattr(dream.Args, name))
            method.Args(**{name: kind(word)})
    else:
        value = getattr(args, name)
        assert math.isfinite(value) and value >= 0 and value == float(word)
        assert value <= 1 or name not in method.SHARES
        assert value > 0 or name in method.MAY_BE_0
