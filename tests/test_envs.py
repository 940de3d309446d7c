"""The six tasks, held against their specification.

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

try:
    WORLD = envs.sign_world()
except gymnasium.error.DependencyNotInstalled:
    WORLD = None
needs_opengl = pytest.mark.skipif(WORLD is None, reason=envs.APT)

CITIES = ["bus", "map", "distracting-bus"]
GRIDS = ["coupling", *CITIES, "cooking"]
TASKS = [*GRIDS, pytest.param("sign-nav", marks=needs_opengl)]
MOVES = {"left": (-1, 0), "up": (0, 1), "right": (1, 0), "down": (0, -1)}
ACTIONS = {city: [*MOVES, "ride", "end"] for city in CITIES}
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
    n = 1 if task == "sign-nav" else 6  # where each copy draws its start
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
    copies.reset(seed=0, options=options(1, [0, "none"]))
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
    "sign-nav": ({0, 1}, {0, 1}, 3),
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
    groups = {}
    if task == "cooking":
        for kitchen, split in (("seen", "train"), ("unseen", "test")):
            both = split_pairs(task, split, "test")
            old = split_pairs(task, split, "train")
            groups[f"return_{kitchen}_seen"] = old
            groups[f"return_{kitchen}_unseen"] = both - old
    assert {k: as_set(v) for k, v in copies.groups().items()} == groups


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


@pytest.mark.parametrize("task", TASKS)
def test_optimum(task):
    """Cooking: 0.2 more for each ingredient in the middle fridge."""
    copies = vector(task)
    pairs = np.concatenate([copies.pairs("train", "test"), copies.pairs()[::7]])
    optimum = 0.8 if task in CITIES else 1.0
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
    if task != "sign-nav":  # where starts differ
        assert_equal(pictures[1], before)


def test_grids_do_without_opengl_and_sign_nav_says_what_is_missing():
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
    sys.exit("apt-get install" not in str(error))
sys.exit("no error")
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
    x, y = 4, 4
    for move, (seen, _) in zip(walk, explore(task, problems, " ".join(walk))):
        dx, dy = MOVES[move]
        x, y = min(max(x + dx, 0), 8), min(max(y + dy, 0), 8)
        expected = [[x, y, (x, y) in stops]] * len(problems)
        if task == "map":
            token = problems if (x, y) == (7, 3) else 24 + 0 * problems
            expected = np.column_stack([expected, token])
        assert_equal(seen, expected)
    assert (x, y) == (column, 0)


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


@pytest.mark.parametrize("task", [*CITIES, TASKS[-1]])
def test_standard_meta_rl_hides_the_goal_in_the_problem(task):
    """Problem n * layout + goal plays as the layout with that instruction."""
    n = 12
    plain, random = vector(task, n), np.random.default_rng(0)
    copies, goals = envs.Standard(vector(task, n)), len(plain.tokens) - 1
    pairs = random.choice(plain.pairs(), n)
    problem = pairs[:, 0] * goals + pairs[:, 1]
    plain.reset(seed=1, options=options(*pairs.T))
    batch, info = copies.reset(seed=1, options={"problem": problem})
    for _ in range(20):
        assert batch in copies.observation_space
        assert not batch["instruction"].any() and not info["instruction"].any()
        assert_equal(info["problem"], problem)
        actions = random.integers(copies.single_action_space.n, size=n)
        batch, *results, info = copies.step(actions)
        expected, *others, _ = plain.step(actions)
        assert_equal(batch["observation"], expected["observation"])
        assert_equal(results, others)
    assert_equal(
        copies.optimal_return(problem, 0 * problem),
        plain.optimal_return(*pairs.T),
    )


@pytest.mark.parametrize("task", [*CITIES, TASKS[-1]])
def test_standard_meta_rl_splits_by_layout(task):
    copies, plain = envs.Standard(vector(task)), vector(task)
    n = len(plain.tokens) - 1
    assert copies.num_problems == n * plain.num_problems
    for split, layouts in plain.problems.items():
        expected = {n * layout + k for layout in layouts for k in range(n)}
        pairs = copies.pairs(split)
        assert {*copies.problems[split]} == {*pairs[:, 0]} == expected
        assert len(pairs) == len(expected) and not pairs[:, 1].any()
    _, info = copies.reset(seed=0)
    assert info["problem"][0] in copies.problems["train"]


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


@pytest.mark.parametrize("task", CITIES)
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


@pytest.mark.parametrize(
    "problem, first, second",
    [(39, 1, 1), (39, 3, 1), (39, 2, 2), (58, 2, 3), (17, 0, 1), (0, 0, 0)],
)
def test_the_search_finds_what_a_slow_one_finds(problem, first, second):
    instruction = 4 * first + second
    found = vector("cooking").optimal_return([problem], [instruction])
    assert found == pytest.approx(best_return(problem, instruction))


# --------------------------------------------------------------- sign-nav

SIGN = 10, 10.25
# Ball, block and key in blue (0) and in red (1), as (x, z)
PLACES = np.array([(1, 1), (9, 5), (5, 1), (9, 1), (1, 5), (1, 9)], float)
LEFT, RIGHT, FORWARD = range(3)
NORTH, SOUTH = np.pi / 2, -np.pi / 2  # towards z = 0 and z = 13
TURN = np.array([0, 0, np.pi / 4])


def put(poses, problem=0, instruction=0):
    """Copies of sign-nav that stand at these poses (x, z, heading)."""
    copies = vector("sign-nav", len(poses), render_mode="rgb_array")
    copies.reset(seed=0, options=options(problem, instruction))
    copies.episode["pose"][:] = poses
    return copies


def act(copies, action):
    """Frames, reward, ended and info after the same action in all copies."""
    actions = np.full(copies.num_envs, action)
    observation, reward, ended, truncated, info = copies.step(actions)
    assert not truncated.any()
    return observation["observation"], reward, ended, info


def draw(problem, poses):
    """The frames at any number of poses."""
    poses = np.array(poses, float)
    parts = np.split(poses, range(64, len(poses), 64))
    frames = [WORLD.draw(np.full(len(p), problem), p).copy() for p in parts]
    return np.concatenate(frames)


def facing(x, z, target=SIGN):
    return x, z, np.arctan2(z - target[1], target[0] - x)


def some_poses(n):
    """All over the world, also close to walls and objects."""
    random = np.random.default_rng(0)
    return random.uniform((0.4, 0.4, -np.pi), (9.6, 12.6, np.pi), (n, 3))


@needs_opengl
def test_the_sign_is_not_in_view_from_the_start():
    headings = np.radians(np.arange(0, 360, 5))
    coarse, fine = np.linspace(4, 5, 5), np.linspace(4, 5, 21)
    poses = [*itertools.product(coarse, coarse, headings)]
    poses += [facing(x, z) for x, z in itertools.product(fine, fine)]
    assert_equal(draw(0, poses), draw(1, poses))


@needs_opengl
def test_the_sign_is_in_view_within_5_5_m():
    spots = (4.6, 10.25), (6, 8), (7, 12), (8, 10.25), (9, 9)
    away, far = (8, 10.25, np.pi), facing(4.4, 10.25)
    poses = np.array([away, far, *itertools.starmap(facing, spots)])
    blue, red = draw(0, poses), draw(1, poses)
    differ = (blue != red).any((1, 2, 3))
    assert differ.tolist() == [False] + 6 * [True]
    # From 5.6 m straight ahead: 1 m high, around 1.35 m, seen from 1.5 m.
    metre = 30 / np.tan(np.pi / 6) / 5.6
    rows, columns = (blue[1] != red[1]).any(2).nonzero()
    extent = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
    up, aside = np.array([-0.35, 0.65]), np.array([-2, 2])
    expected = [*30 + up * metre, *40 + aside * metre]
    assert np.allclose(extent, expected, rtol=0, atol=1.1)
    problems = np.arange(14) % 2  # both, drawn in turn
    copies = put((poses - TURN).repeat(2, 0), problems, "none")
    frames, _, _, info = act(copies, LEFT)
    assert info["sign_in_view"].tolist() == 4 * [False] + 10 * [True]
    assert_equal(frames[0::2], blue)
    assert_equal(frames[1::2], red)


@needs_opengl
def test_two_environments_show_two_signs():
    pose = facing(7, 10) - TURN
    blue, red = put([pose], 0), put([pose], 1)
    blue_frame, red_frame = act(blue, LEFT)[0], act(red, LEFT)[0]
    assert (blue_frame != red_frame).any()
    for seed in range(9):
        red.reset(seed=seed, options=options(1, 0))
        red.render()
        act(blue, RIGHT)
        assert_equal(act(blue, LEFT)[0], blue_frame)
    red.episode["pose"][:] = pose
    assert_equal(act(red, LEFT)[0], red_frame)


@needs_opengl
@pytest.mark.parametrize("problem", [0, 1])
def test_frames_are_what_the_library_draws(problem):
    """Whatever else is drawn in the same call."""
    poses = [facing(x, 11) for x in np.linspace(5, 9, 10)]
    poses += [facing(x, 4, place) for x in (2.5, 7) for place in PLACES]
    poses = np.array([*poses, *some_poses(100)])
    frames = draw(problem, poses)
    assert_equal(draw(problem, poses[::-1]), frames[::-1])
    WORLD.show(problem)
    for (x, z, heading), frame in zip(poses, frames):
        WORLD.agent.pos, WORLD.agent.dir = np.array([x, 0, z]), heading
        assert_equal(WORLD.render_obs(), frame)


@needs_opengl
def test_keys_show_their_flat_side_to_the_start():
    """It is wider than high; seen from its edge, a thin bar."""
    for place, channel in ((PLACES[2], 2), (PLACES[5], 0)):
        spots = itertools.product((4, 4.5, 5), repeat=2)
        for frame in draw(0, [facing(*spot, place) for spot in spots]):
            frame = frame.astype(int)
            others = np.delete(frame, channel, 2).max(2)
            key = (frame[..., channel] - others)[:, 20:60] > 40
            assert key.any(0).sum() > 1.5 * key.any(1).sum()


@needs_opengl
def test_starts():
    one, other = vector("sign-nav", 200), vector("sign-nav", 200)
    frames = one.reset(seed=1)[0]["observation"]
    assert frames.shape == (200, 60, 80, 3) and frames.dtype == np.uint8
    assert_equal(other.reset(seed=1)[0]["observation"], frames)
    pose = one.episode["pose"]
    assert_equal(other.episode["pose"], pose)
    low, high = pose[:, :2].min(0), pose[:, :2].max(0)
    assert (low >= 4).all() and (low < 4.05).all()
    assert (high <= 5).all() and (high > 4.95).all()
    assert set(np.floor(pose[:, 2] / (np.pi / 4)) % 8) == set(range(8))
    assert (other.reset(seed=2)[0]["observation"] != frames).any()


@needs_opengl
@pytest.mark.parametrize("instruction", [0, 1, 2, "none"])
@pytest.mark.parametrize("problem", [0, 1])
def test_contact(problem, instruction):
    """+1 for the instructed shape in the sign's color, -1 for any other."""
    apart = [np.hypot(*(a - b)) for a, b in itertools.combinations(PLACES, 2)]
    assert min(apart) > 3.8
    expected = np.full(6, 0.0 if instruction == "none" else -1.0)
    if instruction != "none":
        expected[3 * problem + instruction] = 1
    middle = np.array([4.5, 4.5])
    side = (middle - PLACES) / np.hypot(*(middle - PLACES).T)[:, None]
    # MiniWorld's near() fires 1.7 to 1.9 m from an object's centre.
    for distance, action in ((1.95, LEFT), (1.7, LEFT), (2.2, FORWARD)):
        spots = PLACES + distance * side
        poses = [facing(*spot, place) for spot, place in zip(spots, PLACES)]
        _, reward, ended, _ = act(put(poses, problem, instruction), action)
        touches = distance != 1.95
        assert_equal(reward, touches * expected)
        assert_equal(ended, np.full(6, touches))


