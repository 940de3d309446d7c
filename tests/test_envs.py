"""The six tasks, held against their specification.

What is expected is worked out by hand or by a second, slow program that knows
only the rules; no figure here was copied from what `envs.py` gave.
"""

import itertools
import pathlib
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs

try:
    WORLD = envs.sign_world()
except gymnasium.error.DependencyNotInstalled:
    WORLD = None
needs_opengl = pytest.mark.skipif(WORLD is None, reason=envs.APT)

CITIES = ["bus", "map", "distracting-bus"]
GRIDS = ["coupling", *CITIES, "cooking"]
TASKS = [*GRIDS, pytest.param("sign-nav", marks=needs_opengl)]
CITY = "left up right down ride end".split()
ACTIONS = {
    "coupling": [*"01234567"],
    "bus": CITY,
    "map": CITY,
    "distracting-bus": CITY,
    "cooking": "left up right down pick drop end".split(),
    "sign-nav": "left right forward".split(),
}


def vector(task, n=1, **kwargs):
    return gymnasium.make_vec(f"imrl/{task}-v0", num_envs=n, **kwargs).unwrapped


def single(task, **kwargs):
    return gymnasium.make(f"imrl/{task}-v0", **kwargs).unwrapped


def options(problem, instruction):
    return {"problem": problem, "instruction": instruction}


def play(task, problem, instruction, actions, T=20):
    """One episode, every step of which must be needed to end it.

    Returns the rewards, the observations, and whether it has ended.
    """
    env, ended = single(task), False
    observation, _ = env.reset(options=options(problem, instruction))
    rewards, seen = [], [observation["observation"].tolist()]
    for action in actions.split():
        assert not ended
        action = ACTIONS[task].index(action)
        observation, reward, ended, truncated, _ = env.step(action)
        assert not truncated
        rewards.append(round(reward, 6))
        seen.append(observation["observation"].tolist())
    return rewards, seen, ended


def play_all(task, problems, instruction, actions):
    """The same actions in a copy for each problem.

    Yields the observations (N, ...), rewards (N,) and info after each step.
    """
    copies = vector(task, len(problems))
    copies.reset(options=options(problems, instruction))
    for action in actions.split():
        action = np.full(len(problems), ACTIONS[task].index(action))
        observation, reward, _, _, info = copies.step(action)
        yield observation["observation"], reward, info


# ------------------------------------------------------------- every task


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_checks_it(task):
    check_env(single(task, render_mode="rgb_array"))


