"""Six instruction-based meta-RL tasks, as Gymnasium vector environments.

A problem mu fixes the environment. A trial in it is one exploration episode,
without instruction and reward, then execution episodes, each with its own
instruction (Liu et al., ICML 2021, arXiv 2008.02790). A `reset` begins one:

    copies = gymnasium.make_vec("imrl/map-v0", num_envs=64, split="train")
    copies.reset(options={"problem": mu, "instruction": "none"})  # explore
    copies.reset(options={"problem": mu, "instruction": i})       # execute

`gymnasium.make("imrl/map-v0")` is a single copy. An observation is a dictionary
of `observation` (what is sensed: integer tokens, or a frame) and `instruction`
(tokens). In every token, the last value means "nothing".
"""

import contextlib
import copy
import functools
import os
import sys
from itertools import permutations, product
from unittest import mock

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector.utils import batch_space

APT = "libgl1 libglu1-mesa libegl1 libfreetype6"
APT = "apt-get install --no-install-recommends " + APT
# left, up, right, down; all other actions stay
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)] + 3 * [(0, 0)])
# four that the colour-blind can tell apart (Okabe and Ito), white, grey
COLORS = (230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167)
COLORS = np.array([*COLORS, 3 * (255,), 3 * (160,)])


def walk(x, y, actions, active, size):
    """One step in a grid of size x size cells, within its walls."""
    dx, dy = MOVES[actions].T * active
    return np.clip(x + dx, 0, size - 1), np.clip(y + dy, 0, size - 1)


def draw_grid(cells, agent=None, goal=None, size=24):
    """Colors of cells (W, H) -> RGB picture; agent a disc, goal a frame."""
    picture = COLORS[np.kron(cells, np.ones((size, size), int))]
    u = np.abs(np.arange(size) - size / 2 + 0.5)
    frame = np.maximum(u[:, None], u) > size / 2 - 3
    disc = np.hypot(u[:, None], u) < size / 3
    for cell, mask in ((goal, frame), (agent, disc)):
        if cell is not None:
            x, y = size * cell[0], size * cell[1]
            picture[x : x + size, y : y + size][mask] = 0
    return picture.transpose(1, 0, 2)[::-1].astype(np.uint8)


