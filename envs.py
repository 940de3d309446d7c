"""Instruction-based meta-RL tasks, and the protocol by which they are tested.

A trial in a problem mu is an exploration episode, then execution episodes, each
with its own instruction (Liu et al., ICML 2021, arXiv 2008.02790):

    task = envs.make("map", num_envs=64)
    batch, info = task.explore()  # 64 trials begin, in problems that it draws
    batch, reward, done, truncated, info = task.step(actions)  # until all done
    batch, info = task.execute()  # the next episode in the same problems

`batch`: `observation` (tokens or a frame), `instruction` (its tokens or number;
the last means "none") and `reward` (0 where the setting hides it).
"""

from functools import partial
from importlib import import_module
from itertools import permutations, product

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector.utils import batch_space

# Exploring, executing: is the reward in `batch`, is it returned by `step`?
SETTINGS = {
    "imrl": [(0, 0), (0, 1)],  # exploring, there is no instruction
    "imrl-rewards": [(1, 0), (0, 1)],  # exploring has an instruction of its own
    "standard": [(1, 0), (1, 1)],  # the goal is a part of the problem
    "online": [(0, 1), (0, 1)],  # the first execution is begun by `explore`
}
# How problems and instructions are described; the last, of problems only
FORMS = "one-hot", "words", "picture", "attributes"
# left, up, right, down; all other actions stay
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)] + 3 * [(0, 0)])


