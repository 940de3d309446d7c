"""The best without exploring, by hand and by playing what the search finds."""

import gymnasium
import numpy as np
import pytest

import envs
from no_exploration import Walks, search
from pearl_ub import CITY, COOKING, model


@pytest.mark.parametrize(
    "T, price, best", [(1, 0.1, 1 / 3), (2, 0.1, 0.9), (2, 0.8, 1 / 3)]
)
def test_looking_pays_if_it_is_cheap(T, price, best):
    """Three problems: action p + 1 pays in problem p, action 0 shows p."""
    right = np.eye(3, 4, 1)[:, None]  # (P, S, A), one state
    seen, then = np.zeros((3, 1, 4), int), np.full((3, 1, 4), -1)
    seen[:, 0, 0], then[..., 0], right[..., 0] = range(3), 0, -price
    reward = np.tile(right, (T, 1, 1, 1))
    assert search(seen, 0, then, reward, [0, 1, 2]) == pytest.approx(best)
    assert search(seen, 0, then, reward, [1]) == pytest.approx(1)


def test_in_the_city_one_walks():
    world = model(envs.Bus(), CITY, 0)
    assert search(*world, range(24)) == pytest.approx(0.3)
    assert search(*world, [5]) == pytest.approx(0.8)


def test_two_kitchens():
    """0, 1, 2 or 2, 1, 0; first 0, then 2: the first pick tells which.

    Each of the four stages takes two moves and pays: 4 * (0.25 - 0.2) = 0.2.
    Half of the time the pick is wrong, -0.35, and two more moves away the other
    fridge is right: -0.2.
    """
    world = model(envs.Cooking(), COOKING, 2)
    copies = envs.Cooking()
    two = np.searchsorted(copies.problems["test"], [6, 36])
    assert search(*world, two[:1]) == pytest.approx(0.2)
    assert search(*world, two) == pytest.approx(0.2 - 0.55 / 2)


@pytest.fixture(scope="module")
def sign_nav():
    try:
        task = envs.SignNav(num_envs=1)
    except gymnasium.error.DependencyNotInstalled as error:
        pytest.skip(str(error))
    task.reset(seed=0)
    start = task.episode["pose"][0].copy()
    return start, Walks(task, start)


def begin(problem, instruction, start):
    copies = envs.SignNav(num_envs=len(problem))
    copies.reset(options={"problem": problem, "instruction": instruction})
    copies.episode["pose"][:] = start
    return copies


def test_walks_are_those_of_the_task(sign_nav):
    start, walks = sign_nav
    rng, copies = np.random.default_rng(0), begin([0] * 64, 0, start)
    nodes, over = [((0, 0, 0, 0), 0)] * 64, np.zeros(64, bool)
    for t in range(1, 20):
        actions = rng.choice(3, 64, p=[0.1, 0.1, 0.8])
        _, _, done, _, _ = copies.step(actions)
        pose = copies.episode["pose"]
        for n in np.flatnonzero(~over):
            at, k = nodes[n]
            if actions[n] == 2:
                step = np.eye(4, dtype=int)[k % 4] * (1 if k < 4 else -1)
                moved = tuple(np.add(at, step).tolist())
                kind = walks.place(moved)
                assert done[n] == (kind not in ("wall", "free"))
                assert not done[n] or nodes[n] in walks.contact[kind]
                new = (at, k) if kind == "wall" else (moved, k)
            else:
                new = at, (k + (1, -1)[actions[n]]) % 8
            if not done[n]:
                x, z, heading = walks.pose(new)
                np.testing.assert_allclose(pose[n, :2], [x, z], atol=1e-9)
                turns = (pose[n, 2] - heading) / (2 * np.pi)
                assert abs(turns - round(turns)) < 1e-9
                assert walks.steps[new] <= t
            nodes[n] = new
        over |= done
    assert over.any() and not over.all()


def test_a_way_past_the_sign_to_an_object(sign_nav):
    """What the search has found, played: the sign, then the object: 1."""
    start, walks = sign_nav
    wins = 0
    for thing in range(6):
        problem, instruction = divmod(thing, 3)
        left = walks.left(thing)
        short = [n for n in left if walks.steps[n] + left[n] <= 20]
        node = next(filter(walks.reads, short), None)
        if node is None:
            continue
        way = [node]
        while walks.steps[way[0]]:
            before = walks.before[way[0]]
            way.insert(0, min(before, key=walks.steps.get))
        while left[way[-1]] > 1:
            after = [n for n, b in walks.before.items() if way[-1] in b]
            way.append(min(after, key=lambda n: left.get(n, 99)))
        turns = [(b[1] - a[1]) % 8 for a, b in zip(way, way[1:])]
        actions = [{0: 2, 1: 0, 7: 1}[turn] for turn in turns] + [2]
        copies, viewed, reward = begin([problem], instruction, start), 0, 0
        for action in actions:
            assert reward == 0
            _, (reward,), _, _, info = copies.step(action)
            viewed |= info["sign_in_view"][0]
        assert viewed and reward == 1 and len(actions) <= 20
        wins += 1
    assert wins
