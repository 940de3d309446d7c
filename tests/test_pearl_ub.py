"""PEARL-UB, held against sums by hand and episodes that are really played.

The simulation shares no code with `pearl_ub.py`: its policies come from the
rules, written once more; its posterior from playing in all problems.
"""

import functools
import itertools

import gymnasium
import numpy as np
import pytest

import envs
from pearl_ub import pearl_ub

CORNERS = (0, 0), (8, 8), (0, 8), (8, 0)
INNER = (4, 5), (5, 4), (3, 4), (4, 3)
OUTER = (0, 1), (0, 7), (8, 1), (8, 7)
ORDERS = [*itertools.permutations(range(4))]

KITCHENS = [6, 17, 36]  # (0, 1, 2), (1, 0, 1), (2, 1, 0): no ingredient 3
POTS = [pot for n in range(4) for pot in itertools.product(range(3), repeat=n)]
STATES = itertools.product(range(3), range(3), (0, 1, 2, 4), POTS, range(4))
STATES = {state: k for k, state in enumerate(STATES)}


def make(task, n):
    return gymnasium.make_vec(f"imrl/{task}-v0", num_envs=n).unwrapped


# Three, because each keeps the episodes that it plays.
watch, pay, play = (functools.lru_cache(None)(make) for _ in range(3))


@functools.cache
def distances(problem, corner):
    """Steps from every cell of a city to a corner, and each action's cell."""
    cells = [*itertools.product(range(9), repeat=2)]
    to = {cell: cell for cell in cells}
    for bus, stop in enumerate(ORDERS[problem]):
        to[INNER[bus]], to[OUTER[stop]] = OUTER[stop], INNER[bus]
    after = {}
    for x, y in cells:
        ways = (max(x - 1, 0), y), (x, min(y + 1, 8))
        ways += (min(x + 1, 8), y), (x, max(y - 1, 0))
        after[x, y] = [*ways, to[x, y]]
    steps = {CORNERS[corner]: 0}
    for n in range(1, 20):
        for cell in set(cells) - steps.keys():
            if any(steps.get(way) == n - 1 for way in after[cell]):
                steps[cell] = n
    return steps, after