class Task(gymnasium.vector.VectorEnv):
    """N copies of one task, stepped together; `reset` begins N episodes.

    Options of `reset`, each a scalar or (N,): `problem`, and `instruction`
    ("none" or -1 to explore). What is missing is drawn from the split: a
    problem, then an instruction that it offers. There is no autoreset: `step`
    ignores copies that have ended. `info` has `problem`, `instruction`, and
    what the episode has found so far. A wrong argument raises ValueError.

    A task defines `begin` and `advance`, which keep the state `episode`,
    {name: (N, ...)}, and `sense` and `picture`, which read it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    metadata["autoreset_mode"] = gymnasium.vector.AutoresetMode.DISABLED
    max_steps, contact_ends_exploration = 20, False
    test_problems, test_instructions = [], []  # none: train and test on all
    exhaustive = True  # deterministic: one trial of a pair tells all
    reward_left = 1.0  # at most this an episode can still earn
    episode = None

    def __init__(self, observation, instructions, offers=True, num_envs=1,
                 split="train", render_mode=None):
        if split not in ("train", "test"):
            raise ValueError(f"split: 'train' or 'test', not {split!r}")
        self.num_envs, self.split = num_envs, split
        self.render_mode = render_mode

        # "none" is the last row and column, where the index -1 finds it.
        none = np.max(instructions, 0) + 1
        self.tokens = np.array([*instructions, none])
        problems = np.arange(self.num_problems)
        self.offers = {"test": np.ones((len(problems), len(self.tokens)), bool)}
        self.offers["test"][:, :-1] = offers  # (problem, instruction)
        self.offers["train"] = self.offers["test"].copy()
        self.offers["train"][:, self.test_instructions] = False
        train = np.setdiff1d(problems, self.test_problems)
        test = np.array(self.test_problems or problems)
        self.problems = {"train": train, "test": test}

        space = {"observation": observation}
        space["instruction"] = MultiDiscrete(none + 1)
        self.single_observation_space = Dict(space)
        self.single_action_space = Discrete(len(self.actions))
        both = self.single_observation_space, self.single_action_space
        self.observation_space, self.action_space = (
            batch_space(space, num_envs) for space in both
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        options, offers = dict(options or {}), self.offers["test"]
        size, instructions = len(offers), len(self.tokens) - 1
        problem = self._option(options, "problem", 0, size)
        instruction = self._option(options, "instruction", -1, instructions)
        if options:
            raise ValueError(f"options: problem, instruction, not {[*options]}")
        if problem is None:
            possible = np.isin(np.arange(size), self.problems[self.split])
            possible = np.tile(possible, (self.num_envs, 1))
            if instruction is not None:
                possible &= offers[:, instruction].T
            problem = self._choose(possible)
        if instruction is None:
            instruction = self._choose(self.offers[self.split][problem, :-1])
        for p in problem[~offers[problem, instruction]]:
            allowed = np.flatnonzero(offers[p, :-1])
            raise ValueError(f"instruction: in problem {p}, one of {allowed}")
        self.problem, self.instruction = problem, instruction
        self.t = np.zeros(self.num_envs, int)
        self.done = np.zeros(self.num_envs, bool)
        self.begin()
        return self._sensed()

    def _option(self, options, name, low, size):
        """Take an option out: (N,) whole numbers, or None if missing."""
        if options.get(name) is None:
            return options.pop(name, None)
        value = np.asarray(options.pop(name), object)
        value = np.array(np.where(value == "none", -1, value).tolist())
        n, whole = self.num_envs, value.dtype.kind in "iu"
        fits = whole and value.shape in ((), (n,))
        if not fits or value.min() < low or value.max() >= size:
            allowed = f"0 to {size - 1}" + (low < 0) * " or 'none'"
            raise ValueError(f"{name}: {allowed}, one or {n}, not {value}")
        return np.broadcast_to(value, n)

    def _choose(self, allowed):
        """(N, K) booleans -> one true column of each row, uniformly."""
        keys = self.np_random.random(allowed.shape)
        return np.where(allowed, keys, -1.0).argmax(1)

    def _sensed(self):
        observation, found = self.sense()
        instruction = self.tokens[self.instruction]
        batch = {"observation": observation, "instruction": instruction}
        info = {"problem": self.problem, "instruction": self.instruction}
        return batch, info | found

    def step(self, actions):
        actions, last = np.asarray(actions), len(self.actions) - 1
        if self.episode is None:
            raise ValueError("actions: a step comes after reset")
        n, whole = self.num_envs, actions.dtype.kind in "iu"
        fits = whole and actions.shape == (n,)
        if not fits or actions.min() < 0 or actions.max() > last:
            raise ValueError(f"actions: {n} of 0 to {last}, not {actions}")
        active, exploring = ~self.done, self.instruction < 0
        reward, over = self.advance(actions, active)
        if not self.contact_ends_exploration:
            over = over & ~exploring
        if self.actions[-1] == "end":
            rest = -0.1 * (self.max_steps - self.t)
            reward = np.where(actions == last, rest, reward)
            over = over | (actions == last)
        self.t = self.t + active
        self.done = self.done | active & over | (self.t >= self.max_steps)
        reward = np.where(active & ~exploring, reward, 0.0)
        batch, info = self._sensed()
        return batch, reward, self.done, np.zeros(n, bool), info

    def render(self):
        if self.render_mode is not None:
            return tuple(self.picture(k) for k in range(self.num_envs))

    def pairs(self, problems="test", instructions="test"):
        """All (problem, instruction) of two splits, (P, 2)."""
        pairs = np.argwhere(self.offers[instructions][:, :-1])
        return pairs[np.isin(pairs[:, 0], self.problems[problems])]

    def groups(self):
        """{more columns of progress.csv: the pairs of their mean return}."""
        return {}

    def optimal_return(self, problem, instruction):
        """Best return of each pair, (P,): breadth-first search over `step`.

        Of equal states the best is kept, and only while by `reward_left` it
        can still beat what its pair has reached.
        """
        problem, instruction = np.atleast_1d(problem, instruction)
        envs, n = copy.copy(self), len(self.actions)
        pair = np.arange(len(problem))
        envs.num_envs = len(pair)
        envs.reset(options={"problem": problem, "instruction": instruction})
        total, best = np.zeros(len(pair)), np.full(len(pair), -np.inf)
        while len(pair):
            parent, action = np.divmod(np.arange(n * len(pair)), n)
            envs._keep(parent)
            pair, total = pair[parent], total[parent]
            _, reward, done, _, _ = envs.step(action)
            total = total + reward
            np.maximum.at(best, pair[done], total[done])
            hopeful = ~done & (total + envs.reward_left > best[pair] + 1e-9)
            order = np.argsort(-total, kind="stable")
            order = order[hopeful[order]]
            state = np.column_stack([pair, *envs.episode.values()])[order]
            order = order[np.unique(state, axis=0, return_index=True)[1]]
            envs._keep(order)
            pair, total = pair[order], total[order]
        return best

    def _keep(self, index):
        """Go on with these of the copies."""
        self.num_envs = len(index)
        for name in ("problem", "instruction", "t", "done"):
            setattr(self, name, getattr(self, name)[index])
        self.episode = {k: v[index] for k, v in self.episode.items()}


class Coupling(Task):
    """The chicken-and-egg problem in one step: which action pays 1?

    Exploring, the last action shows the problem, the others nothing.
    """

    max_steps = 1

    def __init__(self, num_actions=8, **kwargs):
        self.actions, self.num_problems = range(num_actions), num_actions
        super().__init__(MultiDiscrete([num_actions + 1]), [[0]], **kwargs)

    def begin(self):
        self.episode = {"shown": np.full(self.num_envs, len(self.actions))}

    def advance(self, actions, active):
        asks = active & (self.instruction < 0) & (actions == self.actions[-1])
        self.episode["shown"][asks] = self.problem[asks]
        return 1.0 * (actions == self.problem), True

    def sense(self):
        shown = self.episode["shown"].copy()
        return shown[:, None], {"problem_shown": shown < len(self.actions)}

    def picture(self, k):
        last = self.actions[-1]
        asked = (last, 0) if self.episode["shown"][k] <= last else None
        cells = np.full((last + 1, 1), 4)
        return draw_grid(cells, asked, goal=(self.problem[k], 0))


class Bus(Task):
    """9 x 9 cells; the problem is which stops are joined by a bus."""

    actions = ("left", "up", "right", "down", "ride", "end")
    goals = np.array([(0, 0), (8, 8), (0, 8), (8, 0), (-1, -1)])
    # Of 4 useful and 4 useless buses; the problem permutes their outer stops.
    inner = (4, 5), (5, 4), (3, 4), (4, 3), (5, 5), (3, 3), (3, 5), (5, 3)
    outer = (0, 1), (0, 7), (8, 1), (8, 7), (0, 4), (4, 0), (8, 4), (4, 8)
    num_problems, num_buses, has_map = 24, 4, False

    def __init__(self, **kwargs):
        orders = np.array([*permutations(range(4))])
        self.bus = np.full((self.num_problems, 9, 9), -1)  # that stops there
        self.ride = np.zeros((self.num_problems, 9, 9, 2), int)  # to where
        for problem, bus in np.ndindex(self.num_problems, self.num_buses):
            useful, useless = divmod(problem, self.num_problems // 24)
            order = [*orders[useful], *orders[useless] + 4]
            a, b = self.inner[bus], self.outer[order[bus]]
            self.bus[problem][a] = self.bus[problem][b] = bus
            self.ride[problem][a], self.ride[problem][b] = b, a
        observation = MultiDiscrete([9, 9, 2] + self.has_map * [25])
        super().__init__(observation, [[0], [1], [2], [3]], **kwargs)

    def begin(self):
        x, y = np.full((2, self.num_envs), 4)
        ridden = np.zeros((self.num_envs, self.num_buses), bool)
        on_map = np.zeros(self.num_envs, bool)
        self.episode = dict(x=x, y=y, ridden=ridden, visited=on_map)

    def advance(self, actions, active):
        x, y, ridden, visited = self.episode.values()
        x, y = walk(x, y, actions, active, 9)
        bus = self.bus[self.problem, x, y]
        rides = active & (actions == 4) & (bus >= 0)
        ridden[rides, bus[rides]] = True
        x[rides], y[rides] = self.ride[self.problem, x, y][rides].T
        visited = visited | (x == 7) & (y == 3)
        self.episode |= dict(x=x, y=y, visited=visited)
        goal = (np.stack([x, y], 1) == self.goals[self.instruction]).all(1)
        return np.where(goal, 1.0, -0.1), goal

    def sense(self):
        x, y, ridden, visited = self.episode.values()
        cell = [x, y, self.bus[self.problem, x, y] >= 0]
        if self.has_map:
            cell.append(np.where((x == 7) & (y == 3), self.problem, 24))
            return np.stack(cell, 1), {"map_visited": visited}
        useful, useless = ridden[:, :4].sum(1), ridden[:, 4:].sum(1)
        found = {"useful_buses": useful, "useless_buses": useless}
        return np.stack(cell, 1), found

    def picture(self, k):
        cells = np.array([*range(4), 5, 5, 5, 5, 4])[self.bus[self.problem[k]]]
        x, y, _, _ = self.episode.values()
        agent, i = (x[k], y[k]), self.instruction[k]
        return draw_grid(cells, agent, goal=self.goals[i] if i >= 0 else None)


class Map(Bus):
    """The city with a map in the cell (7, 3), which shows the problem."""

    has_map = True


class DistractingBus(Bus):
    """Four more buses that are of no use; 523 of 576 problems are held out."""

    num_problems, num_buses = 24 * 24, 8
    test_problems = [p for p in range(24 * 24) if p % 11]


class Cooking(Task):
    """Put two ingredients from the fridges into the pot, in order.

    The problem 16a + 4b + c says what the three fridges hold.
    """

    actions = ("left", "up", "right", "down", "pick", "drop", "end")
    num_problems, test_problems = 64, [6, 11, 17, 28, 36, 43, 49, 58]
    test_instructions = [4 * 0 + 1, 4 * 2 + 3]

    def __init__(self, **kwargs):
        self.fridges = np.array([*product(range(4), repeat=3)])
        observation = MultiDiscrete([3, 3, 3, 5, 5, 5, 5])
        pairs = np.array([*product(range(4), repeat=2)])
        has = (self.fridges[:, None] == np.arange(4)[:, None]).any(2)
        super().__init__(observation, pairs, has[:, pairs].all(2), **kwargs)

    def begin(self):
        x, y, stage = np.array([[1], [1], [0]]).repeat(self.num_envs, 1)
        held, *pot = np.full((4, self.num_envs), 4)  # 4 is nothing
        self.episode = dict(
            x=x, y=y, held=held, pot=np.stack(pot, 1), stage=stage,
            opened=np.zeros((self.num_envs, 3), bool),
        )

    def advance(self, actions, active):
        x, y, held, pot, stage, opened = self.episode.values()
        x, y = walk(x, y, actions, active, 3)
        copies = np.arange(self.num_envs)
        pick = active & (actions == 4) & (x == 2)
        drop = active & (actions == 5)
        place = (pot < 4).sum(1)  # the next free one
        into = copies[drop & (x == 1) & (y == 1) & (place < 3)]
        pot[into, place[into]] = held[into]
        opened[copies[pick], y[pick]] = True
        inside = self.fridges[self.problem, y]
        held = np.where(pick, inside, np.where(drop, 4, held))

        # Stages 0 and 2: hold it; 1 and 3: have put it into the pot.
        which, put = stage // 2 % 2, stage % 2 == 1
        wanted = self.tokens[self.instruction, which]
        holds = held == wanted
        reached = np.where(put, pot[copies, which] == wanted, holds)
        lost = put & ~reached & ~holds
        wrong = ~put & ~reached & pick
        reward = np.where(reached, 0.25, -0.1 - 0.35 * lost - 0.25 * wrong)
        stage = stage + (1 * reached - lost) * active
        self.episode |= dict(x=x, y=y, held=held, stage=stage)
        return reward, stage == 4

    @property
    def reward_left(self):
        return 0.25 * (4 - self.episode["stage"])

    def sense(self):
        x, y, held, pot, _, opened = self.episode.values()
        stands = np.where(x == 2, 0, np.where((x == 1) & (y == 1), 1, 2))
        cell = np.column_stack([x, y, stands, held, pot])
        return cell, {"fridges_opened": opened.sum(1)}

    def groups(self):
        """Also the four kinds of (kitchen, instruction)."""
        groups = {}
        for kitchen, split in (("seen", "train"), ("unseen", "test")):
            pairs = self.pairs(split)
            new = np.isin(pairs[:, 1], self.test_instructions)
            groups[f"return_{kitchen}_seen"] = pairs[~new]
            groups[f"return_{kitchen}_unseen"] = pairs[new]
        return groups

    def picture(self, k):
        """The kitchen; above it what is held, in the pot, and wanted."""
        x, y, held, pot, _, _ = (v[k] for v in self.episode.values())
        cells = np.full((3, 6), 4)
        cells[2, :3], cells[1, 1] = self.fridges[self.problem[k]], 5
        cells[0, 3], cells[:, 4] = held, pot
        cells[:2, 5] = self.tokens[self.instruction[k]]
        return draw_grid(cells, agent=(x, y))


@functools.cache
def sign_world():
    """The MiniWorld of this process; its only state is what it draws just now.

    Raises DependencyNotInstalled where OpenGL is missing.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")  # fastest without a GPU
    try:
        import pyglet

        pyglet.options["headless"] = sys.platform == "linux"
        pyglet.options["debug_gl"] = False
        from miniworld import entity, miniworld, opengl, params
        from pyglet import gl
    except Exception as error:  # pyglet has its own where there is no driver
        message = f"sign-nav needs OpenGL ({error}); on Debian: {APT}"
        raise gymnasium.error.DependencyNotInstalled(message) from error

    class Block(entity.Box):
        is_static = True  # drawn into the display list

    class Ball(Block):
        """GLU's sphere: MiniWorld's mesh takes longer than all the rest."""

        def render(self):
            gl.glDisable(gl.GL_TEXTURE_2D)
            gl.glColor3f(*self.color_vec)
            gl.glPushMatrix()
            gl.glTranslatef(*(self.pos + [0, self.height / 2, 0]))
            gl.gluSphere(gl.gluNewQuadric(), self.height / 2, 16, 12)
            gl.glPopMatrix()

    class World(miniworld.MiniWorldEnv):
        def _gen_world(self):
            front = self.add_rect_room(0, 10, 0, 6.5)
            left = self.add_rect_room(0, 5, 6.75, 13)
            right = self.add_rect_room(5, 10, 6.75, 13)
            self.connect_rooms(front, left, min_x=0, max_x=5)
            self.connect_rooms(left, right, min_z=6.75, max_z=13)
            for color, places in SignNav.objects.items():
                key = entity.MeshEnt(f"key_{color}", 0.6)
                things = Ball(color, 0.9), Block(color, 0.8), key
                for thing, (x, z, heading) in zip(things, places):
                    at = np.array([x, 0, z])
                    self.place_entity(thing, pos=at, dir=heading)
            sign = entity.TextFrame([10, 1.35, 10.25], np.pi, "", height=1)
            self.entities.append(sign)
            self.place_agent(pos=np.array([4.5, 0, 4.5]), dir=0)

        def say(self, word, number=1):
            """Draw the world, with a word on the sign, into a display list.

            MiniWorld itself only knows list 1, which all its worlds share.
            """
            legible = {"B": 2, "L": 1, "U": 0, "E": 2, "R": 1, "D": 6}
            sign = self.entities[6]
            sign.str, sign.width, sign.texs = word, len(word), []
            for letter in word:
                rng = mock.Mock(**{"integers.return_value": legible[letter]})
                letter = opengl.Texture.get(f"chars/ch_0x{ord(letter)}", rng)
                sign.texs.append(letter)
            with mock.patch.multiple(
                miniworld,
                glDeleteLists=lambda *_: None,
                glNewList=lambda _, mode: gl.glNewList(number, mode),
            ):
                self._render_static()

        def draw(self, problem, pose):
            """What is seen from n poses (x, z, heading): (n, 60, 80, 3)."""
            self.shadow_window.switch_to()
            self.obs_fb.bind()
            gl.glClearColor(*self.sky_color, 1.0)
            gl.glMatrixMode(gl.GL_PROJECTION)
            gl.glLoadIdentity()
            gl.gluPerspective(60, 80 / 60, 0.04, 100.0)
            gl.glMatrixMode(gl.GL_MODELVIEW)
            gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
            frames = np.empty((len(pose), 60, 80, 3), np.uint8)
            kind = gl.GL_RGB, gl.GL_UNSIGNED_BYTE
            for k, (x, z, heading) in enumerate(pose):
                gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)
                gl.glLoadIdentity()
                ahead = x + np.cos(heading), 1.5, z - np.sin(heading)
                gl.gluLookAt(x, 1.5, z, *ahead, 0, 1, 0)
                gl.glCallList(self.lists[problem[k]])
                gl.glReadPixels(0, 0, 80, 60, *kind, frames[k].ctypes.data)
            return frames[:, ::-1]

    # Where the extension is missing, MiniWorld does without multisampling.
    plain = mock.patch.object(opengl.gl_info, "have_extension", lambda _: False)
    with plain, contextlib.redirect_stdout(None):
        fixed = params.DEFAULT_PARAMS.no_random()
        world = World(params=fixed, window_width=320, window_height=240)
    world.lists = gl.glGenLists(1), gl.glGenLists(1)
    for number, word in zip(world.lists, ("BLUE", "RED")):
        world.say(word, number)
    return world


