"""What the method scripts share is the same to the letter."""

import ast
import inspect
from pathlib import Path

import pytest

import dream
import import_
import rl2
import varibad

ROOT = Path(__file__).resolve().parent.parent
END_TO_END = rl2, import_, varibad
EVERYWHERE = (
    "RunArgs TaskArgs QLearningArgs mlp Memory reader QHead lambda_returns "
    "valid act ReplayBuffer save loading run_directory parse main"
).split()
OF_WHOLE_TRIALS = "join q_losses remember load_agent"


@pytest.mark.parametrize("script", END_TO_END)
def test_what_every_method_has(script):
    for name in EVERYWHERE:
        here, there = getattr(script, name), getattr(dream, name)
        assert inspect.getsource(here) == inspect.getsource(there), name
    check = inspect.getsource(script.Args.__post_init__)
    assert check == inspect.getsource(dream.Args.__post_init__)
    for name in ("COUNTS", "SHARES"):
        assert getattr(script, name) == getattr(dream, name), name
    for name in (*dream.COUNTS, *dream.SHARES):
        assert dream.RANGES[name] == script.RANGES[name], name


@pytest.mark.parametrize("script", [import_, varibad])
def test_what_learning_of_whole_trials_has(script):
    for name in OF_WHOLE_TRIALS.split():
        here, there = getattr(script, name), getattr(rl2, name)
        assert inspect.getsource(here) == inspect.getsource(there), name
    assert script.READ == rl2.READ


TUNED = {  # docs/tuning.md
    (rl2, "map"): {"priority": 0.0},
    (rl2, "distracting-bus"): {"cut_traces": False},
    (rl2, "bus"): {"cut_traces": False},
    (varibad, "coupling"): {"learning_rate": 2e-3},
    (import_, "map"): {"learning_rate": 1e-3},
}


@pytest.mark.parametrize("script", END_TO_END)
def test_defaults_of_a_task_are_of_all_methods(script):
    """But for the options of the methods themselves, and what was tuned."""
    for env in {*dream.DEFAULTS, *script.DEFAULTS}:
        shared = []
        for method in (dream, script):
            groups = method.RunArgs(), method.QLearningArgs()
            names = {name for group in groups for name in vars(group)}
            of_task = method.DEFAULTS.get(env, {}).items()
            shared.append({name: x for name, x in of_task if name in names})
        assert shared[0] | TUNED.get((script, env), {}) == shared[1], env


def imported(path):
    """The modules that a script imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def test_no_script_imports_another_but_envs():
    """But plot.py, and sweep.py, which are in several files."""
    scripts = {path.stem: path for path in ROOT.glob("*.py")}
    assert {"dream", "rl2", "import_", "varibad", "envs"} <= {*scripts}
    allowed = {"plot": {"envs", "page", "trials"}, "sweep": {"envs", "jobs"}}
    allowed |= {"page": {"envs", "trials"}}
    allowed |= {"envs": set(), "jobs": set()}
    for name, path in scripts.items():
        others = {*imported(path)} & {*scripts}
        assert others <= allowed.get(name, {"envs"}), name