def stage_after(stage, held, pot, instruction):
    wanted = divmod(instruction, 4)[stage // 2]
    if stage % 2 == 0:
        return stage + (held == wanted)
    if pot[stage // 2 :][:1] == (wanted,):
        return stage + 1
    return stage - (held != wanted)


def cook(problem, instruction, state, action):
    """The rules of the kitchen: new state and reward."""
    x, y, held, pot, stage = state
    dx, dy = [(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (0, 0)][action]
    x, y = min(max(x + dx, 0), 2), min(max(y + dy, 0), 2)
    picks = action == 4 and x == 2
    if picks:
        held = problem // 4 ** (2 - y) % 4
    if action == 5:
        if (x, y) == (1, 1) and held < 4 and len(pot) < 3:
            pot = (*pot, held)
        held = 4
    after, reward = stage_after(stage, held, pot, instruction), -0.1
    if after > stage:
        reward = 0.25
    elif after < stage:
        reward = -0.45
    elif picks and stage % 2 == 0:
        reward = -0.35
    return (x, y, held, pot, after), reward


@functools.cache
def recipe(problem, instruction):
    """The best actions of a kitchen, [t][state, action]."""
    then, reward = np.zeros((2, len(STATES), 6))
    for state, k in STATES.items():
        for a in range(6):
            new, reward[k, a] = cook(problem, instruction, state, a)
            then[k, a] = STATES.get(new, -1)  # -1: done, all stages
    value, best = np.zeros(len(STATES) + 1), []
    for left in range(1, 21):
        q = np.full((len(STATES), 7), -0.1 * left)
        q[:, :6] = reward + value[then.astype(int)]
        value[:-1] = q.max(1)
        best.insert(0, q > value[:-1, None] - 1e-9)
    return best


class Coupling:
    """What an agent keeps in mind of an episode: here, nothing."""

    steps, done = 1, True

    def __init__(self, instruction):
        pass

    def best(self, guess, t):
        return [guess]

    def look(self, seen):
        pass


class City:
    """Where it is."""

    steps, done = 20, False

    def __init__(self, corner):
        self.corner, self.cell = corner, (4, 4)

    def best(self, guess, t):
        steps, after = distances(guess, self.corner)
        if steps[self.cell] > 20 - t:
            return range(6)
        ways = enumerate(after[self.cell])
        return [a for a, way in ways if steps[way] < steps[self.cell]]

    def look(self, seen):
        self.cell = tuple(seen[:2])
        self.done = self.cell == CORNERS[self.corner]


class Kitchen:
    """What it sees, and the stage that follows from it."""

    steps, done = 20, False

    def __init__(self, instruction):
        self.instruction, self.state = instruction, (1, 1, 4, (), 0)

    def best(self, guess, t):
        best = recipe(guess, self.instruction)[t][STATES[self.state]]
        return np.flatnonzero(best)

    def look(self, seen):
        x, y, _, held, *pot = seen
        pot = tuple(item for item in pot if item < 4)
        stage = stage_after(self.state[4], held, pot, self.instruction)
        self.state, self.done = (x, y, held, pot, stage), stage == 4


MINDS = {"coupling": Coupling, "bus": City, "map": City, "cooking": Kitchen}


def trial(task, rewards, random):
    """Explore, keep what is consistent, guess, execute: the return."""
    offers = play(task, 1).offers["test"][:, :-1]
    problems = np.array(play(task, 1).test_problems or range(len(offers)))
    offers = offers[problems]
    real, instruction = random.choice(np.argwhere(offers))
    belief = np.ones(len(problems))

    def draw(weights):
        return random.choice(len(weights), p=weights / weights.sum())

    if rewards:
        given = draw(offers[real])
        belief = belief * offers[:, given] / offers.sum(1)
        guess = draw(belief)
    else:
        guess = draw(belief)
        given = draw(offers[guess])

    # The same actions in all problems, to see which of them look like this.
    watched = watch(task, len(problems))
    watched.reset(options={"problem": problems, "instruction": "none"})
    if rewards:
        able = np.flatnonzero(offers[:, given])
        paying = pay(task, len(able))
        paying.reset(options={"problem": problems[able], "instruction": given})
    mind = MINDS[task](given)
    for t in range(mind.steps):
        action = random.choice(mind.best(problems[guess], t))
        seen = watched.step(np.full(len(problems), action))[0]["observation"]
        belief *= (seen == seen[real]).all(1)
        if rewards:
            paid = paying.step(np.full(len(able), action))[1]
            belief[able] *= np.isclose(paid, paid[able == real])
        mind.look(seen[real].tolist())
        if mind.done or watched.done[real]:
            break

    guess = draw(belief * offers[:, instruction] / offers.sum(1))
    env, mind, total = play(task, 1), MINDS[task](instruction), 0.0
    chosen = {"problem": problems[real], "instruction": instruction}
    env.reset(options=chosen)
    for t in range(mind.steps):
        action = random.choice(mind.best(problems[guess], t))
        observation, reward, over, _, _ = env.step(np.array([action]))
        mind.look(observation["observation"][0].tolist())
        total += reward[0]
        if over[0]:
            return total


@pytest.fixture
def few_kitchens(monkeypatch):
    monkeypatch.setattr(envs.Cooking, "test_problems", KITCHENS)


@functools.cache
def exact(task):
    return pearl_ub(task)


@pytest.mark.parametrize("rewards", [False, True])
@pytest.mark.parametrize("task, n", [
    ("coupling", 1000), ("bus", 200), ("map", 200), ("cooking", 300),
])
def test_played_trials_agree(task, n, rewards, few_kitchens):
    random = np.random.default_rng(0)
    returns = [trial(task, rewards, random) for _ in range(n)]
    error = np.std(returns) / np.sqrt(n)
    expected = exact(task)[1 + rewards].mean()
    assert abs(np.mean(returns) - expected) < 4 * error


def test_coupling_by_hand():
    """1/8 asks. With rewards 1/8 of the others hit, the rest leave 7 open."""
    _, without, told = exact("coupling")
    assert without.mean() == pytest.approx(1 / 8 + 7 / 8 / 8)
    hits, misses = 7 / 8 * 1 / 8, 7 / 8 * 7 / 8
    assert told.mean() == pytest.approx(1 / 8 + hits + misses / 7)


def test_two_cities_by_hand(monkeypatch):
    """They differ in two buses, and go to each corner by one.

    Half of the explorations tell them apart. After the others, instructions
    that need one of the two are executed rightly, 0.8, or never, -2.
    """
    monkeypatch.setattr(envs.Bus, "test_problems", [0, 1])
    _, *results = pearl_ub("bus")
    unsure = (0.8 - 2) / 2
    by_corner = [0.8, (0.8 + unsure) / 2, 0.8, (0.8 + unsure) / 2]
    assert np.allclose(results, 2 * by_corner)


TASKS = ["coupling", "bus", "map", "distracting-bus", "cooking"]


@pytest.mark.parametrize("task", TASKS)
def test_nothing_beats_the_optimum(task, few_kitchens, monkeypatch):
    some = [1, 2, 24, 30, 100, 575]
    monkeypatch.setattr(envs.DistractingBus, "test_problems", some)
    optimum, without, told = exact(task)
    copies = make(task, 1)
    assert np.allclose(optimum, copies.optimal_return(*copies.pairs().T))
    for result in (without, told):
        assert (result <= optimum + 1e-9).all()
        assert result.mean() < optimum.mean()


def test_sign_nav_by_hand():
    assert pearl_ub("sign-nav").mean(1).tolist() == [1, 0, 1]
