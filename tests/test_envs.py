"""The grid tasks and their protocol, held against their specification.

What is expected was worked out by hand or by a second, slow program that knows
only the rules: no figure here was copied from what `envs.py` gave.
"""

import copy
import itertools
import pathlib
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_equal

import envs

CITIES = ["bus", "map", "distracting-bus"]
GRIDS = ["coupling", *CITIES, "cooking"]
TASKS = [*GRIDS, "bus-show-id"]
MOVES = {"left": (-1, 0), "up": (0, 1), "right": (1, 0), "down": (0, -1)}
ACTIONS = {city: [*MOVES, "ride", "end"] for city in CITIES}
ACTIONS["bus-show-id"] = ACTIONS["bus"]
ACTIONS["cooking"] = [*MOVES, "pick", "drop", "end"]


def vector(task, n=1, **kwargs):
    return gymnasium.make_vec(f"imrl/{task}-v0", num_envs=n, **kwargs).unwrapped


def single(task, **kwargs):
    return gymnasium.make(f"imrl/{task}-v0", **kwargs).unwrapped


def options(problem, instruction):
    return {"problem": problem, "instruction": instruction}


def play(task, problem, instruction, actions):
    """Rewards, observations, and whether the last action ended the episode."""
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


def explore(task, problems, actions):
    """The same in many problems: what is seen (N, ...), info, step by step."""
    copies = vector(task, len(problems))
    copies.reset(options=options(problems, "none"))
    for action in actions.split():
        action = np.full(len(problems), ACTIONS[task].index(action))
        observation, reward, ended, _, info = copies.step(action)
        assert not reward.any() and not ended.any()
        yield observation["observation"], info


# ------------------------------------------------------------- every task


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_checks_it(task):
    check_env(single(task, render_mode="rgb_array"))


@pytest.mark.parametrize("task", TASKS)
def test_a_vector_is_many_singles(task):
    """The ended are ignored; what was returned stays as it was."""
    n = 6
    random = np.random.default_rng(0)
    copies, singles = vector(task, n), [single(task) for _ in range(n)]
    pairs = random.choice(copies.pairs(), n)
    pairs[1::2, 1] = -1  # these explore
    observation, info = copies.reset(seed=3, options=options(*pairs.T))
    now = observation, np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), info
    alone = [
        env.reset(seed=3, options=options(*pair))
        for env, pair in zip(singles, pairs)
    ]
    alone = [(first, 0.0, False, False, info) for first, info in alone]
    history = []
    for _ in range(21):
        history.append((now, copy.deepcopy(now)))
        assert now[0] in copies.observation_space
        for k, result in enumerate(alone):
            assert result[0] in copies.single_observation_space
            pick = [
                {name: value[k] for name, value in part.items()}
                if isinstance(part, dict)
                else part[k]
                for part in now
            ]
            assert_equal(pick, list(result))
        actions = random.integers(copies.single_action_space.n, size=n)
        now = copies.step(actions)
        for k, (before, _, ended, _, info) in enumerate(alone):
            alone[k] = before, 0.0, True, False, info
            if not ended:
                alone[k] = singles[k].step(actions[k])
    assert now[2].all()
    for returned, was in history:
        assert_equal(returned, was)


@pytest.mark.parametrize("task", TASKS)
def test_the_last_step_terminates_and_never_truncates(task):
    T = 1 if task == "coupling" else 20
    copies = vector(task, 2)
    copies.reset(seed=0, options=options(1, [0, -1]))
    for t in range(1, T + 1):
        _, reward, ended, truncated, _ = copies.step(np.zeros(2, int))
        assert list(ended) == 2 * [t == T]
        assert not truncated.any() and reward[1] == 0
    assert copies.max_steps == T


