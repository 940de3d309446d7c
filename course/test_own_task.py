"""A task of your own, TASKS["own"] in envs.py: what makes it a good one.

For small tasks: `hidden` tries all plans there are, if they are not too many.
"""

import subprocess
import sys
from csv import DictReader
from itertools import product

import numpy as np

import envs

EPISODES = 500  # of random exploration, in each problem


def make(num_envs=1, **options):
    assert "own" in envs.TASKS, 'envs.py must say TASKS["own"] = ...'
    task = envs.make("own", num_envs, **options)
    task.reset(seed=0)
    return task


def play(task, actions):
    """Observations (N, T + 1, F) of actions (N, T); the last info."""
    observations = [task.observation]
    for action in actions.T:
        batch, *_, info = task.step(action)
        observations.append(batch["observation"])
    return np.stack(observations, 1), info


# --- rules --------------------------------------------------------------------
def test_rules_of_spaces():
    task = make(64)
    random, A = np.random.default_rng(0), len(task.actions)
    for begin in task.explore, task.execute:
        batch, _ = begin()
        for _ in range(task.max_steps):
            message = "an observation must be in `space`, an array (N, F)"
            assert batch in task.observation_space, message
            batch, reward, done, *_ = task.step(random.integers(A, size=64))
            message = "there must be a finite reward (N,) of each copy"
            assert reward.shape == (64,) and np.isfinite(reward).all(), message
        assert done.all(), "an episode must end after max_steps"
        message = "a state must be whole numbers below state_sizes, (N, S)"
        sizes = np.array(task.state_sizes)
        assert task.state.shape == (64, len(sizes)), message
        assert ((task.state >= 0) & (task.state < sizes)).all(), message


def test_rules_of_functions():
    """They change nothing, draw nothing, and copies do not meet."""
    task = make(32)
    task.explore()
    random, A = np.random.default_rng(0), len(task.actions)
    for _ in range(task.max_steps):
        action = random.integers(A, size=32)
        inputs = task.mu, task.goal, task.state, action
        kept = [x.copy() for x in inputs]
        after = task.dynamics(*inputs)[0]
        task.sense(task.mu, task.state)
        found = task.discover(task.mu, task.state, action, after)
        message = "functions must not change the arrays that they are given"
        assert all((x == y).all() for x, y in zip(inputs, kept)), message
        message = "the same step must lead to the same state"
        assert (task.dynamics(*inputs)[0] == after).all(), message
        for n in range(32):
            alone = task.dynamics(*[x[n : n + 1] for x in inputs])[0]
            message = "a copy must step as it would alone"
            assert (alone[0] == after[n]).all(), message
        message = "discover must return an array (N, K) for each of `finds`"
        assert len(found) == len(task.finds), message
        assert all(x.shape[0] == 32 and x.ndim == 2 for x in found), message
        task.step(action)


# --- hidden -------------------------------------------------------------------
def returns(task, actions):
    """What a plan (T,) earns in each test pair, (P,)."""
    problem, instruction = task.pairs().T
    task = make(len(problem), split="test")
    task.explore(problem)
    task.execute(instruction)
    return play(task, np.tile(actions, (len(problem), 1)))[1]["return"]


def test_hidden_problems_look_alike():
    problems = np.arange(make().num_problems)
    task = make(len(problems))
    for batch, _ in (task.explore(problems), task.execute()):
        seen = batch["observation"]
        message = "before the first step, no observation may tell the problem"
        assert (seen == seen[0]).all(), message


def test_hidden_no_plan_is_good_in_all_problems():
    """Of each instruction, the best plan that looks at nothing."""
    task = make(split="test")
    A, T = len(task.actions), task.max_steps
    if A**T <= 10_000:
        plans = np.array([*product(range(A), repeat=T)])
    else:
        plans = np.random.default_rng(0).integers(A, size=(2_000, T))
    pairs = task.pairs()
    best = task.optimal_return(*pairs.T).mean()
    table = np.array([returns(task, plan) for plan in plans])
    blind = [
        table[:, pairs[:, 1] == i].mean(1).max() for i in np.unique(pairs[:, 1])
    ]
    message = "who knows the problem must earn 0.3 more than who does not"
    assert best >= np.mean(blind) + 0.3, message


# --- found --------------------------------------------------------------------
def test_found_by_random_exploration():
    """Some of the same actions look different in any two problems."""
    task = make()
    P, A, T = task.num_problems, len(task.actions), task.max_steps
    plans = np.random.default_rng(0).integers(A, size=(EPISODES, T))
    many = make(P * EPISODES)
    many.explore(np.arange(P).repeat(EPISODES))
    seen, _ = play(many, np.tile(plans, (P, 1)))
    seen = seen.reshape(P, EPISODES, -1)
    for p, q in product(range(P), repeat=2):
        share = (seen[p] != seen[q]).any(1).mean()
        message = (
            f"random exploration must tell problem {p} from {q} in 1 of 50"
        )
        assert p == q or share >= 0.02, f"{message}, not {share:.3f}"


# --- learned ------------------------------------------------------------------
def test_learned_by_dream(tmp_path):
    """Who does not explore is at least 0.3 below the optimum: `hidden`."""
    make()
    command = [sys.executable, "dream.py", "--env", "own", "--device", "cpu"]
    command += ["--total-steps", "8000", "--explore-after", "500"]
    command += ["--checkpoint-minutes", "0", "--run-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"dream.py fails: {done.stderr[-500:]}"
    with open(tmp_path / "progress.csv") as file:
        row = [*DictReader(file)][-1]
    earned, best = float(row["test_return"]), float(row["optimal_return"])
    message = f"DREAM must come within 0.2 of the optimum, {best:.2f}"
    assert earned >= best - 0.2, f"{message}: it earns {earned:.2f}"