@needs_opengl
@pytest.mark.parametrize(
    "towards, steps, problem, instruction, reward",
    [
        (-1, 5, 0, 0, 1.0),  # the blue ball, at z = 1
        (-1, 5, 1, "none", 0.0),
        (1, 6, 1, 2, 1.0),  # the red key, at z = 9
        (1, 6, 0, 2, -1.0),  # in the wrong color
    ],
)
def test_walks(towards, steps, problem, instruction, reward):
    """Diagonally from (4.5, 4.5); beyond contact nothing moves or pays."""
    pose = (4.5, 4.5, -towards * 3 * np.pi / 4) - TURN
    copies = put([pose], problem, instruction)
    walk = [act(copies, action) for action in [LEFT] + steps * [FORWARD]]
    assert [step[1] for step in walk] == steps * [0] + [reward]
    assert [step[2] for step in walk] == steps * [False] + [True]
    way = steps * 0.7 / np.sqrt(2)
    there = 4.5 - way, 4.5 + towards * way
    assert np.allclose(copies.episode["pose"][0, :2], there)
    for action in (RIGHT, FORWARD):
        frames, pays, _, _ = act(copies, action)
        assert_equal(frames, walk[-1][0])
        assert pays == [0]
    assert np.allclose(copies.episode["pose"][0, :2], there)