class Task(gymnasium.vector.VectorEnv):
    """N copies of one task, stepped together; those that have ended wait.

    `info` has, (N,) each: problem, instruction (-1: none), steps, return, and
    counts of what was found (`finds`). A wrong argument raises ValueError.

    A task says how its world works by functions of arrays that change nothing:
    `begin`, `dynamics`, `sense`, `discover`. Its state is (N, S); mu (N,) the
    problem (in `standard` less its goal), goal (N,) what pays, -1: nothing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    metadata["autoreset_mode"] = gymnasium.vector.AutoresetMode.DISABLED
    max_steps = 20
    instructions = [[0]]  # the tokens of each, (I, fields)
    offers = True  # whether a problem has an instruction, (problems, I)
    test_problems, test_instructions = [], []  # empty: train and test on all
    exhaustive = True  # deterministic: one trial of each pair is an exact test
    attributes = None  # of each problem, (problems, K) whole numbers
    num_told = 0  # the first so many of them can be told in advance
    tell = None  # how many to tell in each copy, (N,); None: 0 to told, drawn
    done = None

    def __init__(
        self, num_envs, split, setting, problem_id="one-hot",
        instruction="one-hot", told=0, render_mode=None,
    ):  # fmt: skip
        self.forms = {"problem_id": problem_id, "instruction": instruction}
        given = {"split": split, "setting": setting, "told": told} | self.forms
        allowed = ("train", "test"), SETTINGS, range(self.num_told + 1)
        allowed += FORMS, FORMS[:3]
        for (name, x), choice in zip(given.items(), allowed):
            if x not in choice:
                raise ValueError(f"{name}: one of {[*choice]}, not {x!r}")
        self.num_envs, self.split, self.told = num_envs, split, told
        self.setting, self.render_mode = setting, render_mode
        held_out = np.isin(np.arange(self.num_problems), self.test_problems)
        if setting == "standard":  # problem p is mu = p // I with goal p % I
            if self.offers is not True:
                raise ValueError("setting: not standard, as goals differ")
            self.num_goals = len(self.instructions)
            held_out = held_out.repeat(self.num_goals)
            self.instructions, self.names = [[0]], ["find the goal"]
        self.num_problems = len(held_out)
        self.problems = {"train": np.flatnonzero(~held_out)}
        self.problems["test"] = np.flatnonzero(held_out | ~held_out.any())

        # "none" is the last row and column, where the index -1 finds it.
        none = np.max(self.instructions, 0) + 1
        self.tokens = np.array([*self.instructions, none])
        new = np.isin(np.arange(len(self.tokens)), self.test_instructions)
        offers = np.ones((self.num_problems, len(self.tokens)), bool)
        offers[:, :-1] = self.offers
        self.offers = {"train": offers & ~new, "test": offers}

        numbers = np.arange(len(self.tokens))[:, None]
        self.asks = self.tokens if instruction == "one-hot" else numbers
        self.hints = np.empty((num_envs, 0), int)  # or (N, num_told)
        if told:  # one more value each, for "not told"
            sizes = self.attributes[:, : self.num_told].max(0) + 2
            self.space = MultiDiscrete([*self.space.nvec, *sizes])
        space = Dict(observation=self.space, reward=Box(-2, 1, ()))
        space["instruction"] = MultiDiscrete(self.asks.max(0) + 1)
        self.single_observation_space = space
        self.observation_space = batch_space(space, num_envs)
        self.single_action_space = Discrete(len(self.actions))
        self.action_space = batch_space(self.single_action_space, num_envs)

    def explore(self, problem=None, instruction=None):
        """Begin trials by an exploration: (N,) or one for all; None: drawn."""
        instruction = -1 if self.setting == "imrl" else instruction
        return self._begin(problem, instruction, explores=True)

    def execute(self, instruction=None):
        """Begin the next execution episode, in the same problems."""
        return self._begin(self.problem, instruction, goes_on=True)

    def reset(self, *, seed=None, options=None):
        """Begin an execution of options["problem"] and ["instruction"], each as
        in `explore`; the instruction "none" makes it an exploration."""
        super().reset(seed=seed)
        options = {"problem": None, "instruction": None} | (options or {})
        if len(options) > 2:
            raise ValueError(f"options: problem, instruction, not {[*options]}")
        return self._begin(*options.values())

    def _begin(self, problem, instruction, explores=False, goes_on=False):
        offers, drawn = self.offers["test"], instruction is None
        if drawn or isinstance(instruction, str) and instruction == "none":
            instruction = -1
        instruction = self._int("instruction", instruction, -1, len(self.names))
        if problem is None:
            split = self.problems[self.split]
            problem = split[self._choose(offers[split][:, instruction].T)]
        problem = self._int("problem", problem, 0, len(offers))
        if drawn:
            instruction = self._choose(self.offers[self.split][problem, :-1])
        for p in problem[~offers[problem, instruction]]:
            allowed = np.flatnonzero(offers[p, :-1])
            raise ValueError(f"instruction: in problem {p}, one of {allowed}")

        self.problem, self.instruction = problem, instruction
        self.mu, self.goal = problem, instruction
        if self.setting == "standard":
            self.mu, self.goal = np.divmod(problem, self.num_goals)
        self.shows_reward, self.pays = SETTINGS[self.setting][not explores]
        if self.told and not goes_on:
            self.hints = import_module("descriptions").hints(self)
        self.t, self.total = np.zeros_like(problem), np.zeros(self.num_envs)
        self.done = np.zeros(self.num_envs, bool)
        self.state = self.begin(explores | (instruction < 0))
        self.found = dict.fromkeys(self.finds, self.done[:, None])
        return self._batch(self.total)

    def _int(self, name, value, low, size):
        """Whole numbers (N,) from low to size - 1: one for all or for each."""
        n, whole = self.num_envs, np.asarray(value)
        fits = whole.dtype.kind in "iu" and whole.shape in ((), (n,))
        if not fits or whole.min() < low or whole.max() >= size:
            raise ValueError(f"{name}: {n} of {low} to {size - 1}, not {value}")
        return np.full(n, whole, int)

    def _choose(self, allowed):
        """(N, K) booleans -> one true column of each row, uniformly."""
        return (allowed * self.np_random.random(allowed.shape)).argmax(1)

    def reader(self, what, hidden, std):
        """A network that reads the description of "problem_id", numbers (...)
        -> (..., hidden), or of "instruction", (..., 1) -> (..., L, hidden)."""
        return import_module("descriptions").Reader(self, what, hidden, std)

    def _batch(self, reward):
        self.look()
        batch = {"observation": self.observation.copy()}
        batch["instruction"] = self.asks[self.instruction]
        batch["reward"] = np.float32(reward * self.shows_reward)
        info = {"problem": self.problem, "instruction": self.instruction}
        info |= {"steps": self.t, "return": self.total}
        return batch, info | self.report()

    def report(self):
        return {name: found.sum(1) for name, found in self.found.items()}

    def step(self, actions):
        if self.done is None:
            raise ValueError("actions: a step comes after reset")
        actions = self._int("actions", actions, 0, len(self.actions))
        mu, goal, state, active = self.mu, self.goal, self.state, ~self.done
        after, reward, done = self.transitions(mu, goal, state, self.t, actions)
        found = self.discover(mu, state, actions, after)
        for name, new in zip(self.finds, found):  # (N, K) booleans
            self.found[name] = self.found[name] | new & active[:, None]
        self.state = np.where(active[:, None], after, state)
        reward = np.where(active, reward, 0.0)
        self.t, self.total = self.t + active, self.total + reward
        batch, info = self._batch(reward)
        self.done = done = self.done | done
        return batch, reward * self.pays, done, np.zeros_like(done), info

    def transitions(self, mu, goal, state, t, action):
        """A step from any state: the next one (N, S), reward and done (N,)."""
        after, reward, done = self.dynamics(mu, goal, state, action)
        if self.actions[-1] == "end":
            ends = action == len(self.actions) - 1
            rest = -0.1 * (self.max_steps - t)  # of all steps that are left
            reward, done = np.where(ends, rest, reward), done | ends
        return after, reward * (goal >= 0), done | (t + 1 >= self.max_steps)

    def look(self):
        self.observation = np.c_[self.sense(self.mu, self.state), self.hints]

    def picture(self, k):
        """RGB of what the k-th copy is like now, (H, W, 3)."""
        return import_module("descriptions").picture(self, k)

    def render(self):
        return tuple(self.picture(k) for k in range(self.num_envs))

    def pairs(self, problems="test", instructions="test"):
        """All (problem, instruction) of two splits, (P, 2)."""
        pairs = np.argwhere(self.offers[instructions][:, :-1])
        return pairs[np.isin(pairs[:, 0], self.problems[problems])]

    def optimal_return(self, problem, instruction):
        """Best return of each pair, (P,), by breadth-first search."""
        if self.setting == "standard":
            problem, instruction = np.divmod(problem, self.num_goals)
        pair, n = np.arange(len(problem)), len(self.actions)
        state = self.begin(np.zeros(len(pair), bool))
        total, best = np.zeros(len(pair)), np.full(len(pair), -np.inf)
        for t in range(self.max_steps):
            action, pair = np.tile(np.arange(n), len(pair)), pair.repeat(n)
            mu, goal = problem[pair], instruction[pair]
            state = state.repeat(n, 0)
            state, reward, done = self.transitions(mu, goal, state, t, action)
            total = total.repeat(n) + reward
            np.maximum.at(best, pair[done], total[done])
            # Of equal states, the best goes on, if 1 more can beat its pair's.
            keep = np.flatnonzero(~done & (total + 1 > best[pair] + 1e-9))
            keep = keep[np.argsort(-total[keep])]
            key = np.column_stack([pair, state])[keep]
            keep = keep[np.unique(key, axis=0, return_index=True)[1]]
            pair, state, total = pair[keep], state[keep], total[keep]
        return best


class Coupling(Task):
    """The chicken-and-egg problem in one step: which action pays 1?

    Exploring, the last action shows it. State: what is shown, if exploring.
    """

    max_steps, names, finds = 1, ["pull"], ["problem_shown"]

    def __init__(self, num_actions=8, **kwargs):
        self.actions, self.num_problems = range(num_actions), num_actions
        self.state_sizes = (num_actions + 1, 2)
        self.space = MultiDiscrete([num_actions + 1])
        self.attributes, self.num_told = np.arange(num_actions)[:, None], 1
        super().__init__(**kwargs)

    def begin(self, explores):
        return np.stack([len(self.actions) + 0 * explores, explores], 1)

    def dynamics(self, mu, goal, state, action):
        shown, explores = state.T
        asks = (explores == 1) & (action == len(self.actions) - 1)
        after = np.column_stack([np.where(asks, mu, shown), explores])
        return after, 1.0 * (action == mu), action >= 0

    def sense(self, mu, state):
        return state[:, :1]

    def discover(self, mu, state, action, after):
        return [after[:, :1] < len(self.actions)]


class Bus(Task):
    """9 x 9 cells; the problem is which stops are joined by a bus.

    State: x, y. With `show_id`, all cells show the problem; in `map`, one.
    """

    actions = ("left", "up", "right", "down", "ride", "end")
    goals = np.array([(0, 0), (8, 8), (0, 8), (8, 0), (-1, -1)])
    # Of 4 useful and 4 useless buses; the problem permutes their outer stops.
    inner = (4, 5), (5, 4), (3, 4), (4, 3), (5, 5), (3, 3), (3, 5), (5, 3)
    outer = (0, 1), (0, 7), (8, 1), (8, 7), (0, 4), (4, 0), (8, 4), (4, 8)
    attributes = np.array([*permutations(range(4))])  # each bus's outer stop
    num_problems, has_map, num_told = 24, False, 4
    state_sizes, finds = (9, 9), ["useful_buses", "useless_buses"]
    instructions = [[0], [1], [2], [3]]
    names = ["(0, 0)", "(8, 8)", "(0, 8)", "(8, 0)"]

    def __init__(self, show_id=False, **kwargs):
        self.shows = np.full((9, 9), show_id)
        self.shows[7, 3] |= self.has_map
        self.bus = np.full((self.num_problems, 9, 9), -1)  # that stops at x, y
        self.ride = np.stack(np.indices(self.bus.shape)[1:], -1)  # to where
        for (mu, bus), to in np.ndenumerate(self.attributes):
            a, b = self.inner[bus], self.outer[to]
            self.bus[mu][a] = self.bus[mu][b] = bus
            self.ride[mu][a], self.ride[mu][b] = b, a
        shown = [self.num_problems + 1] if self.shows.any() else []
        self.space = MultiDiscrete([9, 9, 2] + shown)
        super().__init__(**kwargs)

    def begin(self, explores):
        return np.full((len(explores), 2), 4)

    def dynamics(self, mu, goal, state, action):
        at = np.clip(state + MOVES[action], 0, 8)
        at = np.where(action[:, None] == 4, self.ride[mu, *state.T], at)
        reached = (at == self.goals[goal]).all(1)
        return at, np.where(reached, 1.0, -0.1), reached

    def sense(self, mu, state):
        cell = [*state.T, self.bus[mu, *state.T] >= 0]
        if self.shows.any():
            cell.append(np.where(self.shows[*state.T], mu, len(self.bus)))
        return np.stack(cell, 1)

    def discover(self, mu, state, action, after):
        if self.has_map:
            return [(after == (7, 3)).all(1, keepdims=True)]
        bus = np.where(action == 4, self.bus[mu, *state.T], -1)[:, None]
        return bus == np.arange(4), bus == np.arange(4, 8)


class Map(Bus):
    """The city with a map in the cell (7, 3), which shows the problem."""

    has_map, finds = True, ["map_visited"]


class DistractingBus(Bus):
    """Four more buses that are of no use; 523 of 576 problems are held out."""

    orders = product(permutations(range(4)), permutations(range(4, 8)))
    attributes = np.array([useful + useless for useful, useless in orders])
    num_problems = 24 * 24
    test_problems = [p for p in range(24 * 24) if p % 11]


class Cooking(Task):
    """Put two ingredients from the fridges into the pot, in order.

    The problem 16a + 4b + c says what the fridges hold. State: x, y, what is
    held, the three places of the pot (4: nothing), the stage.
    """

    actions = ("left", "up", "right", "down", "pick", "drop", "end")
    num_problems, test_problems = 64, [6, 11, 17, 28, 36, 43, 49, 58]
    test_instructions = [4 * 0 + 1, 4 * 2 + 3]
    state_sizes, finds = (3, 3, 5, 5, 5, 5, 5), ["fridges_opened"]
    space = MultiDiscrete([3, 3, 3, 5, 5, 5, 5])
    fridges = np.array([*product(range(4), repeat=3)])  # (problems, 3)
    attributes, num_told = fridges, 3
    instructions = np.array([*product(range(4), repeat=2)])  # (I, 2)
    offers = (fridges[:, None, None] == instructions[..., None]).any(3).all(2)
    names = [f"{first} then {second}" for first, second in instructions]

    def begin(self, explores):
        return np.tile([1, 1, 4, 4, 4, 4, 0], (len(explores), 1))

    def dynamics(self, mu, goal, state, action):
        at = np.clip(state[:, :2] + MOVES[action], 0, 2)
        held, pot, stage = state[:, 2], state[:, 3:6].copy(), state[:, 6]
        x, y = at.T
        pick, drop = (action == 4) & (x == 2), action == 5
        place = (pot < 4).sum(1)  # the next free one
        puts = drop & (x == 1) & (y == 1) & (place < 3)
        pot[puts, place[puts]] = held[puts]
        held = np.where(pick, self.fridges[mu, y], np.where(drop, 4, held))

        # Stages 0 and 2: hold it; 1 and 3: have put it into the pot.
        which, put = stage // 2 % 2, stage % 2 == 1
        wanted = self.tokens[goal, which]
        inside = np.where(which == 0, pot[:, 0], pot[:, 1])
        reached = np.where(put, inside, held) == wanted
        lost = put & ~reached & (held != wanted)
        cases = [reached, lost, ~put & pick]
        reward = np.select(cases, [0.25, -0.1 - 0.35, -0.1 - 0.25], -0.1)
        stage = np.where(goal >= 0, stage + 1 * reached - lost, 0)
        return np.column_stack([at, held, pot, stage]), reward, stage == 4

    def sense(self, mu, state):
        x, y = state[:, :2].T
        stands = np.where(x == 2, 0, np.where((x == 1) & (y == 1), 1, 2))
        return np.column_stack([x, y, stands, state[:, 2:6]])

    def discover(self, mu, state, action, after):
        opens = np.where((action == 4) & (state[:, 0] == 2), state[:, 1], -1)
        return [opens[:, None] == np.arange(3)]


TASKS = {
    "coupling": Coupling,
    "bus": Bus,
    "bus-show-id": partial(Bus, show_id=True),
    "map": Map,
    "distracting-bus": DistractingBus,
    "cooking": Cooking,
    "sign-nav": lambda **options: import_module("sign_nav").SignNav(**options),
}


def make(env, num_envs=1, split="train", setting="imrl", num_actions=8, **more):
    """N copies of a task. Only sign-nav needs OpenGL: loaded when asked for."""
    if env not in TASKS:
        raise ValueError(f"env: one of {[*TASKS]}, not {env!r}")
    if env == "coupling":
        more["num_actions"] = num_actions
    return TASKS[env](num_envs=num_envs, split=split, setting=setting, **more)


def meta_test(play, env, setting, executions=0, final=False, **options):
    """The benchmark's columns of progress.csv, from greedy test trials.

    `play(task, problems, instructions)` plays a trial: for each instruction an
    episode, whose last `info` it returns; (N,) are given, or None: exploration
    without. The last K count, each with its problem's next instruction (0: one,
    or four where `online`). Where one trial of each test pair is exact, there
    are no others; else there are 102, 504 if `final`. Where N attributes may be
    told, each pair is tried with 0 to N of them told."""
    K = executions or (4 if setting == "online" else 1)
    explores = [] if setting == "online" else [None]
    one = make(env, 1, "test", setting, **options)
    pairs = one.pairs()
    if one.test_instructions:
        pairs = np.concatenate([pairs, one.pairs("train")])
    trials = 504 if final else 102
    times = 1 if one.exhaustive else max(1, trials // len(pairs))
    tell = np.arange(one.told + 1).repeat(times * len(pairs))
    problem, instruction = np.tile(pairs.T, times * (one.told + 1))
    # The k-th execution has the k-th next instruction of its problem.
    asked = np.tile(instruction, (K, 1))
    for p, k in product(np.unique(problem), range(K)):
        asked[k, problem == p] = np.roll(instruction[problem == p], -k)
    task = make(env, len(problem), "test", setting, **options)
    task.reset(seed=0)
    task.tell = tell
    infos = play(task, problem, explores + [*asked])

    everywhere = np.array([info["return"] for info in infos[-K:]])  # (K, P)
    test = np.isin(problem, one.problems["test"])
    returns, steps = everywhere[:, test], infos[0]["steps"][test]
    # With rewards in exploration, its instruction is drawn.
    exact = one.exhaustive and setting != "imrl-rewards" and not one.told
    error = 0.0 if exact else returns.mean(0).std() / returns.shape[1] ** 0.5
    row = {"test_return": returns.mean(), "test_return_se": error}
    row["optimal_return"] = one.optimal_return(*one.pairs().T).mean()
    row["exploration_steps"] = steps.mean()
    for n in range(one.told + 1 if one.told else 0):
        of_n = tell[test] == n
        row[f"test_return_told_{n}"] = returns[:, of_n].mean()
        row[f"exploration_steps_told_{n}"] = steps[of_n].mean()
    if K > 1:
        row |= {f"test_return_{k + 1}": x.mean() for k, x in enumerate(returns)}
    for name in one.finds:
        found = infos[0][name][test & np.isfinite(infos[0][name])]
        row[name] = found.mean() if len(found) else np.nan
    if one.test_instructions:
        new = np.isin(asked, one.test_instructions)
        for kind, problems in (("seen", ~test), ("unseen", test)):
            row[f"return_{kind}_seen"] = everywhere[problems & ~new].mean()
            row[f"return_{kind}_unseen"] = everywhere[problems & new].mean()
    return {name: float(value) for name, value in row.items()}


class Single(gymnasium.Env):
    """One copy of a task, with the same options of `reset`."""

    metadata = Task.metadata

    def __init__(self, env, **kwargs):
        self.task = make(env, **kwargs)
        self.render_mode = self.task.render_mode
        self.action_space = self.task.single_action_space
        self.observation_space = self.task.single_observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return tuple(map(first, self.task.reset(seed=seed, options=options)))

    def step(self, action):
        if self.task.done is not None and self.task.done[0]:
            raise ValueError("actions: a step after the end comes after reset")
        return tuple(map(first, self.task.step([action])))

    def render(self):
        return self.task.picture(0)


def first(part):
    """Of (N,) or {name: (N, ...)} that of the first copy."""
    if isinstance(part, dict):
        return {name: value[0, ...].copy() for name, value in part.items()}
    return part[0].item()


for env in TASKS:
    one, many = partial(Single, env), partial(make, env)
    gymnasium.register(f"imrl/{env}-v0", one, vector_entry_point=many)