def offers(kitchen):
    """Ordered pairs 4 * first + second of what a kitchen holds."""
    held = {kitchen // 16, kitchen // 4 % 4, kitchen % 4}
    return {4 * first + second for first in held for second in held}


NEW_KITCHENS = {6, 11, 17, 28, 36, 43, 49, 58}
NEW_PAIRS = {4 * 0 + 1, 4 * 2 + 3}
EVERY_11TH = set(range(0, 576, 11))
SPLITS = {  # problems for training, for testing; number of instructions
    "coupling": ({*range(8)}, {*range(8)}, 1),
    "bus": ({*range(24)}, {*range(24)}, 4),
    "map": ({*range(24)}, {*range(24)}, 4),
    "distracting-bus": (EVERY_11TH, {*range(576)} - EVERY_11TH, 4),
    "cooking": ({*range(64)} - NEW_KITCHENS, NEW_KITCHENS, 16),
    "bus-show-id": ({*range(24)}, {*range(24)}, 4),
}


def split_pairs(task, problems, instructions):
    """{(problem, instruction)} of two splits."""
    train, test, n = SPLITS[task]
    pairs = itertools.product(train if problems == "train" else test, range(n))
    if task != "cooking":
        return set(pairs)
    new = NEW_PAIRS if instructions == "train" else set()
    return {(p, i) for p, i in pairs if i in offers(p) - new}


def as_set(pairs):
    found = {tuple(pair) for pair in np.array(pairs).tolist()}
    assert len(found) == len(pairs)
    return found


@pytest.mark.parametrize("task", TASKS)
def test_splits(task):
    copies = vector(task)
    train, test, _ = SPLITS[task]
    assert set(copies.problems["train"]) == train
    assert set(copies.problems["test"]) == test
    if task == "distracting-bus":
        assert (len(train), len(test), train & test) == (53, 523, set())
    for split in itertools.product(("train", "test"), repeat=2):
        assert as_set(copies.pairs(*split)) == split_pairs(task, *split)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_what_is_left_out_is_drawn_from_the_split(task, split):
    """An execution episode by default; every pair of the split turns up."""
    expected = split_pairs(task, split, split)
    copies = vector(task, 20 * len(expected), split=split)

    def drawn(**given):
        _, info = copies.reset(seed=0, options=given)
        return set(zip(info["problem"], info["instruction"]))

    assert drawn() == expected
    assert drawn(instruction="none") == {(p, -1) for p, _ in expected}
    problem, instruction = max(expected)
    some = {pair for pair in expected if pair[0] == problem}
    assert drawn(problem=problem) == some
    some = {pair for pair in expected if pair[1] == instruction}
    assert drawn(instruction=instruction) == some


@pytest.mark.parametrize("task", TASKS)
def test_instruction_tokens(task):
    """Which one it is; two ingredients in cooking; the last means none."""
    n, copies = SPLITS[task][2], vector(task)
    tokens = {i: [i // 4, i % 4] if n == 16 else [i] for i in range(n)}
    tokens["none"] = [4, 4] if n == 16 else [n]
    sizes = copies.single_observation_space["instruction"].nvec
    assert [size - 1 for size in sizes] == tokens["none"]
    for i, expected in tokens.items():
        observation, _ = copies.reset(options={"instruction": i})
        assert observation["instruction"].tolist() == [expected]


@pytest.mark.parametrize("env", [vector("bus", 2), single("bus")])
@pytest.mark.parametrize("value", [-2, 24, 0.5, "all", [0, 1, 2], []])
@pytest.mark.parametrize("name", ["problem", "instruction", "goal"])
def test_bad_options(env, name, value):
    with pytest.raises(ValueError, match=name):
        env.reset(options={name: value})


def test_bad_arguments():
    copies, env = vector("bus", 2), single("bus")
    copies.reset()
    env.reset(options=options(0, 0))
    for actions in ([6, 0], [-1, 0], [0.5, 0], [0], 6):
        with pytest.raises(ValueError, match="action"):
            copies.step(actions)
    with pytest.raises(ValueError, match="action"):
        env.step(6)
    env.step(5)
    with pytest.raises(ValueError, match="reset"):
        env.step(0)
    with pytest.raises(ValueError, match="problem"):
        env.reset(options={"problem": "none"})
    with pytest.raises(ValueError, match="instruction"):
        single("cooking").reset(options=options(0, 5))  # is not in the fridges
    with pytest.raises(ValueError, match="split"):
        single("bus", split="validation")
    with pytest.raises(ValueError, match="setting.*online"):
        single("bus", setting="offline")
    with pytest.raises(ValueError, match="setting"):
        single("cooking", setting="standard")  # kitchens differ in their goals
    with pytest.raises(ValueError, match="env.*cooking"):
        envs.make("kitchen")
    with pytest.raises(ValueError, match="reset"):
        vector("bus").step(0)
    with pytest.raises(ValueError, match="problem"):
        copies.explore([0, 24])
    with pytest.raises(ValueError, match="instruction"):
        copies.execute([0, 4])


def test_the_same_seed_draws_the_same():
    def drawn(seed):
        task = envs.make("bus", 50, setting="imrl-rewards")
        task.reset(seed=seed)
        infos = [task.explore()[1], task.execute()[1]]
        return [info[k] for info in infos for k in ("problem", "instruction")]

    assert_equal(drawn(3), drawn(3))
    assert not np.array_equal(drawn(3), drawn(4))


def test_given_arrays_are_not_shared():
    """Who reuses an array of problems does not move a live episode."""
    task, problem = envs.make("map", 2), np.array([3, 4])
    _, info = task.explore(problem)
    problem[:] = 0
    assert info["problem"].tolist() == [3, 4]
    assert task.execute()[1]["problem"].tolist() == [3, 4]
    task = envs.make("coupling", 2)
    task.explore()[0]["observation"][:] = 0
    assert task.step([0, 0])[0]["observation"].tolist() == [[8], [8]]


@pytest.mark.parametrize("task", TASKS)
def test_optimum(task):
    """Cooking: 0.2 more for each ingredient in the middle fridge."""
    copies = vector(task)
    pairs = np.concatenate([copies.pairs("train", "test"), copies.pairs()[::7]])
    optimum = 1.0 if task == "coupling" else 0.8
    if task == "cooking":
        middle, i = pairs[:, 0] // 4 % 4, pairs[:, 1]
        optimum = 0.2 + 0.2 * (i // 4 == middle) + 0.2 * (i % 4 == middle)
    assert np.allclose(copies.optimal_return(*pairs.T), optimum)


@pytest.mark.parametrize("task", TASKS)
def test_pictures(task):
    env = single(task, render_mode="rgb_array")
    copies = vector(task, 2, render_mode="rgb_array")
    env.reset(seed=0, options=options(1, 0))
    copies.reset(seed=0, options=options([0, 1], 0))
    before, pictures = env.render().copy(), copies.render()
    assert before.dtype == np.uint8
    assert before.ndim == 3 and before.shape[2] == 3
    assert [picture.shape for picture in pictures] == 2 * [before.shape]
    env.step(0)
    if task != "coupling":  # where nothing moves
        assert (env.render() != before).any()
    assert_equal(pictures[1], before)


def test_grids_do_without_opengl():
    code = f"""
import sys, gymnasium, envs
for task in {TASKS}:
    gymnasium.make(f"imrl/{{task}}-v0").reset()
    gymnasium.make_vec(f"imrl/{{task}}-v0", num_envs=2).reset()
assert not {{"pyglet", "miniworld", "sign_nav"}} & set(sys.modules)
"""
    folder = pathlib.Path(envs.__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


# --------------------------------------------------------------- coupling


@pytest.mark.parametrize("A", [8, 3])
def test_coupling(A):
    """Every action in every problem; the last token means nothing."""
    problems, actions = np.divmod(np.arange(A * A), A)
    copies = vector("coupling", A * A, num_actions=A)
    for instruction in (0, "none"):
        first, _ = copies.reset(options=options(problems, instruction))
        assert_equal(first["observation"], np.full((A * A, 1), A))
        observation, reward, ended, *_ = copies.step(actions)
        explores = instruction == "none"
        shows = explores & (actions == A - 1)
        shown = np.where(shows, problems, A)
        assert_equal(observation["observation"][:, 0], shown)
        assert_equal(reward, (problems == actions) * (1.0 - explores))
        assert ended.all()


# --------------------------------------------------------------- bus city

INNER = (4, 5), (5, 4), (3, 4), (4, 3), (5, 5), (3, 3), (3, 5), (5, 3)
OUTER = (0, 1), (0, 7), (8, 1), (8, 7), (0, 4), (4, 0), (8, 4), (4, 8)
WAYS = "up", "right", "left", "down"  # to the inner stops
WAYS += "up right", "left down", "left up", "right down"
ORDERS = np.array([*itertools.permutations(range(4))])


def all_problems(task):
    return np.arange(576 if task == "distracting-bus" else 24)


@pytest.mark.parametrize("column", range(9))
@pytest.mark.parametrize("task", CITIES)
def test_every_cell_and_every_wall(task, column):
    """Nothing but the map tells problems apart before a bus is taken."""
    problems = all_problems(task)
    buses = 8 if task == "distracting-bus" else 4
    stops = {*INNER[:buses], *OUTER[:buses]}
    side = "left" if column < 4 else "right"
    walk = abs(column - 4) * [side] + 5 * ["up"] + 9 * ["down"]
    if column in (0, 8):
        walk.insert(0, side)  # once too often
    (x, y), visited = (4, 4), False
    steps = explore(task, problems, " ".join(walk))
    for move, (seen, info) in zip(walk, steps):
        dx, dy = MOVES[move]
        x, y = min(max(x + dx, 0), 8), min(max(y + dy, 0), 8)
        expected = [[x, y, (x, y) in stops]] * len(problems)
        if task == "map":
            token = problems if (x, y) == (7, 3) else 24 + 0 * problems
            expected = np.column_stack([expected, token])
            visited = visited or (x, y) == (7, 3)
            assert (info["map_visited"] == visited).all()
        assert_equal(seen, expected)
    assert (x, y) == (column, 0)
    assert visited == (task == "map" and column == 7)


USEFUL = [*itertools.product(CITIES, range(4))]
USELESS = [("distracting-bus", bus) for bus in range(4, 8)]


@pytest.mark.parametrize("task, bus", USEFUL + USELESS)
def test_both_ways_of_every_bus(task, bus):
    """Permutations in itertools' order; distracting: 24 useful + useless."""
    problems, useful = all_problems(task), bus < 4
    order = problems
    if task == "distracting-bus":
        order = problems // 24 if useful else problems % 24
    to = ORDERS[order, bus % 4] + 4 * (not useful)
    rides = explore(task, problems, WAYS[bus] + " ride ride ride")
    *_, (there, _), (back, _), (again, info) = rides
    assert_equal(there[:, :3], [(*OUTER[stop], 1) for stop in to])
    assert_equal(back[:, :3], [(*INNER[bus], 1)] * len(problems))
    assert_equal(again, there)
    if task == "distracting-bus":
        assert (info["useful_buses"] == useful).all()
        assert (info["useless_buses"] == (not useful)).all()


# The shortest way to learn all four buses, the fourth by exclusion
THREE_STOPS = "up ride ride right down ride ride left left ride"
CITY_EPISODES = [  # problem, instruction, actions, rewards, last cell, ended
    # 0 joins the stops as listed, 1 swaps the last two, 9 = (2, 3, 4, 1)
    (0, 0, "up ride down", [-0.1, -0.1, 1], (0, 0), True),
    (0, 1, "down ride up", [-0.1, -0.1, 1], (8, 8), True),
    (0, 2, "right ride up", [-0.1, -0.1, 1], (0, 8), True),
    (0, 3, "left ride down", [-0.1, -0.1, 1], (8, 0), True),
    (1, 3, "down ride down", [-0.1, -0.1, 1], (8, 0), True),
    (9, 0, "down ride down", [-0.1, -0.1, 1], (0, 0), True),
    (9, 1, "left ride up", [-0.1, -0.1, 1], (8, 8), True),
    (0, 3, "up ride down", 3 * [-0.1], (0, 0), False),
    (0, "none", "up ride down", 3 * [0], (0, 0), False),
    (0, 0, "ride up up ride", 4 * [-0.1], (4, 6), False),  # off the stops
    (0, 0, 4 * "left " + 4 * "down ", 7 * [-0.1] + [1], (0, 0), True),
    (0, 2, 16 * "left " + 4 * "up ", 19 * [-0.1] + [1], (0, 8), True),
    (0, 0, 20 * "left ", 20 * [-0.1], (0, 4), True),
    (0, 0, "end", [-2], (4, 4), True),
    (0, 1, "up ride left end", 3 * [-0.1] + [-1.7], (0, 1), True),
    (0, 1, 19 * "left " + "end", 20 * [-0.1], (0, 4), True),
    (0, "none", "up end", [0, 0], (4, 5), True),
    (0, "none", 20 * "left ", 20 * [0], (0, 4), True),
    (0, "none", THREE_STOPS + " end", 11 * [0], (8, 1), True),
]


def test_useful_and_useless_buses():
    """A bus counts once, where it is ridden from its stop, in whatever city."""
    walk = THREE_STOPS.replace("up ride", "ride up ride")
    counts = [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    for task in ("bus", "distracting-bus"):
        for (_, info), count in zip(explore(task, [0, 7], walk), counts):
            assert info["useful_buses"].tolist() == [count, count]
            assert not info["useless_buses"].any()
    walk = "right up ride ride down left left down ride"
    counts = [0, 0, 1, 1, 1, 1, 1, 1, 2]
    steps = explore("distracting-bus", [0, 7], walk)
    for (_, info), count in zip(steps, counts):
        assert info["useless_buses"].tolist() == [count, count]
        assert not info["useful_buses"].any()


def test_who_has_ended_finds_nothing_and_pays_nothing():
    task = envs.make("map", 3)
    task.explore([0, 1, 2])
    for actions in ([2, 5, 2], [2, 2, 5], [2, 2, 2], [3, 3, 3]):
        *_, info = task.step(actions)
    assert info["map_visited"].tolist() == [1, 0, 0]
    assert info["steps"].tolist() == [4, 1, 2]
    task.execute(0)
    for actions in ([0, 5, 0], [0, 0, 5]):
        _, reward, done, _, info = task.step(actions)
    assert np.allclose(reward, [-0.1, 0, -1.9])
    assert np.allclose(info["return"], [-0.2, -2, -2])
    assert info["steps"].tolist() == [2, 1, 2]
    assert not info["map_visited"].any()  # an episode begins with nothing


@pytest.mark.parametrize("env", ["bus", "map", "distracting-bus"])
def test_the_id_may_be_shown_in_every_cell(env):
    copies = vector(env, 24, show_id=True)
    plain = vector(env, 24)
    problems, actions = np.arange(24), np.random.default_rng(0)
    for task in (copies, plain):
        task.reset(options=options(problems, "none"))
    for _ in range(15):
        action = actions.integers(5, size=24)
        seen = copies.step(action)[0]["observation"]
        assert_equal(seen[:, 3], problems)
        assert_equal(seen[:, :3], plain.step(action)[0]["observation"][:, :3])
    assert seen.shape == (24, 4)
    assert copies.single_observation_space["observation"].nvec[3] > 24


@pytest.mark.parametrize("task", [*CITIES, "bus-show-id"])
@pytest.mark.parametrize("episode", CITY_EPISODES)
def test_city_episodes(task, episode):
    problem, instruction, actions, *expected = episode
    if task == "distracting-bus":
        problem *= 24
    rewards, seen, ended = play(task, problem, instruction, actions)
    assert [rewards, tuple(seen[-1][:2]), ended] == expected


# ---------------------------------------------------------------- cooking

ONE, TWO, THREE = "right pick left drop ", "right down pick ", "right up pick "
TWO_IN, THREE_IN = TWO + "up left drop ", THREE + "down left drop "
# Fridge 1, in the middle, is one step from the pot, the others two.
REWARDS = {"-": -0.1, "+": 0.25, "a": -0.1 - 0.25, "b": -0.1 - 0.35}
COOKING_EPISODES = [  # in kitchen 2 1 3: first and second, actions, rewards
    # the optima: 0.6, 0.4 and 0.2
    (1, 1, ONE + ONE, "-+-+ -+-+"),
    (1, 3, ONE + THREE_IN, "-+-+ --+--+"),
    (2, 3, TWO_IN + THREE_IN, "--+--+ --+--+"),
    # picking off the fridges and dropping nothing into the pot do nothing
    (1, 3, "pick drop " + ONE, "-- -+-+"),
    # (a) in stage 0, also for the same again; not for carrying it about
    (1, 3, TWO + "pick left up pick right pick", "--a a---- +"),
    # stage 1: waiting costs no more, nor does picking what is held already
    (1, 3, "right pick pick up", "-+--"),
    # (b) in stage 1 for throwing it away; then stage 0 pays once more
    (1, 3, "right pick drop pick drop", "-+b+b"),
    # (b) in stage 1 for another pick, (a) for one more in stage 0
    (1, 3, "right pick up pick pick down pick", "-+-ba-+"),
    # (a) in stage 2, then the right one instead
    (1, 3, ONE + "right pick up pick", "-+-+ -a-+"),
    # (b) in stage 3: back one stage, not two
    (1, 3, ONE + THREE + "drop pick down left drop", "-+-+ --+b+ --+"),
    # a wrong one in a place spoils it; a full pot takes nothing more
    (1, 3, TWO_IN + ONE, "--a--- -+-b"),
    (1, 3, TWO_IN + 3 * ONE, "--a--- -+-b -+-b -+-b"),
    (1, 3, ONE + ONE + THREE_IN, "-+-+ -a-- --+--b"),
    (1, 3, 20 * "pick ", 20 * "-"),
]


@pytest.mark.parametrize("first, second, actions, rewards", COOKING_EPISODES)
def test_cooking_episodes(first, second, actions, rewards):
    rewards = rewards.replace(" ", "")
    expected = [round(REWARDS[letter], 6) for letter in rewards]
    done = rewards.count("+") - rewards.count("b") == 4 or len(rewards) == 20
    for instruction in (4 * first + second, "none"):
        result = play("cooking", 39, instruction, actions)
        explores = instruction == "none"
        assert result[0] == (len(rewards) * [0] if explores else expected)
        assert result[2] == (len(rewards) == 20 if explores else done)
    ending = " ".join(actions.split()[:3]) + " end"
    assert play("cooking", 39, 4 * first + second, ending)[0][3] == -1.7
    assert play("cooking", 39, "none", ending)[0::2] == (4 * [0], True)


def test_what_the_cook_sees():
    """x, y, stands (fridge 0, pot 1, nothing 2), held, the pot; nothing 4."""
    space = vector("cooking").single_observation_space["observation"]
    assert space.nvec.tolist() == [3, 3, 3, 5, 5, 5, 5]
    walks = {
        "up left left down down down right right right": "1114444 1224444 "
        "0224444 0224444 0124444 0024444 0024444 1024444 2004444 2004444",
        # another pick replaces what is held; drop off the pot throws it away
        "right pick up pick left drop": "1114444 2104444 2101444 2201444 "
        "2203444 1223444 1224444",
        # a full pot takes nothing more, but the hands are empty
        TWO_IN + 3 * ONE: "1114444 2104444 2004444 2002444 2102444 1112444 "
        "1114244 2104244 2101244 1111244 1114214 2104214 2101214 1111214 "
        "1114211 2104211 2101211 1111211 1114211",
    }
    for walk, expected in walks.items():
        _, seen, _ = play("cooking", 39, "none", walk)
        assert ["".join(map(str, row)) for row in seen] == expected.split()


def test_fridges_opened():
    """By a pick on one; the same again is no other; y says which it is."""
    walk = "pick up pick right pick pick down pick down left pick right pick"
    counts = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3]
    for (_, info), count in zip(explore("cooking", [39, 0], walk), counts):
        assert info["fridges_opened"].tolist() == [count, count]


def test_kitchens_look_alike_until_a_pick_succeeds():
    kitchens = np.arange(64)
    walk = "pick right down up up left pick left drop down right down right up"
    steps = [seen for seen, _ in explore("cooking", kitchens, walk + " pick")]
    for seen in steps[:-1]:
        assert_equal(seen, seen[:1].repeat(64, 0))
    assert_equal(steps[-1][:, 3], kitchens // 4 % 4)


START = 1, 1, 4, (), 0


def cook(problem, instruction, state, action):
    """The rules once more: new state, reward, whether all is done."""
    x, y, held, pot, stage = state
    dx, dy = MOVES.get(action, (0, 0))
    x, y = min(max(x + dx, 0), 2), min(max(y + dy, 0), 2)
    picks = action == "pick" and x == 2
    if picks:
        held = [problem // 16, problem // 4 % 4, problem % 4][y]
    if action == "drop":
        if (x, y) == (1, 1) and held != 4 and len(pot) < 3:
            pot = (*pot, held)
        held = 4
    which, putting = divmod(stage, 2)
    wanted = [instruction // 4, instruction % 4][which]
    reached = held == wanted
    if putting:
        reached = pot[which : which + 1] == (wanted,)
    reward = "-"
    if reached:
        stage, reward = stage + 1, "+"
    elif putting and held != wanted:
        stage, reward = stage - 1, "b"
    elif picks and not putting:
        reward = "a"
    return (x, y, held, pot, stage), REWARDS[reward], stage == 4


def test_random_cooks_keep_the_rules():
    """One in each kitchen, with each instruction; some fetch and drop more."""
    random, copies = np.random.default_rng(0), vector("cooking")
    pairs = np.concatenate([copies.pairs("train", "test"), copies.pairs()])
    copies = vector("cooking", len(pairs))
    copies.reset(options=options(*pairs.T))
    often = [0.14, 0.11, 0.19, 0.11, 0.24, 0.2, 0.01]
    states, over = len(pairs) * [START], len(pairs) * [False]
    for t in range(20):
        actions = random.choice(7, len(pairs), p=often)
        if t < 4:  # half of them begin well
            actions[::2] = [2, 4, 0, 5][t]
        observation, rewards, ended, _, _ = copies.step(actions)
        for k, (pair, action) in enumerate(zip(pairs, actions)):
            reward = 0
            if not over[k] and action == 6:
                over[k], reward = True, -0.1 * (20 - t)
            elif not over[k]:
                action = ACTIONS["cooking"][action]
                states[k], reward, over[k] = cook(*pair, states[k], action)
            over[k] = over[k] or t == 19
            x, y, held, pot, _ = states[k]
            seen = observation["observation"][k, [0, 1, 3, 4, 5, 6]].tolist()
            assert seen == [x, y, held, *[*pot, 4, 4, 4][:3]]
            assert rewards[k] == pytest.approx(reward) and ended[k] == over[k]
    assert {state[4] for state in states} == {0, 1, 2, 3, 4}


def best_return(problem, instruction):
    """All that can be done in 20 steps; of equal states the best is kept."""
    best, totals = -np.inf, {START: 0.0}
    for t in range(20):
        after = {}
        for state, total in totals.items():
            best = max(best, total - 0.1 * (20 - t))
            for action in ACTIONS["cooking"][:-1]:
                new, reward, over = cook(problem, instruction, state, action)
                if over:
                    best = max(best, total + reward)
                elif total + reward > after.get(new, -np.inf):
                    after[new] = total + reward
        totals = after
    return max(best, *totals.values())


class Toll(envs.Bus):
    """A ride costs 0.9 more, and to set out left or right 0.15."""

    def dynamics(self, mu, goal, state, action):
        at, reward, done = super().dynamics(mu, goal, state, action)
        aside = (state == 4).all(1) & np.isin(action, (0, 2))
        return at, reward - 0.9 * (action == 4) - 0.15 * aside, done


def test_the_search_keeps_the_best_way_to_a_state():
    """On foot, 0.3, though a bus ends sooner, and some ways have a toll."""
    task = Toll(num_envs=1, split="test", setting="imrl")
    assert np.allclose(task.optimal_return(*task.pairs().T), 0.3)


@pytest.mark.parametrize(
    "problem, first, second",
    [(39, 1, 1), (39, 3, 1), (39, 2, 2), (58, 2, 3), (17, 0, 1), (0, 0, 0)],
)
def test_the_search_finds_what_a_slow_one_finds(problem, first, second):
    instruction = 4 * first + second
    pair = np.array([[problem], [instruction]])
    found = vector("cooking").optimal_return(*pair)
    assert found == pytest.approx(best_return(problem, instruction))


# ------------------------------------------------- what a setting shows


NONE, PAID = [0, 0, 0], [-0.1, -0.1, 1]
SHOWS = [  # setting, token in exploration, its return, reward, what is shown
    ("imrl", 4, NONE, NONE, NONE, NONE),
    ("imrl-rewards", 0, PAID, NONE, PAID, NONE),
    ("standard", 0, PAID, NONE, PAID, PAID),
    ("online", 0, PAID, PAID, NONE, NONE),
]


@pytest.mark.parametrize("setting, token, earns, pays, shows, execution", SHOWS)
def test_rewards_and_goals(setting, token, earns, pays, shows, execution):
    """Up, ride and down from the start lead to the goal 0 in problem 0."""
    task = envs.make("bus", 2, setting=setting)
    # The second copy is in problem 6, where the upper bus goes elsewhere.
    problem = np.array([0, 6]) * (4 if setting == "standard" else 1)
    trial = [
        (lambda: task.explore(problem, 0), token, earns, pays, shows),
        (lambda: task.execute(0), 0, PAID, PAID, execution),
    ]
    for begin, token, earns, pays, shows in trial:
        batch, info = begin()
        assert batch["instruction"].tolist() == [[token], [token]]
        assert batch["reward"].tolist() == [0, 0]
        assert batch["reward"].dtype == np.float32
        assert_equal(info["problem"], problem)
        for t, action in enumerate((1, 4, 3)):
            batch, reward, done, _, info = task.step(action)
            assert_equal(reward, [pays[t], pays[0]])
            assert_equal(batch["reward"], np.float32([shows[t], shows[0]]))
            assert batch["instruction"].tolist() == [[token], [token]]
        assert done.tolist() == [any(earns), False]
        assert np.allclose(info["return"], [sum(earns), 3 * earns[0]])


@pytest.mark.parametrize("setting", envs.SETTINGS)
def test_execute_stays_in_the_problems(setting):
    task = envs.make("distracting-bus", 200, "test", setting)
    task.reset(seed=0)
    _, info = task.explore()
    problem, asked = info["problem"], []
    assert set(problem) <= set(task.problems["test"])
    assert len(set(problem)) > 100
    assert_equal(info["instruction"] < 0, np.full(200, setting == "imrl"))

    def up_and_ride():
        task.step(np.full(200, 1))
        return task.step(np.full(200, 4))[0]["observation"]

    there = up_and_ride()
    assert len(np.unique(there, axis=0)) == 4
    for _ in range(3):
        _, info = task.execute()
        assert_equal(info["problem"], problem)
        asked.append(info["instruction"])
        assert_equal(up_and_ride(), there)
    n = 1 if setting == "standard" else 4
    assert set(np.ravel(asked)) == set(range(n))
    assert n == 1 or (asked[0] != asked[1]).any()


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_a_trial_draws(split):
    """Pairs of the split, also for explorations that have an instruction."""
    expected = split_pairs("cooking", split, split)
    problems = sorted({p for p, _ in expected})
    for setting in ("imrl", "imrl-rewards", "online"):
        task = envs.make("cooking", 4000, split, setting)
        task.reset(seed=1)
        first, second = task.explore()[1], task.execute()[1]
        drawn = {"explore": first, "execute": second}
        for name, info in drawn.items():
            pairs = set(zip(info["problem"], info["instruction"]))
            if setting == "imrl" and name == "explore":
                assert pairs == {(p, -1) for p in problems}
            else:
                assert pairs == expected
        # Problems are uniform, however many instructions they have.
        counts = np.bincount(first["problem"])[problems]
        mean = 4000 / len(problems)
        assert (abs(counts - mean) < 5 * mean**0.5).all()
        _, info = task.explore(problems[3])
        assert (info["problem"] == problems[3]).all()
        asked = max(expected)[1]
        _, info = task.explore(instruction=asked)
        if setting != "imrl":
            assert (info["instruction"] == asked).all()
            some = {p for p, i in expected if i == asked}
            assert set(info["problem"]) == some


def split_standard(task, n):
    return {
        split: {n * mu + goal for mu in part for goal in range(n)}
        for split, part in zip(("train", "test"), SPLITS[task])
    }


@pytest.mark.parametrize("task", ["coupling", *CITIES, "bus-show-id"])
def test_standard_meta_rl_hides_the_goal_in_the_problem(task):
    """Problem n mu + goal plays as mu with that instruction, untold."""
    n, N = SPLITS[task][2], 12
    plain, copies = vector(task, N), vector(task, N, setting="standard")
    assert copies.num_problems == n * plain.num_problems
    assert copies.names == ["find the goal"]
    for split, expected in split_standard(task, n).items():
        assert {*copies.problems[split]} == expected
        assert as_set(copies.pairs(split)) == {(p, 0) for p in expected}
    random = np.random.default_rng(0)
    mu, goal = random.choice(plain.pairs(), N).T
    problem, nothing = n * mu + goal, 0 * mu
    assert_equal(
        copies.optimal_return(problem, nothing),
        plain.optimal_return(mu, goal),
    )
    plain.reset(options=options(mu, goal))
    for begin in (lambda: copies.explore(problem), copies.execute):
        explores = begin != copies.execute  # its rewards are seen, not paid
        plain.execute(goal)
        batch, info = begin()
        for _ in range(plain.max_steps):
            assert batch in copies.observation_space
            assert not batch["instruction"].any()
            assert not info["instruction"].any()
            assert_equal(info["problem"], problem)
            actions = random.integers(plain.single_action_space.n, size=N)
            expected, paid, *others, _ = plain.step(actions)
            batch, reward, *results, info = copies.step(actions)
            if task != "coupling":  # which shows the problem to explorers
                assert_equal(batch["observation"], expected["observation"])
            assert_equal(results, others)
            assert_equal(reward, 0 * paid if explores else paid)
            assert_equal(batch["reward"], np.float32(paid))


@pytest.mark.parametrize("corner", range(4))
def test_standard_only_its_own_goal_ends_it(corner):
    """On foot to each corner, in all 96 problems of the city with a map."""
    task, problem = envs.make("map", 96, setting="standard"), np.arange(96)
    aside, up = [(0, 3), (2, 1), (0, 1), (2, 3)][corner]
    for begin in (lambda: task.explore(problem), task.execute):
        begin()
        for action in 4 * [aside] + 4 * [up]:
            batch, reward, done, _, info = task.step(np.full(96, action))
        assert_equal(done, problem % 4 == corner)
        observed = np.where(done, 1, -0.1)
        assert_equal(batch["reward"], np.float32(observed))
        assert_equal(reward, observed if begin == task.execute else 0 * reward)
        assert np.allclose(info["return"], np.where(done, 0.3, -0.8))


@pytest.mark.parametrize("setting", envs.SETTINGS)
def test_coupling_shows_the_problem_to_all_who_explore(setting):
    task, problem = envs.make("coupling", 8, setting=setting), np.arange(8)
    for asks in (True, False):
        action = 7 if asks else 6
        batch, _ = task.explore(problem)
        assert_equal(batch["observation"], np.full((8, 1), 8))
        batch, _, done, _, info = task.step(np.full(8, action))
        shown = problem if asks else np.full(8, 8)
        assert_equal(batch["observation"][:, 0], shown)
        assert_equal(info["problem_shown"], np.full(8, asks))
        seen = (problem == action) * (setting in ("imrl-rewards", "standard"))
        assert_equal(batch["reward"], np.float32(seen))
        for _ in range(2):
            task.execute()
            batch, reward, done, _, info = task.step(np.full(8, action))
            assert_equal(batch["observation"], np.full((8, 1), 8))
            assert not info["problem_shown"].any()
            assert_equal(reward, 1.0 * (problem == action))
            assert done.all()


# ----------------------------------------------------------- transitions


@pytest.mark.parametrize("task", TASKS)
def test_transitions_say_what_step_does_and_change_nothing(task):
    copies = vector(task, 40)
    random = np.random.default_rng(0)
    pairs = random.choice(copies.pairs(), 40)
    pairs[::4, 1] = -1
    copies.reset(options=options(*pairs.T))
    for _ in range(copies.max_steps):
        actions = random.integers(len(copies.actions), size=40)
        given = copies.mu, copies.goal, copies.state, copies.t, actions
        args = copy.deepcopy(given)
        before = copy.deepcopy(vars(copies))
        after, reward, done = copies.transitions(*args)
        copies.sense(args[0], after)
        copies.discover(args[0], args[2], actions, after)
        copies.begin(np.zeros(40, bool))
        copies.optimal_return(*copies.pairs()[:3].T)
        now = vars(copies)
        assert before.keys() == now.keys()
        for name, value in before.items():
            if isinstance(value, np.ndarray) or name in ("found", "offers"):
                assert_equal(now[name], value)
        assert_equal(args, given)
        live = ~copies.done
        _, reward_now, done_now, _, _ = copies.step(actions)
        assert_equal(copies.state[live], after[live])
        assert_equal(reward_now[live], reward[live])
        assert_equal(done_now[live], done[live])
        assert (copies.state >= 0).all()
        assert (copies.state < copies.state_sizes).all()


@pytest.mark.parametrize("task", [*CITIES, "cooking"])
def test_end_pays_for_all_steps_that_are_left(task):
    copies = vector(task)
    t, goal = np.array([0, 5, 19, 0, 19, 5]), np.array([0, 0, 0, -1, -1, 0])
    mu, state = np.full(6, 0), copies.begin(np.zeros(6, bool))
    n = len(copies.actions)
    action = np.array([n - 1, n - 1, n - 1, n - 1, 0, 0])
    _, reward, done = copies.transitions(mu, goal, state, t, action)
    assert np.allclose(reward, [-2, -1.5, -0.1, 0, 0, -0.1])
    assert done.tolist() == [True, True, True, True, True, False]


# ------------------------------------------------------------- meta_test


class Play:
    """Makes up the trials' results: f(problem, instruction, episode)."""

    def __init__(self, pays, steps=lambda p: 1 + 0 * p, found=lambda p: 0 * p):
        self.pays, self.steps, self.found = pays, steps, found

    def __call__(self, task, problems, instructions):
        assert not hasattr(self, "task")  # one call
        self.task, self.problems, self.asked = task, problems, instructions
        assert task.split == "test" and task.num_envs == len(problems)
        infos = []
        for k, asked in enumerate(instructions):
            if asked is None:
                info = {"return": np.full(len(problems), 1000.0)}
            else:
                info = {"return": self.pays(problems, asked, k)}
            info["steps"] = 99 + 0 * problems if k else self.steps(problems)
            for name in task.finds:
                found = 77 + 0 * problems if k else self.found(problems)
                info[name] = found
            infos.append(info)
        return infos


@pytest.mark.parametrize("task", GRIDS)
def test_every_test_pair_is_played_once(task):
    """In cooking, seen kitchens follow, for their groups."""
    play = Play(lambda p, i, k: 0.0 * p, steps=lambda p: p)
    row = envs.meta_test(play, task, "imrl")
    first, asked = play.asked
    assert first is None and play.task.setting == "imrl"
    expected = split_pairs(task, "test", "test")
    steps = np.mean([p for p, _ in expected])
    assert row["exploration_steps"] == pytest.approx(steps)
    if task == "cooking":
        expected = expected | split_pairs(task, "train", "test")
    assert as_set([*zip(play.problems, asked)]) == expected
    assert row["test_return_se"] == 0
    assert all(type(value) is float for value in row.values())


def test_the_columns_of_a_bus():
    """Means by hand, over 24 problems x 4 instructions."""
    play = Play(
        lambda p, i, k: i + p / 10, steps=lambda p: p % 3, found=lambda p: p % 4
    )
    row = envs.meta_test(play, "bus", "imrl")
    assert row == pytest.approx(
        {
            "test_return": 1.5 + 1.15,
            "test_return_se": 0,
            "optimal_return": 0.8,
            "exploration_steps": 1,
            "useful_buses": 1.5,
            "useless_buses": 1.5,
        }
    )


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("K", [2, 3, 4])
@pytest.mark.parametrize("task", ["bus", "noisy", "cooking"])
def test_executions_after_one_exploration(task, K, final, monkeypatch):
    """All pairs equally often in each place; instructions do not repeat."""
    repeats = 1
    if task == "noisy":  # 102 // 96 and 504 // 96 trials of each pair
        monkeypatch.setattr(envs.Bus, "exhaustive", False)
        task, repeats = "bus", 5 if final else 1
    play = Play(lambda p, i, k: i + 100.0 * k)
    row = envs.meta_test(play, task, "imrl", K, final)
    first, *asked = play.asked
    assert first is None and len(asked) == K
    expected = split_pairs(task, "test", "test")
    if task == "cooking":
        expected = expected | split_pairs(task, "train", "test")
    for place in asked:
        pairs = [*zip(play.problems.tolist(), place.tolist())]
        assert sorted(pairs) == sorted(repeats * [*expected])
    for p, *own in zip(play.problems, *asked):
        known = len(offers(p)) if task == "cooking" else 4
        assert len(set(own)) == min(K, known)
    mean = np.mean([i for _, i in split_pairs(task, "test", "test")])
    for k in range(1, K + 1):
        assert row[f"test_return_{k}"] == pytest.approx(mean + 100 * k)
    assert f"test_return_{K + 1}" not in row
    assert row["test_return"] == pytest.approx(mean + 50 * (K + 1))
    assert row["exploration_steps"] == 1


@pytest.mark.parametrize("K", [0, 2])
def test_online_the_first_execution_explores_and_counts(K):
    play = Play(lambda p, i, k: 0.0 * p + k, lambda p: p % 4, lambda p: p % 2)
    row = envs.meta_test(play, "map", "online", K)
    K = K or 4
    assert len(play.asked) == K and play.task.setting == "online"
    for place in play.asked:
        pairs = as_set([*zip(play.problems, place)])
        assert pairs == split_pairs("map", "test", "test")
    expected = {
        "test_return": (K - 1) / 2,
        "test_return_se": 0,
        "optimal_return": 0.8,
        "exploration_steps": 1.5,
        "map_visited": 0.5,
    }
    expected |= {f"test_return_{k + 1}": k for k in range(K)}
    assert row == pytest.approx(expected)


@pytest.mark.parametrize(
    "setting, K, error",
    [
        ("imrl-rewards", 1, (0.25 * 0.75 / 96) ** 0.5),
        # The mean of two is 1/2 in half of the trials, else 0.
        ("imrl-rewards", 2, 0.25 / 96**0.5),
        ("imrl", 1, 0),
        ("online", 2, 0),
    ],
)
def test_standard_error(setting, K, error):
    """Where exploration draws its instruction, trials are a sample."""
    play = Play(lambda p, i, k: 1.0 * (i == 2))
    row = envs.meta_test(play, "bus", setting, K)
    assert play.asked[0] is None or setting == "online"
    assert row["test_return"] == 0.25
    assert row["test_return_se"] == pytest.approx(error)


@pytest.mark.parametrize(
    "env, trials", [("bus", (96, 480)), ("distracting-bus", (2092, 2092))]
)
def test_standard_error_of_a_random_task(env, trials, monkeypatch):
    """Each pair has a trial at least, where there are more than 102 pairs."""
    monkeypatch.setattr(envs.Bus, "exhaustive", False)
    for final in False, True:
        play = Play(lambda p, i, k: 1.0 * (i == 2))
        row = envs.meta_test(play, env, "imrl", final=final)
        error = (0.25 * 0.75 / trials[final]) ** 0.5
        assert row["test_return_se"] == pytest.approx(error)


def test_the_standard_setting_is_tested_on_its_own_problems():
    play = Play(lambda p, i, k: p / 2)
    row = envs.meta_test(play, "map", "standard")
    assert sorted(play.problems) == [*range(96)]
    first, asked = play.asked
    assert first is None and not asked.any()
    assert row["test_return"] == pytest.approx(47.5 / 2)
    assert row["optimal_return"] == pytest.approx(0.8)


def test_the_four_groups_of_cooking():
    """Columns tell apart new kitchens (2) and new pairs of ingredients (1)."""
    play = Play(
        lambda p, i, k: 2.0 * new_kitchen(p) + np.isin(i, [*NEW_PAIRS]),
        steps=lambda p: np.where(new_kitchen(p), 5, 11),
        found=lambda p: np.where(new_kitchen(p), 3, 0),
    )
    row = envs.meta_test(play, "cooking", "imrl")
    pairs = split_pairs("cooking", "test", "test")
    middle = [(p // 4 % 4, i // 4, i % 4) for p, i in pairs]
    optimum = np.mean([0.2 + 0.2 * ((m == a) + (m == b)) for m, a, b in middle])
    expected = {
        "test_return": 2 + np.mean([i in NEW_PAIRS for _, i in pairs]),
        "test_return_se": 0,
        "optimal_return": optimum,
        "exploration_steps": 5,
        "fridges_opened": 3,
        "return_seen_seen": 0,
        "return_seen_unseen": 1,
        "return_unseen_seen": 2,
        "return_unseen_unseen": 3,
    }
    assert [*row] == [*expected]
    assert row == pytest.approx(expected)


def new_kitchen(problems):
    return np.isin(problems, [*NEW_KITCHENS])


@pytest.mark.parametrize("K", [1, 2])
def test_groups_weigh_all_their_executions(K):
    """Of seen pairs in seen kitchens, the returns are the instructions."""
    play = Play(lambda p, i, k: 1.0 * i + 100 * new_kitchen(p))
    row = envs.meta_test(play, "cooking", "imrl", K)
    for kitchen, split in (("seen", "train"), ("unseen", "test")):
        both = split_pairs("cooking", split, "test")
        old = split_pairs("cooking", split, "train")
        for name, pairs in (("seen", old), ("unseen", both - old)):
            mean = np.mean([i + 100 * (split == "test") for _, i in pairs])
            column = row[f"return_{kitchen}_{name}"]
            assert column == pytest.approx(mean)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_nobody_found_has_no_mean(value):
    """As sign-nav's distance, of those who never see the sign."""
    some = Play(
        lambda p, i, k: 0.0 * p, found=lambda p: np.where(p < 6, 1.0 * p, value)
    )
    none = Play(lambda p, i, k: 0.0 * p, found=lambda p: 0.0 * p + value)
    assert envs.meta_test(some, "map", "imrl")["map_visited"] == 2.5
    assert np.isnan(envs.meta_test(none, "map", "imrl")["map_visited"])


def test_options_reach_the_task():
    play = Play(lambda p, i, k: 1.0 * p)
    row = envs.meta_test(play, "coupling", "imrl", num_actions=3)
    assert len(play.task.actions) == 3 and sorted(play.problems) == [0, 1, 2]
    assert row["test_return"] == row["optimal_return"] == 1
    assert [*row][-1] == "problem_shown"


WALKS = [  # exploring: 10 steps and the end; the way to the map and the end
    ("bus", THREE_STOPS + " end", {"useful_buses": 3, "useless_buses": 0}),
    ("distracting-bus", THREE_STOPS, {"useful_buses": 3, "useless_buses": 0}),
    ("map", "right right right down end", {"map_visited": 1}),
]


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("setting", ["imrl", "online"])
@pytest.mark.parametrize("task, walk, finds", WALKS)
def test_played_for_real(task, walk, finds, setting, K):
    """Then on foot to the goal: 7 steps at -0.1, undiscounted, and 1."""
    goals = np.array([(0, 0), (8, 8), (0, 8), (8, 0)])

    def play(task, problems, instructions):
        infos = []
        for k, asked in enumerate(instructions):
            if k == 0:
                _, info = task.explore(problems, asked)
                actions = [ACTIONS["bus"].index(a) for a in walk.split()]
                actions = np.tile(actions, (len(problems), 1)).T
            else:
                _, info = task.execute(asked)
                aside, up = (goals[asked] > 4).T
                actions = 4 * [np.where(aside, 2, 0)] + 4 * [np.where(up, 1, 3)]
            for action in actions:
                *_, info = task.step(action)
            infos.append(info)
        return infos

    if setting == "online":
        K = K + 1
    row = envs.meta_test(play, task, setting, K)
    on_foot = [row[f"test_return_{k}"] for k in range(2, K + 1)]
    if setting == "imrl":
        on_foot.append(row["test_return"])
    assert np.allclose(on_foot, 0.3)
    assert row["exploration_steps"] == len(walk.split())
    assert {name: row[name] for name in finds} == finds


def test_a_test_draws_the_same_each_time():
    """Also the instructions of explorations, where those are drawn."""
    drawn = []

    def play(task, problems, instructions):
        _, first = task.explore(problems, instructions[0])
        _, second = task.execute(instructions[1])
        assert_equal(second["instruction"], instructions[1])
        drawn.append(first["instruction"])
        return first, second

    for _ in range(2):
        envs.meta_test(play, "bus", "imrl-rewards")
    assert set(drawn[0]) == {0, 1, 2, 3}
    assert_equal(*drawn)


def test_problems_may_be_unsigned():
    """What they show is whole numbers all the same."""
    task = envs.make("coupling", 2)
    task.explore(np.array([3, 4], np.uint64))
    batch, *_ = task.step([7, 7])
    assert batch["observation"].tolist() == [[3], [4]]
    assert batch["observation"].dtype.kind == "i"