@pytest.mark.parametrize("task", TASKS)
def test_vector_and_single_agree_and_the_ended_are_ignored(task):
    # Starts in sign-nav are random, and the same for a vector of one only.
    n = 1 if task == "sign-nav" else 6
    random = np.random.default_rng(0)
    copies = vector(task, n)
    pairs = random.choice(copies.pairs(), n)
    pairs[: n // 2, 1] = -1  # half of them explore
    observation, info = copies.reset(seed=3, options=options(*pairs.T))
    singles = [single(task) for _ in pairs]
    expected = []
    for env, pair in zip(singles, pairs):
        first, first_info = env.reset(seed=3, options=options(*pair))
        expected.append([first, 0.0, False, first_info])
    reward, ended = np.zeros(n), np.zeros(n, bool)
    for _ in range(21):
        assert observation in copies.observation_space
        for k, (sensed, paid, over, told) in enumerate(expected):
            assert sensed in copies.single_observation_space
            for name, value in sensed.items():
                assert np.array_equal(observation[name][k], value)
            assert told == {name: value[k] for name, value in info.items()}
            assert (paid, over) == (reward[k], ended[k])
        actions = random.integers(copies.single_action_space.n, size=n)
        observation, reward, ended, truncated, info = copies.step(actions)
        assert not truncated.any()
        for k, env in enumerate(singles):
            if expected[k][2]:
                expected[k][1] = 0.0
            else:
                expected[k][:3] = env.step(actions[k])[:3]
                expected[k][3] = {name: info[name][k] for name in info}
    assert ended.all()


@pytest.mark.parametrize("task", TASKS)
def test_end_of_time_is_terminated_and_never_truncated(task):
    T = 1 if task == "coupling" else 20
    copies = vector(task, 2)
    copies.reset(seed=0, options=options(1, [0, "none"]))
    for t in range(1, T + 1):
        _, reward, ended, truncated, _ = copies.step(np.zeros(2, int))
        assert list(ended) == 2 * [t == T]
        assert not truncated.any()
        assert reward[1] == 0
    assert copies.max_steps == T


def offers(kitchen):
    """The ordered pairs of the ingredients that a kitchen holds, numbered."""
    held = {kitchen // 16, kitchen // 4 % 4, kitchen % 4}
    return {4 * a + b for a in held for b in held}


COOKS = {6, 11, 17, 28, 36, 43, 49, 58}
NEW_PAIRS = {4 * 0 + 1, 4 * 2 + 3}
SPLITS = {  # problems and number of instructions
    "coupling": (set(range(8)), set(range(8)), 1),
    "bus": (set(range(24)), set(range(24)), 4),
    "map": (set(range(24)), set(range(24)), 4),
    "distracting-bus": (
        set(range(0, 576, 11)),
        {p for p in range(576) if p % 11},
        4,
    ),
    "cooking": (set(range(64)) - COOKS, COOKS, 16),
    "sign-nav": ({0, 1}, {0, 1}, 3),
}


def split_pairs(task, problems, instructions):
    """All pairs that a split of each of the two allows."""
    train, test, n = SPLITS[task]
    pairs = set()
    for p in train if problems == "train" else test:
        allowed = set(range(n))
        if task == "cooking":
            allowed = offers(p)
            allowed -= NEW_PAIRS if instructions == "train" else set()
        pairs |= {(p, i) for i in allowed}
    return pairs


def as_set(pairs):
    pairs = [tuple(map(int, pair)) for pair in pairs]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


@pytest.mark.parametrize("task", TASKS)
def test_splits(task):
    copies = vector(task)
    train, test, _ = SPLITS[task]
    assert set(copies.problems["train"]) == train
    assert set(copies.problems["test"]) == test
    assert train == test or not train & test
    for split in itertools.product(("train", "test"), repeat=2):
        assert as_set(copies.pairs(*split)) == split_pairs(task, *split)
    all_tests = split_pairs(task, "test", "test")
    assert as_set(copies.groups()["test_return"]) == all_tests


def test_sizes_of_the_splits():
    sizes = {
        task: (len(train), len(test)) for task, (train, test, _) in SPLITS.items()
    }
    assert sizes["distracting-bus"] == (53, 523)
    assert sizes["cooking"] == (56, 8)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_what_is_left_out_is_drawn_from_the_split(task, split):
    """By default an execution episode; every pair of the split turns up."""
    expected = split_pairs(task, split, split)
    copies = vector(task, 20 * len(expected), split=split)
    _, info = copies.reset(seed=0)
    assert set(zip(info["problem"], info["instruction"])) == expected
    _, info = copies.reset(options={"instruction": "none"})
    assert set(info["problem"]) == {p for p, _ in expected}
    assert set(info["instruction"]) == {-1}
    problem = min(expected)[0]
    _, info = copies.reset(options={"problem": problem})
    assert set(info["problem"]) == {problem}
    drawn = set(info["instruction"])
    assert drawn == {i for p, i in expected if p == problem}
    instruction = max(i for _, i in expected)
    _, info = copies.reset(options={"instruction": instruction})
    drawn = set(zip(info["problem"], info["instruction"]))
    assert drawn == {pair for pair in expected if pair[1] == instruction}


@pytest.mark.parametrize("task", TASKS)
def test_instruction_tokens(task):
    """Which one it is; two ingredients in cooking; the last means none."""
    copies = vector(task)
    space = copies.single_observation_space["instruction"]
    n = SPLITS[task][2]
    tokens = [[i // 4, i % 4] if task == "cooking" else [i] for i in range(n)]
    assert list(space.nvec) == [max(column) + 2 for column in zip(*tokens)]
    for i in (*range(n), "none"):
        kitchens = [p for p in range(64) if i in offers(p)]
        problem = kitchens[0] if task == "cooking" and i != "none" else 1
        observation, _ = copies.reset(options=options(problem, i))
        expected = list(space.nvec - 1) if i == "none" else tokens[i]
        assert observation["instruction"][0].tolist() == expected


@pytest.mark.parametrize(
    "given, name",
    [
        ({"problem": -1}, "problem"),
        ({"problem": 24}, "problem"),
        ({"problem": 0.5}, "problem"),
        ({"problem": "none"}, "problem"),
        ({"problem": [0, 1, 2]}, "problem"),
        ({"instruction": -2}, "instruction"),
        ({"instruction": 4}, "instruction"),
        ({"instruction": "all"}, "instruction"),
        ({"instruction": [0, 1, 2]}, "instruction"),
        ({"goal": 1}, "goal"),
    ],
)
def test_bad_options(given, name):
    with pytest.raises(ValueError, match=name):
        vector("bus", 2).reset(options=given)
    with pytest.raises(ValueError, match=name):
        single("bus").reset(options=given)


def test_instruction_that_the_kitchen_does_not_offer():
    with pytest.raises(ValueError, match="instruction"):
        single("cooking").reset(options=options(0, 5))


@pytest.mark.parametrize("actions", [[6, 0], [-1, 0], [0.5, 0], [0], 0])
def test_bad_actions(actions):
    copies = vector("bus", 2)
    copies.reset(options=options(0, 0))
    with pytest.raises(ValueError, match="action"):
        copies.step(actions)


def test_bad_action_split_and_step_after_the_end():
    with pytest.raises(ValueError, match="split"):
        single("bus", split="validation")
    env = single("bus")
    env.reset(options=options(0, 0))
    with pytest.raises(ValueError, match="action"):
        env.step(6)
    env.step(5)
    with pytest.raises(ValueError, match="step"):
        env.step(0)


@pytest.mark.parametrize("task", TASKS)
def test_pictures(task):
    env = single(task, render_mode="rgb_array")
    env.reset(seed=0, options=options(1, 0))
    before = env.render().copy()
    assert before.dtype == np.uint8
    assert before.ndim == 3 and before.shape[2] == 3
    env.step(0)
    assert env.render().shape == before.shape
    if task != "coupling":  # where nothing moves
        assert (env.render() != before).any()
    copies = vector(task, 2, render_mode="rgb_array")
    copies.reset(seed=0, options=options([0, 1], 0))
    pictures = copies.render()
    assert len(pictures) == 2 and pictures[1].shape == before.shape
    if task != "sign-nav":  # whose starts are random
        assert np.array_equal(pictures[1], before)


def test_grids_do_without_opengl_and_signs_say_what_is_missing():
    code = f"""
import sys, gymnasium, envs
for task in {GRIDS}:
    gymnasium.make(f"imrl/{{task}}-v0").reset()
    gymnasium.make_vec(f"imrl/{{task}}-v0", num_envs=2).reset()
assert not {{"pyglet", "miniworld"}} & set(sys.modules)
sys.modules["miniworld"] = None
try:
    gymnasium.make("imrl/sign-nav-v0")
except gymnasium.error.DependencyNotInstalled as error:
    assert "apt-get install" in str(error)
else:
    raise AssertionError("no error")
"""
    folder = pathlib.Path(envs.__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


# --------------------------------------------------------------- coupling


@pytest.mark.parametrize("problem", range(8))
def test_coupling(problem):
    for action in ACTIONS["coupling"]:
        paid = float(action == str(problem))
        assert play("coupling", problem, 0, action) == (
            [paid],
            [[8], [8]],
            True,
        )
        shown = problem if action == "7" else 8
        assert play("coupling", problem, "none", action) == (
            [0],
            [[8], [shown]],
            True,
        )
    assert vector("coupling").optimal_return([problem], [0]) == [1]


def test_coupling_of_another_size():
    copies = vector("coupling", 3, num_actions=3)
    copies.reset(options=options([0, 1, 2], "none"))
    observation, reward, *_ = copies.step(np.array([2, 2, 2]))
    assert observation["observation"].tolist() == [[0], [1], [2]]
    assert copies.single_action_space.n == 3


# --------------------------------------------------------------- bus city

CENTRES = (4, 5), (5, 4), (3, 4), (4, 3)
CORNERS = (0, 1), (0, 7), (8, 1), (8, 7)
USELESS_CENTRES = (5, 5), (3, 3), (3, 5), (5, 3)
USELESS_CORNERS = (0, 4), (4, 0), (8, 4), (4, 8)
ORDERS = [*itertools.permutations(range(4))]


@pytest.mark.parametrize("task", CITIES)
@pytest.mark.parametrize("column", range(9))
def test_every_cell_and_every_wall(task, column):
    """Nothing but the map tells the problems apart until a bus is taken."""
    stops = {*CENTRES, *CORNERS}
    if task == "distracting-bus":
        stops |= {*USELESS_CENTRES, *USELESS_CORNERS}
    problems = vector(task).pairs()[::4, 0]
    x, y = 4, 4
    walk = abs(column - 4) * ["left" if column < 4 else "right"]
    walk += {0: ["left"], 8: ["right"]}.get(column, [])
    walk += 5 * ["up"] + 9 * ["down"]
    steps = play_all(task, problems, "none", " ".join(walk))
    for move, (seen, reward, _) in zip(walk, steps, strict=True):
        dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, 1)}.get(
            move, (0, -1)
        )
        x, y = min(max(x + dx, 0), 8), min(max(y + dy, 0), 8)
        expected = [[x, y, (x, y) in stops]] * len(problems)
        if task == "map":
            token = problems if (x, y) == (7, 3) else 24 + 0 * problems
            expected = np.column_stack([expected, token])
        assert np.array_equal(seen, expected)
        assert (reward == 0).all()
    assert (x, y) == (column, 0)


ROUTES = ["up", "right", "left", "down"]  # to the four centre stops
USELESS_ROUTES = ["up right", "left down", "left up", "right down"]


@pytest.mark.parametrize("task", CITIES)
@pytest.mark.parametrize("bus", range(4))
def test_both_ways_of_every_bus(task, bus):
    """Permutations in itertools' order; distracting: 24 useful + useless."""
    problems = np.arange(576 if task == "distracting-bus" else 24)
    useful = problems // 24 if task == "distracting-bus" else problems
    kinds = [(ROUTES[bus], CENTRES[bus], CORNERS, useful)]
    if task == "distracting-bus":
        useless = USELESS_CENTRES[bus], USELESS_CORNERS, problems % 24
        kinds.append((USELESS_ROUTES[bus], *useless))
    for route, centre, corners, order in kinds:
        there = [corners[ORDERS[index][bus]] for index in order]
        rides = play_all(task, problems, "none", route + " ride ride ride")
        *_, there_1, back, there_2 = [seen for seen, *_ in rides]
        assert np.array_equal(there_1[:, :2], there)
        assert (back[:, :2] == centre).all()
        assert np.array_equal(there_1, there_2)
        assert (there_1[:, 2] == 1).all() and (back[:, 2] == 1).all()


@pytest.mark.parametrize("task", CITIES)
@pytest.mark.parametrize(
    "instruction, actions, corner",
    [
        (0, "up ride down", [0, 0]),
        (1, "down ride up", [8, 8]),
        (2, "right ride up", [0, 8]),
        (3, "left ride down", [8, 0]),
    ],
)
def test_three_steps_to_each_goal(task, instruction, actions, corner):
    """Problem 0 joins the stops in the order in which they are listed."""
    rewards, seen, ended = play(task, 0, instruction, actions)
    assert rewards == [-0.1, -0.1, 1.0]
    assert ended and seen[-1][:2] == corner
    # Neither another corner nor any corner in exploration ends an episode.
    other = (instruction + 1) % 4
    rewards, _, ended = play(task, 0, other, actions)
    assert rewards == 3 * [-0.1] and not ended
    rewards, _, ended = play(task, 0, "none", actions)
    assert rewards == [0, 0, 0] and not ended


@pytest.mark.parametrize(
    "problem, actions, cell",
    [
        (0, "left ride", [8, 1, 1]),
        (1, "left ride", [8, 7, 1]),
        (9, "up ride", [0, 7, 1]),
        (9, "left ride", [8, 7, 1]),
        (9, "down ride", [0, 1, 1]),
        (23, "right ride", [8, 1, 1]),
    ],
)
def test_permutations_written_out(problem, actions, cell):
    """1 swaps the last two; 9 is second, third, fourth, first; 23 reverses."""
    assert play("bus", problem, 0, actions)[1][-1] == cell


CITY_EPISODES = [  # instruction, actions, rewards, ended
    (0, "ride up up ride", 4 * [-0.1], False),
    (0, 4 * "left " + 4 * "down ", 7 * [-0.1] + [1], True),
    (0, 4 * "left " + 12 * "up " + 4 * "down ", 20 * [-0.1], True),
    (2, 16 * "left " + 4 * "up ", 19 * [-0.1] + [1], True),
    (1, "end", [-2.0], True),
    (1, "up ride left end", [-0.1, -0.1, -0.1, -1.7], True),
    (1, 19 * "left " + "end", 20 * [-0.1], True),
    ("none", "up end", [0, 0], True),
    ("none", 20 * "ride ", 20 * [0], True),
]


@pytest.mark.parametrize("task", CITIES)
@pytest.mark.parametrize("instruction, actions, rewards, ended", CITY_EPISODES)
def test_city_episodes(task, instruction, actions, rewards, ended):
    result = play(task, 0, instruction, actions)
    assert (result[0], result[2]) == (rewards, ended)


def test_riding_off_a_stop_does_nothing():
    _, seen, _ = play("bus", 0, 0, "ride up up ride")
    cells = [[4, 4, 0], [4, 4, 0], [4, 5, 1], [4, 6, 0], [4, 6, 0]]
    assert seen == cells


def test_three_useful_stops_take_ten_steps_of_exploration():
    """An ideal exploration episode: ten steps, then `end`."""
    walk = "up ride ride right down ride ride left left ride"
    corners = [[0, 1, 1], [0, 7, 1], [8, 1, 1]]
    _, seen, _ = play("bus", 0, "none", walk)
    assert [seen[2], seen[6], seen[10]] == corners
    *_, (_, _, info) = play_all("bus", [0], "none", walk)
    assert info["buses"] == [3]
    walk = "up right ride ride left ride"
    *_, (_, _, info) = play_all("distracting-bus", [0], "none", walk)
    assert (info["useful_buses"], info["useless_buses"]) == ([1], [1])


def test_map_tells_the_problem_after_four_steps():
    for problem in (0, 5, 23):
        walk = "right right right down up end"
        _, seen, _ = play("map", problem, "none", walk)
        assert [cell[3] for cell in seen] == [24] * 4 + [problem, 24, 24]


@pytest.mark.parametrize("task", CITIES)
def test_city_optimum(task):
    copies = vector(task)
    pairs = copies.pairs("train")
    if task == "distracting-bus":
        pairs = np.concatenate([pairs, copies.pairs()[::7]])
    assert np.allclose(copies.optimal_return(*pairs.T), 0.8)


# ---------------------------------------------------------------- cooking

MOVES = {"left": (-1, 0), "up": (0, 1), "right": (1, 0), "down": (0, -1)}
START = (1, 1, 4, (), 0)
TO_ONE = "right pick left drop "  # from the pot and back
TO_THREE = "right up pick down left drop "
# Kitchen 39 = 16 * 2 + 4 * 1 + 3; instructions 4 * first + second
COOKING_EPISODES = [
    # The optima: both in the middle, one of them, none of them.
    (5, TO_ONE + TO_ONE, 4 * [-0.1, 0.25]),
    (7, TO_ONE + TO_THREE, [-0.1, 0.25] * 2 + [-0.1, -0.1, 0.25] * 2),
    (
        11,
        TO_THREE.replace("up", "UP").replace("down", "up").replace("UP", "down")
        + TO_THREE,
        4 * [-0.1, -0.1, 0.25],
    ),
    # pick elsewhere: nothing; drop with empty hands on the pot: nothing
    (7, "pick drop " + TO_ONE, [-0.1, -0.1, -0.1, 0.25, -0.1, 0.25]),
    # (a) in stage 0, for the same again as well; then the right one instead
    (
        7,
        "right down pick pick left up pick right pick",
        [-0.1, -0.1, -0.35, -0.35, -0.1, -0.1, -0.1, -0.1, 0.25],
    ),
    # Stage 1: waiting costs a step, also picking what is held already.
    (7, "right pick pick up", [-0.1, 0.25, -0.1, -0.1]),
    # (b) in stage 1: thrown away, then stage 0 pays for holding it again
    (7, "right pick drop pick drop", [-0.1, 0.25, -0.45, 0.25, -0.45]),
    # (b) in stage 1 by another pick, which (a) punishes in stage 0 only
    (
        7,
        "right pick up pick pick down pick",
        [-0.1, 0.25, -0.1, -0.45, -0.35, -0.1, 0.25],
    ),
    # (a) in stage 2, not for moving on with a wrong one in the hands
    (
        7,
        TO_ONE + "right pick up pick",
        [-0.1, 0.25, -0.1, 0.25, -0.1, -0.35, -0.1, 0.25],
    ),
    # (b) in stage 3: one stage back, not two
    (
        7,
        TO_ONE + "right up pick drop pick down left drop",
        [-0.1, 0.25, -0.1, 0.25, -0.1, -0.1, 0.25, -0.45, 0.25]
        + [-0.1, -0.1, 0.25],
    ),
    # A wrong one in the first place spoils it; (b) from then on.
    (
        7,
        "right down pick up left drop " + TO_ONE,
        [-0.1, -0.1, -0.35, -0.1, -0.1, -0.1, -0.1, 0.25, -0.1, -0.45],
    ),
    # A wrong one in the second place spoils that.
    (
        7,
        TO_ONE + TO_ONE + TO_THREE,
        [-0.1, 0.25, -0.1, 0.25, -0.1, -0.35, -0.1, -0.1]
        + [-0.1, -0.1, 0.25, -0.1, -0.1, -0.45],
    ),
    (7, "right pick end", [-0.1, 0.25, -1.8]),
    (7, 20 * "pick ", 20 * [-0.1]),
    ("none", TO_ONE + TO_ONE + "up end", 10 * [0]),
    ("none", 20 * "drop ", 20 * [0]),
]


@pytest.mark.parametrize("instruction, actions, rewards", COOKING_EPISODES)
def test_cooking_episodes(instruction, actions, rewards):
    result, seen, ended = play("cooking", 39, instruction, actions)
    assert result == rewards
    steps, all_done = actions.split(), rewards.count(0.25) == 4
    undone = rewards.count(-0.45)
    if not undone:
        assert ended == (all_done or "end" in steps or len(steps) == 20)


def test_kitchen_seen():
    """x, y, stands (fridge 0, pot 1, nothing 2), held, the pot's places."""
    kitchen = vector("cooking").single_observation_space["observation"]
    assert kitchen.nvec.tolist() == [3, 3, 3, 5, 5, 5, 5]
    walk = "right pick left drop right up pick down down pick left drop"
    _, seen, _ = play("cooking", 39, "none", walk)
    assert seen == [
        [1, 1, 1, 4, 4, 4, 4],
        [2, 1, 0, 4, 4, 4, 4],
        [2, 1, 0, 1, 4, 4, 4],
        [1, 1, 1, 1, 4, 4, 4],
        [1, 1, 1, 4, 1, 4, 4],
        [2, 1, 0, 4, 1, 4, 4],
        [2, 2, 0, 4, 1, 4, 4],
        [2, 2, 0, 3, 1, 4, 4],
        [2, 1, 0, 3, 1, 4, 4],
        [2, 0, 0, 3, 1, 4, 4],
        [2, 0, 0, 2, 1, 4, 4],  # picked instead of what was held
        [1, 0, 2, 2, 1, 4, 4],
        [1, 0, 2, 4, 1, 4, 4],  # thrown away
    ]


def test_full_pot_takes_nothing_more():
    first = "right down pick up left drop "
    _, seen, _ = play("cooking", 39, 7, first + TO_ONE * 3)
    pots = [cell[3:] for cell in seen[6::4]]
    assert pots == [[4, 2, 4, 4], [4, 2, 1, 4], [4, 2, 1, 1], [4, 2, 1, 1]]
    rewards, _, _ = play("cooking", 39, 7, first + TO_ONE * 3)
    assert rewards[6:] == [-0.1, 0.25, -0.1, -0.45] * 3


@pytest.mark.parametrize("walk", ["left left", "up up", "down down"])
def test_kitchen_walls(walk):
    _, seen, _ = play("cooking", 39, 7, walk + " right right right")
    assert seen[1] == seen[2]
    assert seen[4] == seen[5] and seen[4][0] == 2


def test_kitchens_look_alike_until_a_pick_succeeds():
    walk = "pick right down up up left pick left down drop down right down"
    for seen, _, _ in play_all("cooking", np.arange(64), "none", walk):
        assert (seen == seen[0]).all()
    *_, (seen, _, _) = play_all("cooking", np.arange(64), "none", "right pick")
    assert np.array_equal(seen[:, 3], np.arange(64) // 4 % 4)


def cook(kitchen, pair, state, action):
    """The rules once more: state, reward, whether all is done."""
    x, y, held, pot, stage = state
    dx, dy = MOVES.get(action, (0, 0))
    x, y = min(max(x + dx, 0), 2), min(max(y + dy, 0), 2)
    picked = action == "pick" and x == 2
    if picked:
        held = kitchen[y]
    if action == "drop":
        if (x, y) == (1, 1) and held != 4 and len(pot) < 3:
            pot = (*pot, held)
        held = 4
    holding, reward = stage % 2 == 0, -0.1
    wanted = pair[stage // 2]
    place = pot[stage // 2 : stage // 2 + 1]
    if (held == wanted) if holding else (place == (wanted,)):
        stage, reward = stage + 1, 0.25
    elif holding and picked:
        reward = -0.1 - 0.25
    elif not holding and held != wanted:
        stage, reward = stage - 1, -0.1 - 0.35
    return (x, y, held, pot, stage), reward, stage == 4


def fridges(problem):
    return problem // 16, problem // 4 % 4, problem % 4


def test_random_cooking_against_the_rules():
    copies, random = vector("cooking"), np.random.default_rng(0)
    pairs = np.concatenate([copies.pairs("train"), copies.pairs()])
    # Those who cook at random rarely drop on the pot: let them, where it is.
    actions = random.choice(7, (20, len(pairs)), p=[*6 * [0.165], 0.01])
    copies = vector("cooking", len(pairs))
    copies.reset(options=options(*pairs.T))
    states, over = [START] * len(pairs), [False] * len(pairs)
    pots = set()
    for t, now in enumerate(actions):
        if t % 5 in (1, 3):  # fetch and bring back
            now = np.where(t % 5 == 1, 4, 5) + 0 * now
        observation, reward, ended, _, _ = copies.step(now)
        for k, (problem, i) in enumerate(pairs):
            expected = 0.0
            if not over[k] and now[k] == 6:
                expected, over[k] = -0.1 * (20 - t), True
            elif not over[k]:
                action = ACTIONS["cooking"][now[k]]
                states[k], expected, over[k] = cook(
                    fridges(problem), (i // 4, i % 4), states[k], action
                )
            over[k] = over[k] or t == 19
            x, y, held, pot, _ = states[k]
            stands = 0 if x == 2 else 1 if x == y == 1 else 2
            padded = [*pot, 4, 4, 4][:3]
            seen = observation["observation"][k].tolist()
            assert seen == [x, y, stands, held, *padded]
            assert reward[k] == pytest.approx(expected)
            assert ended[k] == over[k]
            pots.add(len(pot))
    assert max(state[4] for state in states) >= 2 and pots >= {0, 1, 2}


def best_return(kitchen, pair):
    """All that can be done in 20 steps, of equal states the best."""
    best, totals = -np.inf, {START: 0.0}
    for t in range(20):
        after = {}
        for state, total in totals.items():
            best = max(best, total - 0.1 * (20 - t))
            for action in ACTIONS["cooking"][:-1]:
                new, reward, over = cook(kitchen, pair, state, action)
                if over:
                    best = max(best, total + reward)
                elif total + reward > after.get(new, -np.inf):
                    after[new] = total + reward
        totals = after
    return max(best, *totals.values())


@pytest.mark.parametrize(
    "problem, first, second, optimum",
    [
        (39, 1, 1, 0.6),
        (39, 3, 1, 0.4),
        (39, 2, 2, 0.2),
        (58, 2, 3, 0.4),
        (17, 0, 1, 0.4),
        (28, 1, 1, 0.2),
        (0, 0, 0, 0.6),
    ],
)
def test_cooking_optimum(problem, first, second, optimum):
    found = vector("cooking").optimal_return([problem], [4 * first + second])
    assert found == pytest.approx(optimum)
    slow = best_return(fridges(problem), (first, second))
    assert slow == pytest.approx(optimum)


def test_cooking_optimum_everywhere():
    """0.2, and 0.2 more for each that the middle fridge holds."""
    copies = vector("cooking")
    pairs = np.concatenate([copies.pairs("train"), copies.pairs()])
    problem, i = pairs.T
    middle = problem // 4 % 4
    near = 1 * (i // 4 == middle) + (i % 4 == middle)
    optimum = copies.optimal_return(problem, i)
    assert np.allclose(optimum, 0.2 + 0.2 * near)


def test_cooking_groups():
    groups = vector("cooking").groups()
    assert len(groups) == 5
    for kitchen, problems in (("seen", "train"), ("unseen", "test")):
        pairs = split_pairs("cooking", problems, "test")
        old = {pair for pair in pairs if pair[1] not in NEW_PAIRS}
        assert as_set(groups[f"return_{kitchen}_seen"]) == old
        assert as_set(groups[f"return_{kitchen}_unseen"]) == pairs - old


# --------------------------------------------------------------- sign-nav

SIGN = np.array([10, 10.25])
# of ball, block and key; blue is problem 0, red is problem 1
PLACES = [[(1, 1), (9, 5), (5, 1)], [(9, 1), (1, 5), (1, 9)]]
LEFT, RIGHT, FORWARD = range(3)


def put(poses, problem=0, instruction=0):
    """Copies of sign-nav that stand at these poses (N, 3)."""
    copies = vector("sign-nav", len(poses))
    copies.reset(seed=0, options=options(problem, instruction))
    copies.episode["pose"][:] = poses
    return copies


def act(copies, action):
    return copies.step(np.full(copies.num_envs, action))


def draw(problem, poses):
    """Frames of any number of poses."""
    poses, frames = np.array(poses, float), []
    for start in range(0, len(poses), 64):
        batch = poses[start : start + 64]
        problems = np.full(len(batch), problem)
        frames.append(WORLD.draw(problems, batch).copy())
    return np.concatenate(frames)


def facing(x, z, target=SIGN):
    """The pose at (x, z) that looks at the target; heading pi/2 is -z."""
    return x, z, np.arctan2(z - target[1], target[0] - x)


@needs_opengl
def test_the_sign_is_not_in_view_from_the_start():
    quarters = np.linspace(4, 5, 5)
    headings = np.radians(np.arange(0, 360, 5))
    poses = [*itertools.product(quarters, quarters, headings)]
    tenths = np.linspace(4, 5, 11)
    for x, z in itertools.product(tenths, tenths):
        poses.append(facing(x, z))
    assert np.array_equal(draw(0, poses), draw(1, poses))


@needs_opengl
def test_the_sign_in_view():
    """Frames differ within 5.5 m, and the measure says so."""
    spots = [(4.6, 10.25), (6, 8), (7, 12), (8, 10.25), (9, 9)]
    poses = np.array([facing(*spot) for spot in spots])
    blue, red = draw(0, poses), draw(1, poses)
    assert (blue != red).any((1, 2, 3)).all()
    far, away = facing(4.4, 10.25), (8, 10.25, np.pi)
    assert (draw(0, [far]) != draw(1, [far])).any()
    assert np.array_equal(draw(0, [away]), draw(1, [away]))
    poses = np.array([*poses, far, away])
    for problem, frames in enumerate((blue, red)):
        copies = put(poses - [0, 0, np.pi / 4], problem, "none")
        observation, _, _, _, info = act(copies, LEFT)
        assert info["sign_in_view"].tolist() == 5 * [True] + [False, False]
        assert np.array_equal(observation["observation"][:5], frames)


@needs_opengl
def test_two_environments_show_two_signs():
    pose = np.array([facing(7, 10)]) - [0, 0, np.pi / 4]
    blue, red = put(pose, 0), put(pose, 1)
    first = [act(copies, LEFT)[0]["observation"] for copies in (blue, red)]
    assert (first[0] != first[1]).any()
    # Turning away and back leaves each where it was, whatever the other does.
    for seed in range(10):
        other = vector("sign-nav")
        other.reset(seed=seed)
        for copies, frame in ((blue, first[0]), (red, first[1])):
            if seed < 5:
                act(copies, RIGHT)
                assert np.array_equal(act(copies, LEFT)[0]["observation"], frame)
            copies.render()
        red.reset(seed=seed, options=options(1, 0)) if seed >= 5 else None
    red.episode["pose"][:] = pose
    assert np.array_equal(act(red, LEFT)[0]["observation"], first[1])
    act(blue, RIGHT)
    assert np.array_equal(act(blue, LEFT)[0]["observation"], first[0])


def some_poses(n):
    """Poses all over the world, also close to walls and objects."""
    random = np.random.default_rng(0)
    return random.uniform((0.4, 0.4, -np.pi), (9.6, 12.6, np.pi), (n, 3))


@needs_opengl
def test_a_frame_does_not_depend_on_its_tile():
    poses = some_poses(64)
    frames = draw(0, poses)
    assert np.array_equal(draw(0, poses[::-1])[::-1], frames)
    for k in (0, 9, 63):
        assert np.array_equal(draw(0, poses[[k]])[0], frames[k])
        assert (draw(0, poses[[k] * 64]) == frames[k]).all()


@needs_opengl
@pytest.mark.parametrize("problem, word", enumerate(["BLUE", "RED"]))
def test_frames_are_what_the_library_draws(problem, word):
    poses = some_poses(30)
    poses[:10] = [facing(x, 11) for x in np.linspace(5, 9, 10)]
    frames = draw(problem, poses)
    WORLD.say(word)
    for (x, z, heading), frame in zip(poses, frames):
        WORLD.agent.pos, WORLD.agent.dir = np.array([x, 0, z]), heading
        assert np.array_equal(WORLD.render_obs(), frame)


@needs_opengl
def test_start_poses_and_frames_come_from_the_seed():
    one, other = vector("sign-nav", 200), vector("sign-nav", 200)
    frames = one.reset(seed=1)[0]["observation"]
    assert frames.shape == (200, 60, 80, 3) and frames.dtype == np.uint8
    assert np.array_equal(other.reset(seed=1)[0]["observation"], frames)
    x, z, heading = one.episode["pose"].T
    for value in (x, z):
        assert 4 <= value.min() < 4.05 and 4.95 < value.max() <= 5
    octants = np.floor(heading / (np.pi / 4)) % 8
    assert set(octants) == set(range(8))
    assert (other.reset(seed=2)[0]["observation"] != frames).any()


def test_objects_stand_apart():
    places = np.array(PLACES).reshape(6, 2)
    apart = [np.hypot(*(a - b)) for a, b in itertools.combinations(places, 2)]
    assert min(apart) > 3.8


@needs_opengl
@pytest.mark.parametrize("instruction", [0, 1, 2, "none"])
@pytest.mark.parametrize("problem", [0, 1])
def test_contact(problem, instruction):
    """+1 for the instructed shape in the sign's color, -1 for any other."""
    middle = np.array([4.5, 4.5])
    outside, inside, before = [], [], []
    for place in np.array(PLACES, float).reshape(6, 2):
        side = (middle - place) / np.hypot(*(middle - place))
        outside.append((*(place + 1.95 * side), 0))
        inside.append((*(place + 1.7 * side), 0))
        before.append(facing(*(place + 2.2 * side), place))
    expected = [-1.0] * 6
    if instruction == "none":
        expected = [0.0] * 6
    else:
        expected[3 * problem + instruction] = 1.0
    _, reward, ended, _, _ = act(put(outside, problem, instruction), LEFT)
    assert not ended.any() and (reward == 0).all()
    for poses, action in ((inside, LEFT), (before, FORWARD)):
        copies = put(poses, problem, instruction)
        _, reward, ended, truncated, _ = act(copies, action)
        assert reward.tolist() == expected
        assert ended.all() and not truncated.any()


@needs_opengl
@pytest.mark.parametrize(
    "heading, steps, problem, instruction, paid",
    [
        (3, 5, 0, 0, 1.0),  # to the blue ball, which is right
        (3, 5, 1, 0, -1.0),  # of the wrong color
        (3, 5, 0, 1, -1.0),  # of the wrong shape
        (3, 5, 0, "none", 0.0),
        (-3, 6, 1, 2, 1.0),  # to the red key
        (-3, 6, 0, 2, -1.0),
    ],
)
def test_walks_from_the_start(heading, steps, problem, instruction, paid):
    """A step is 0.495 m each way, once turned left to 135 degrees."""
    pose = [(4.5, 4.5, (heading - 1) * np.pi / 4)]
    copies = put(pose, problem, instruction)
    actions = [LEFT] + steps * [FORWARD]
    results = [act(copies, action) for action in actions]
    assert [result[1][0] for result in results] == steps * [0] + [paid]
    assert [result[2][0] for result in results] == steps * [False] + [True]
    x, z, _ = copies.episode["pose"][0]
    way = 0.7 * steps / np.sqrt(2)
    assert np.allclose((x, z), (4.5 - way, 4.5 - np.sign(heading) * way))
    # It has ended: what follows moves and pays nothing, and shows the same.
    last = results[-1][0]["observation"]
    observation, reward, _, _, _ = act(copies, RIGHT)
    assert reward == [0] and np.array_equal(observation["observation"], last)
    assert np.allclose(copies.episode["pose"][0, :2], (x, z))


@needs_opengl
def test_walls_stop_and_the_way_round_does_not():
    north, south = np.pi / 2, -np.pi / 2
    walls = [
        (0.5, 3, np.pi),
        (9.5, 3, 0),
        (3, 0.5, north),
        (5, 12.5, south),
        (7, 6, south),  # the barrier from the front
        (9.5, 7.2, north),  # and from behind
        (4.5, 6.625, 0),  # its end, at x = 5
    ]
    copies = put(walls)
    _, reward, ended, _, _ = act(copies, FORWARD)
    assert np.allclose(copies.episode["pose"], walls)
    assert (reward == 0).all() and not ended.any()
    copies = put([(3.5, 6, south), (4.5, 10, 0)])
    act(copies, FORWARD)
    act(copies, FORWARD)
    assert np.allclose(copies.episode["pose"][:, :2], [(3.5, 7.4), (5.9, 10)])


@needs_opengl
def test_eight_turns_make_a_circle():
    copies = put(some_poses(8) * [0, 0, 1] + [4.5, 4.5, 0])
    start = copies.episode["pose"].copy()
    for action in (LEFT, RIGHT):
        for turn in range(1, 9):
            observation, *_ = act(copies, action)
            turned = (copies.episode["pose"] - start)[:, 2]
            angle = turn if action == LEFT else 8 - turn
            assert np.allclose(turned, angle * np.pi / 4)
        assert np.array_equal(observation["observation"], draw(0, start))


@needs_opengl
def test_sign_nav_optimum():
    pairs = vector("sign-nav").pairs()
    assert (vector("sign-nav").optimal_return(*pairs.T) == 1).all()