class SignNav(Task):
    """3D navigation: the sign behind the barrier names the color to fetch."""

    actions = ("turn left", "turn right", "forward")
    contact_ends_exploration, exhaustive, num_problems = True, False, 2
    # (x, z, heading) of ball, block and key; a key's flat side faces the start
    objects = {
        "blue": ((1, 1, 0), (9, 5, 0), (5, 1, -1.6)),
        "red": ((9, 1, 0), (1, 5, 0), (1, 9, 0.9)),
    }

    def __init__(self, **kwargs):
        self.world = sign_world()
        things = self.world.entities[:6]
        self.places = np.array([thing.pos[[0, 2]] for thing in things])
        radii = np.array([thing.radius for thing in things])
        self.reach = radii + self.world.agent.radius + 1.1 * 0.7
        frame = Box(0, 255, (60, 80, 3), np.uint8)
        super().__init__(frame, [[0], [1], [2]], **kwargs)

    def begin(self):
        low, high, n = (4, 4, -np.pi), (5, 5, np.pi), self.num_envs
        pose = self.np_random.uniform(low, high, (n, 3))
        frame, in_view = np.zeros((n, 60, 80, 3), np.uint8), np.zeros(n, bool)
        self.episode = dict(pose=pose, frame=frame, in_view=in_view)
        self._look(np.ones(n, bool))

    def _look(self, active):
        """Draw what the copies see; is the sign in view?"""
        pose, frame, in_view = self.episode.values()
        draw = self.world.draw
        frame[active] = draw(self.problem[active], pose[active])
        near = np.hypot(pose[:, 0] - 10, pose[:, 1] - 10.25) <= 5.5
        near &= active & ~in_view
        other = draw(1 - self.problem[near], pose[near])
        in_view[near] = (other != frame[near]).any((1, 2, 3))

    def advance(self, actions, active):
        pose, world = self.episode["pose"], self.world
        pose[:, 2] += np.array([1, -1, 0])[actions] * active * np.pi / 4
        ahead = np.stack([np.cos(pose[:, 2]), -np.sin(pose[:, 2])], 1)
        for k in np.flatnonzero(active & (actions == 2)):
            x, z = pose[k, :2] + 0.7 * ahead[k]
            if not world.intersect(world.agent, (x, 0, z), world.agent.radius):
                pose[k, :2] = x, z
        self._look(active)
        offset = pose[:, None, :2] - self.places  # (N, 6, 2)
        near = np.hypot(offset[..., 0], offset[..., 1]) < self.reach
        right = near.argmax(1) == 3 * self.problem + self.instruction
        return np.where(right, 1.0, -1.0) * near.any(1), near.any(1)

    def sense(self):
        _, frame, in_view = self.episode.values()
        return frame.copy(), {"sign_in_view": in_view.copy()}

    def optimal_return(self, problem, instruction):
        """1: from every start, each object can be reached in 20 steps."""
        return np.ones(len(problem))

    def picture(self, k):
        """What the agent sees, and the world from above."""
        world, (x, z, heading) = self.world, self.episode["pose"][k]
        world.agent.pos, world.agent.dir = np.array([x, 0, z]), heading
        world.say(("BLUE", "RED")[self.problem[k]])
        view = world.render_obs(world.vis_fb)
        return np.hstack([view, world.render_top_view(world.vis_fb)])


class Trial(gymnasium.Env):
    """One copy of a task, with the same options of `reset`."""

    metadata = Task.metadata

    def __init__(self, task, **kwargs):
        self.task = task(num_envs=1, **kwargs)
        self.render_mode = self.task.render_mode
        self.action_space = self.task.single_action_space
        self.observation_space = self.task.single_observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task.np_random = self.np_random
        batch, info = self.task.reset(options=options)
        return self._only(batch), self._only(info)

    def step(self, action):
        if self.task.episode is not None and self.task.done[0]:
            raise ValueError("actions: a step after the end comes after reset")
        batch, reward, done, _, info = self.task.step(np.array([action]))
        batch, info = self._only(batch), self._only(info)
        return batch, float(reward[0]), bool(done[0]), False, info

    def _only(self, batch):
        return {name: value[0] for name, value in batch.items()}

    def render(self):
        return self.task.picture(0)


TASKS = {"coupling": Coupling, "bus": Bus, "map": Map}
TASKS |= {"distracting-bus": DistractingBus, "cooking": Cooking}
TASKS |= {"sign-nav": SignNav}
for name, task in TASKS.items():
    single = functools.partial(Trial, task)
    gymnasium.register(f"imrl/{name}-v0", single, vector_entry_point=task)