@needs_opengl
def test_walls_stop_and_the_way_round_does_not():
    """A step of 0.7 m needs 1.1 m, for the agent's radius is 0.4 m."""
    walls = [(0, 3, np.pi), (10, 3, 0), (3, 0, NORTH), (5, 13, SOUTH)]
    walls += [(7, 6.5, SOUTH), (9.5, 6.75, NORTH), (5, 6.625, 0)]  # barrier
    walls = np.array(walls)
    heading = walls[:, 2]
    into = np.stack([np.cos(heading), -np.sin(heading), 0 * heading], 1)
    poses = [*walls - 1.08 * into, *walls - 1.12 * into]
    poses = np.array([*poses, (3.5, 6, SOUTH), (4.5, 10, 0)])
    copies = put(poses)
    _, reward, ended, _ = act(copies, FORWARD)
    assert not reward.any() and not ended.any()
    poses[7:14] += 0.7 * into
    poses[14:, :2] = (3.5, 6.7), (5.2, 10)
    assert np.allclose(copies.episode["pose"], poses)


@needs_opengl
def test_eight_turns_make_a_circle():
    copies = put(some_poses(8) * [0, 0, 1] + [4.5, 4.5, 0])
    start = copies.episode["pose"].copy()
    for action in 8 * [LEFT]:
        frames, *_ = act(copies, action)
    assert_equal(frames, draw(0, start))
    act(copies, RIGHT)
    assert np.allclose(copies.episode["pose"], start + 7 * TURN)
