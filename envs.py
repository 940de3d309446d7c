"""Six instruction-based meta-RL tasks, as Gymnasium vector environments.

A problem mu fixes the environment. A trial in it is one exploration episode,
without instruction and reward, then execution episodes, each with its own
instruction (Liu et al., ICML 2021, arXiv 2008.02790, section 3). One `reset`
begins one episode:

    envs = gymnasium.make_vec("imrl/map-v0", num_envs=64, split="train")
    envs.reset(options={"problem": mu, "instruction": "none"})  # explore
    envs.reset(options={"problem": mu, "instruction": i})       # execute

and `gymnasium.make("imrl/map-v0")` is a single copy. An observation is a
dictionary of `observation` (what the agent senses: integer tokens, or a frame)
and `instruction` (tokens). In every token, the last value means "nothing".
"""

import contextlib
import copy
import functools
import itertools
import os
import sys
from unittest import mock

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector.utils import batch_space

# left, up, right, down; other actions stay
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)] + 3 * [(0, 0)])
# Okabe and Ito's colors, which the colour-blind can tell apart; then white.
COLORS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), 3 * (255,)]
)
GREY, GREEN = (160, 160, 160), (0, 110, 0)
APT = (
    "apt-get install --no-install-recommends "
    "libgl1 libglu1-mesa libegl1 libfreetype6"
)


def walk(x, y, actions, active, size):
    """One step in a grid of size x size cells; its wall stops it."""
    dx, dy = MOVES[actions].T * active
    return np.clip(x + dx, 0, size - 1), np.clip(y + dy, 0, size - 1)


def draw_grid(colors, agent=None, goal=None, size=24):
    """Cells' colors (W, H, 3) -> RGB picture, y upwards.

    The agent is a black disc, the goal a green frame.
    """
    picture = np.kron(colors, np.ones((size, size, 1))).astype(np.uint8)
    picture[::size] = picture[:, ::size] = 210
    u = np.abs(np.arange(size) - size / 2 + 0.5)
    frame = np.maximum(u[:, None], u) > size / 2 - 4
    disc = np.hypot(u[:, None], u) < size / 3
    for cell, mask, color in ((goal, frame, GREEN), (agent, disc, 0)):
        if cell is not None:
            x, y = size * cell[0], size * cell[1]
            picture[x : x + size, y : y + size][mask] = color
    return np.ascontiguousarray(picture.transpose(1, 0, 2)[::-1])


class Task(gymnasium.vector.VectorEnv):
    """N copies of one task, stepped together; `reset` begins N episodes.

    Options of `reset`, each a scalar or (N,): `problem`, and `instruction`
    ("none" or -1 to explore). What is missing is drawn from the split: a
    problem, then an instruction that it offers. There is no autoreset: `step`
    ignores copies that have ended. `info` has `problem`, `instruction` and
    what `measures` says. An impossible argument raises ValueError.
    """

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 4,
        "autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED,
    }
    max_steps = 20
    contact_ends_exploration = False
    held_out_problems = None  # None: all are for training and for testing
    held_out_instructions = []
    reward_left = 1.0  # an upper bound of what an episode can still earn

    def __init__(self, observation, num_problems, instructions,
                 num_envs=1, split="train", render_mode=None):
        if split not in ("train", "test"):
            raise ValueError(f"split is 'train' or 'test', not {split!r}")
        self.num_envs, self.split = num_envs, split
        self.render_mode = render_mode

        # The row of "none" comes last, where the index -1 finds it.
        none = [max(column) + 1 for column in zip(*instructions)]
        self.tokens = np.array([*instructions, none])
        train = test = np.arange(num_problems)
        offers = [[self.offered(p, i) for i in instructions] for p in train]
        if self.held_out_problems is not None:
            test = np.array(self.held_out_problems)
            train = np.setdiff1d(train, test)
        self.problems = {"train": train, "test": test}
        self.offers = {"train": np.array(offers), "test": np.array(offers)}
        self.offers["train"][:, self.held_out_instructions] = False

        self.single_action_space = Discrete(len(self.actions))
        instruction = MultiDiscrete(np.add(none, 1))
        self.single_observation_space = Dict(
            observation=observation, instruction=instruction
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(
            self.single_observation_space, num_envs
        )
        self.episode = None  # {name: (N, ...)}, the state of the N episodes

    def offered(self, problem, instruction):
        """Whether the problem can be given the instruction (its tokens)."""
        return True

    def measures(self):
        """{name: (N,)} of what each episode has found or done so far."""
        return {}

    def reset(self, *, seed=None, options=None):
        """Begin N episodes: observation, info."""
        super().reset(seed=seed)
        options = dict(options or {})
        offers = self.offers["test"]
        size, instructions = offers.shape
        problem = self._option(options, "problem", 0, size)
        instruction = self._option(options, "instruction", -1, instructions)
        if options:
            raise ValueError(f"options: problem, instruction; not {[*options]}")
        if problem is None:
            possible = np.isin(np.arange(size), self.problems[self.split])
            possible = np.tile(possible, (self.num_envs, 1))
            if instruction is not None:
                possible &= offers.T[instruction] | (instruction < 0)[:, None]
            problem = self._choose(possible)
        if instruction is None:
            instruction = self._choose(self.offers[self.split][problem])
        fits = offers[problem, instruction] | (instruction < 0)
        for p in problem[~fits]:
            allowed = np.flatnonzero(offers[p])
            raise ValueError(f"instruction in problem {p} is one of {allowed}")
        self.problem, self.instruction = problem, instruction
        self.t = np.zeros(self.num_envs, int)
        self.done = np.zeros(self.num_envs, bool)
        self.episode = self.begin()
        return self._observation(), self._info()

    def _option(self, options, name, lowest, size):
        """Take an option out: (N,) whole numbers, or None if missing."""
        value = np.asarray(options.pop(name, None), object)
        if value.shape == () and value[()] is None:
            return None
        value = np.array(np.where(value == "none", -1, value).tolist())
        shape_fits = value.shape in ((), (self.num_envs,))
        if value.dtype.kind not in "iu" or not shape_fits or not (
            lowest <= value.min() <= value.max() < size
        ):
            none = " or 'none'" if lowest else ""
            raise ValueError(
                f"{name} is 0 to {size - 1}{none}, a scalar or of shape "
                f"({self.num_envs},), not {value}"
            )
        return np.broadcast_to(value, self.num_envs)

    def _choose(self, allowed):
        """(N, K) booleans -> one true column of each row, uniformly."""
        keys = self.np_random.random(allowed.shape)
        return np.where(allowed, keys, -1.0).argmax(1)

    def step(self, actions):
        """(N,) actions: observation, reward, terminated, truncated, info."""
        actions, last = np.asarray(actions), len(self.actions) - 1
        shape_fits = actions.shape == (self.num_envs,)
        if actions.dtype.kind not in "iu" or not shape_fits or not (
            0 <= actions.min() <= actions.max() <= last
        ):
            raise ValueError(
                f"actions are 0 to {last}, of shape ({self.num_envs},), "
                f"not {actions}"
            )
        if self.episode is None:
            raise ValueError("step comes after reset")
        active, exploring = ~self.done, self.instruction < 0
        reward, over = self.advance(actions, active)
        if not self.contact_ends_exploration:
            over = over & ~exploring
        if self.actions[-1] == "end":
            rest = -0.1 * (self.max_steps - self.t)
            reward = np.where(actions == last, rest, reward)
            over = over | (actions == last)
        reward = np.where(active & ~exploring, reward, 0.0)
        self.t = self.t + active
        self.done = self.done | active & over | (self.t >= self.max_steps)
        truncated = np.zeros(self.num_envs, bool)
        return self._observation(), reward, self.done, truncated, self._info()

    def _observation(self):
        instruction = self.tokens[self.instruction]
        return {"observation": self.observe(), "instruction": instruction}

    def _info(self):
        info = {"problem": self.problem, "instruction": self.instruction}
        return info | self.measures()

    def render(self):
        """N RGB pictures."""
        if self.render_mode is not None:
            return tuple(self.picture(k) for k in range(self.num_envs))

    def pairs(self, problems="test", instructions="test"):
        """All (problem, instruction) of two splits, (P, 2)."""
        pairs = np.argwhere(self.offers[instructions])
        return pairs[np.isin(pairs[:, 0], self.problems[problems])]

    def groups(self):
        """{column of progress.csv: pairs whose mean return it reports}."""
        return {"test_return": self.pairs()}

    def optimal_return(self, problem, instruction):
        """Best return of each pair, (P,): breadth-first search over `step`.

        Of equal states the best is kept, and only while by `reward_left` it
        can still beat what its pair has reached.
        """
        problem, instruction = np.atleast_1d(problem, instruction)
        envs, n = copy.copy(self), len(self.actions)
        envs.num_envs = len(problem)
        envs.reset(options={"problem": problem, "instruction": instruction})
        pair, total = np.arange(len(problem)), np.zeros(len(problem))
        best = np.full(len(problem), -np.inf)
        while len(pair):
            children = np.repeat(np.arange(len(pair)), n)
            envs, pair, total = envs._take(children), pair[children], total[children]
            _, reward, done, _, _ = envs.step(np.arange(len(pair)) % n)
            total = total + reward
            np.maximum.at(best, pair[done], total[done])
            hopeful = total + envs.reward_left > best[pair] + 1e-9
            order = np.argsort(-total, kind="stable")
            order = order[(hopeful & ~done)[order]]
            state = np.column_stack([pair, *envs.episode.values()])[order]
            keep = order[np.unique(state, axis=0, return_index=True)[1]]
            envs, pair, total = envs._take(keep), pair[keep], total[keep]
        return best

    def _take(self, index):
        """The task that has only these of the copies."""
        task = copy.copy(self)
        task.num_envs = len(index)
        for name in ("problem", "instruction", "t", "done"):
            setattr(task, name, getattr(self, name)[index])
        task.episode = {k: v[index] for k, v in self.episode.items()}
        return task


class Coupling(Task):
    """The chicken-and-egg problem in one step: which action pays 1?

    Exploring, the last action shows the problem, the others nothing.
    """

    max_steps = 1

    def __init__(self, num_actions=8, **kwargs):
        self.actions = tuple(range(num_actions))
        observation = MultiDiscrete([num_actions + 1])
        super().__init__(observation, num_actions, [[0]], **kwargs)

    def begin(self):
        return {"shown": np.full(self.num_envs, len(self.actions))}

    def advance(self, actions, active):
        asks = active & (self.instruction < 0) & (actions == self.actions[-1])
        self.episode["shown"][asks] = self.problem[asks]
        return np.where(actions == self.problem, 1.0, 0.0), True

    def observe(self):
        return self.episode["shown"][:, None].copy()

    def measures(self):
        return {"problem_shown": self.episode["shown"] < len(self.actions)}

    def picture(self, k):
        colors = np.full((len(self.actions), 1, 3), 255)
        colors[-1] = COLORS[0]
        asked = (self.actions[-1], 0) if self.measures()["problem_shown"][k] else None
        return draw_grid(colors, agent=asked, goal=(self.problem[k], 0))


class Bus(Task):
    """9 x 9 cells; the problem is which stops are joined by a bus."""

    actions = ("left", "up", "right", "down", "ride", "end")
    num_problems = 24
    centres = (4, 5), (5, 4), (3, 4), (4, 3)
    corners = (0, 1), (0, 7), (8, 1), (8, 7)
    goals = np.array([(0, 0), (8, 8), (0, 8), (8, 0), (-1, -1)])
    extra_tokens = ()

    def __init__(self, **kwargs):
        self.bus = np.full((self.num_problems, 9, 9), -1)  # that stops there
        self.ride = np.zeros((self.num_problems, 9, 9, 2), int)  # where to
        for problem in range(self.num_problems):
            for bus, (a, b) in enumerate(self.joined(problem)):
                self.bus[problem][a] = self.bus[problem][b] = bus
                self.ride[problem][a], self.ride[problem][b] = b, a
        observation = MultiDiscrete([9, 9, 2, *self.extra_tokens])
        instructions = [[0], [1], [2], [3]]
        super().__init__(observation, self.num_problems, instructions, **kwargs)

    def joined(self, problem):
        """The two stops of each bus."""
        permutation = [*itertools.permutations(self.corners)][problem]
        return [*zip(self.centres, permutation)]

    def begin(self):
        return {
            "x": np.full(self.num_envs, 4),
            "y": np.full(self.num_envs, 4),
            "ridden": np.zeros((self.num_envs, self.bus.max() + 1), bool),
        }

    def advance(self, actions, active):
        x, y, ridden = self.episode.values()
        x, y = walk(x, y, actions, active, 9)
        bus = self.bus[self.problem, x, y]
        rides = active & (actions == 4) & (bus >= 0)
        ridden[rides, bus[rides]] = True
        x[rides], y[rides] = self.ride[self.problem, x, y][rides].T
        self.episode = {"x": x, "y": y, "ridden": ridden}
        goal = (np.stack([x, y], 1) == self.goals[self.instruction]).all(1)
        return np.where(goal, 1.0, -0.1), goal

    def observe(self):
        x, y, _ = self.episode.values()
        return np.stack([x, y, self.bus[self.problem, x, y] >= 0], 1)

    def measures(self):
        return {"buses": self.episode["ridden"].sum(1)}

    def picture(self, k):
        colors = np.full((9, 9, 3), 255)
        for bus, stops in enumerate(self.joined(self.problem[k])):
            for stop in stops:
                colors[stop] = COLORS[bus] if bus < 4 else GREY
        agent = self.episode["x"][k], self.episode["y"][k]
        i = self.instruction[k]
        return draw_grid(colors, agent, goal=self.goals[i] if i >= 0 else None)


class Map(Bus):
    """The city with a map in the cell (7, 3), which shows the problem."""

    extra_tokens = (25,)

    def observe(self):
        x, y, _ = self.episode.values()
        shown = np.where((x == 7) & (y == 3), self.problem, self.num_problems)
        return np.column_stack([super().observe(), shown])


class DistractingBus(Bus):
    """Four more buses that are of no use; 523 of 576 problems are held out."""

    num_problems = 24 * 24
    held_out_problems = [p for p in range(576) if p % 11]
    useless_centres = (5, 5), (3, 3), (3, 5), (5, 3)
    useless_corners = (0, 4), (4, 0), (8, 4), (4, 8)

    def joined(self, problem):
        useless = [*itertools.permutations(self.useless_corners)][problem % 24]
        useless = [*zip(self.useless_centres, useless)]
        return super().joined(problem // 24) + useless

    def measures(self):
        ridden = self.episode["ridden"]
        return {
            "useful_buses": ridden[:, :4].sum(1),
            "useless_buses": ridden[:, 4:].sum(1),
        }


class Cooking(Task):
    """Put two ingredients from the fridges into the pot, in order.

    The problem 16a + 4b + c says what the three fridges hold.
    """

    actions = ("left", "up", "right", "down", "pick", "drop", "end")
    held_out_problems = [6, 11, 17, 28, 36, 43, 49, 58]
    held_out_instructions = [4 * 0 + 1, 4 * 2 + 3]

    def __init__(self, **kwargs):
        self.fridges = np.array([*itertools.product(range(4), repeat=3)])
        observation = MultiDiscrete([3, 3, 3, 5, 5, 5, 5])
        instructions = [*itertools.product(range(4), repeat=2)]
        super().__init__(observation, 64, instructions, **kwargs)

    def offered(self, problem, instruction):
        return set(instruction) <= set(self.fridges[problem])

    def begin(self):
        n = self.num_envs
        pot, held = np.full((n, 3), 4), np.full(n, 4)  # 4 is nothing
        x, y, stage = np.ones(n, int), np.ones(n, int), np.zeros(n, int)
        return dict(x=x, y=y, held=held, pot=pot, stage=stage)

    def advance(self, actions, active):
        x, y, held, pot, stage = self.episode.values()
        x, y = walk(x, y, actions, active, 3)
        copies = np.arange(self.num_envs)
        pick = active & (actions == 4) & (x == 2)
        drop = active & (actions == 5)
        place = (pot < 4).sum(1)  # the next free one
        into = copies[drop & (x == 1) & (y == 1) & (place < 3)]
        pot[into, place[into]] = held[into]
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
        self.episode = dict(x=x, y=y, held=held, pot=pot, stage=stage)
        return reward, stage == 4

    @property
    def reward_left(self):
        return 0.25 * (4 - self.episode["stage"])

    def observe(self):
        x, y, held, pot, _ = self.episode.values()
        stands = np.where(x == 2, 0, np.where((x == 1) & (y == 1), 1, 2))
        return np.column_stack([x, y, stands, held, pot])

    def groups(self):
        """Also the four kinds of (kitchen, instruction)."""
        groups = super().groups()
        for kitchen, split in (("seen", "train"), ("unseen", "test")):
            pairs = self.pairs(split)
            new = np.isin(pairs[:, 1], self.held_out_instructions)
            groups[f"return_{kitchen}_seen"] = pairs[~new]
            groups[f"return_{kitchen}_unseen"] = pairs[new]
        return groups

    def picture(self, k):
        """The kitchen, above it the pot's contents and the instruction."""
        x, y, held, pot, _ = (value[k] for value in self.episode.values())
        colors = np.full((3, 5, 3), 255)
        colors[2, :3] = COLORS[self.fridges[self.problem[k]]]
        colors[1, 1], colors[:, 3] = GREY, COLORS[pot]
        colors[:2, 4] = COLORS[self.tokens[self.instruction[k]]]
        picture = draw_grid(colors, agent=(x, y))
        if held < 4:
            picture[24 * (4 - y) + 8 :, 24 * x + 8 :][:8, :8] = COLORS[held]
        return picture


@functools.cache
def sign_world():
    """The MiniWorld of a process; its only state is what it draws just now.

    Raises DependencyNotInstalled where OpenGL is missing.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")  # fastest without a GPU
    try:
        import pyglet

        pyglet.options["headless"] = sys.platform == "linux"
        pyglet.options["debug_gl"] = False
        from miniworld import entity, miniworld, opengl, params, utils
        from pyglet import gl
    except Exception as error:  # pyglet has its own where there is no driver
        message = f"sign-nav needs OpenGL ({error}); on Debian: {APT}"
        raise gymnasium.error.DependencyNotInstalled(message) from error

    class Ball(entity.Box):
        """GLU's sphere: MiniWorld's mesh takes longer than all the rest."""

        def render(self):
            gl.glDisable(gl.GL_TEXTURE_2D)
            gl.glColor3f(*self.color_vec)
            gl.glPushMatrix()
            gl.glTranslatef(*(self.pos + [0, self.height / 2, 0]))
            gl.gluSphere(gl.gluNewQuadric(), self.height / 2, 24, 16)
            gl.glPopMatrix()

    class World(miniworld.MiniWorldEnv):
        def _gen_world(self):
            front = self.add_rect_room(0, 10, 0, 6.5)
            left = self.add_rect_room(0, 5, 6.75, 13)
            right = self.add_rect_room(5, 10, 6.75, 13)
            self.connect_rooms(front, left, min_x=0, max_x=5)
            self.connect_rooms(left, right, min_z=6.75, max_z=13)
            for color, places in SignNav.objects.items():
                key = entity.MeshEnt(f"key_{color}", 0.6, static=False)
                things = Ball(color, 0.9), entity.Box(color, 0.8), key
                for thing, (x, z, heading) in zip(things, places):
                    self.place_entity(thing, pos=np.array([x, 0, z]), dir=heading)
            sign = entity.TextFrame([10, 1.35, 10.25], np.pi, "", height=1)
            self.entities.append(sign)
            self.place_agent(pos=np.array([4.5, 0, 4.5]), dir=0)

        def say(self, word):
            """Write on the sign, in those pictures of letters one can read."""
            legible = {"B": 3, "L": 2, "U": 1, "E": 3, "R": 2, "D": 7}
            sign = self.entities[6]
            sign.str, sign.width, sign.texs = word, len(word), []
            for letter in word:
                name = f"chars/ch_0x{ord(letter)}_{legible[letter]}"
                path = utils.get_file_path("textures", name, "png")
                sign.texs.append(opengl.Texture(opengl.Texture.load(path), name))
            self._render_static()

        def compile(self):
            """Display lists: what stands in the two problems, the six objects.

            MiniWorld itself only uses list 1, which all its worlds share.
            """
            self.lists = [gl.glGenLists(1) for _ in range(2 + 6)]
            for number, word in zip(self.lists, ("BLUE", "RED")):
                with mock.patch.multiple(
                    miniworld,
                    glDeleteLists=lambda *_: None,
                    glNewList=lambda _, mode: gl.glNewList(number, mode),
                ):
                    self.say(word)
            for number, thing in zip(self.lists[2:], self.entities):
                gl.glNewList(number, gl.GL_COMPILE)
                thing.render()
                gl.glEndList()
            self.tiles = opengl.FrameBuffer(8 * 80, 8 * 60)

        def draw(self, problem, pose):
            """Frames (n, 60, 80, 3) from n <= 64 poses (x, z, heading)."""
            self.shadow_window.switch_to()
            self.tiles.bind()
            gl.glClearColor(*self.sky_color, 1.0)
            gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)
            gl.glMatrixMode(gl.GL_PROJECTION)
            gl.glLoadIdentity()
            gl.gluPerspective(60, 80 / 60, 0.04, 100.0)
            gl.glMatrixMode(gl.GL_MODELVIEW)
            seen = self.may_see(pose)
            for k, (x, z, heading) in enumerate(pose):
                gl.glViewport(k % 8 * 80, k // 8 * 60, 80, 60)
                gl.glLoadIdentity()
                ahead = x + np.cos(heading), 1.5, z - np.sin(heading)
                gl.gluLookAt(x, 1.5, z, *ahead, 0, 1, 0)
                gl.glCallList(self.lists[problem[k]])
                for thing in np.flatnonzero(seen[k]):
                    gl.glCallList(self.lists[2 + thing])
            tiles = np.empty((8, 60, 8, 80, 3), np.uint8)
            gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
            kind = gl.GL_RGB, gl.GL_UNSIGNED_BYTE
            gl.glReadPixels(0, 0, 640, 480, *kind, tiles.ctypes.data)
            tiles = tiles.swapaxes(1, 2).reshape(64, 60, 80, 3)
            return tiles[: len(pose), ::-1]

        def may_see(self, pose):
            """(n, 6): whether an object reaches between the sides of a view."""
            place = np.array([thing.pos for thing in self.entities[:6]])
            radius = np.array([thing.radius for thing in self.entities[:6]])
            x, z = (place[:, [0, 2]] - pose[:, None, :2]).transpose(2, 0, 1)
            cos, sin = np.cos(pose[:, 2:]), np.sin(pose[:, 2:])
            ahead, aside = x * cos - z * sin, abs(x * sin + z * cos)
            slope = np.tan(np.pi / 6) * 80 / 60
            return aside - slope * ahead < radius * np.hypot(1, slope)

    # Where the extension is missing, MiniWorld itself does not multisample.
    extension = mock.patch.object(opengl.gl_info, "have_extension", return_value=False)
    with extension, contextlib.redirect_stdout(None):
        parameters = params.DEFAULT_PARAMS.no_random()
        world = World(params=parameters, window_width=320, window_height=240)
        world.compile()
    return world


class SignNav(Task):
    """3D navigation: the sign behind the barrier names the color to fetch."""

    actions = ("turn left", "turn right", "forward")
    contact_ends_exploration = True
    # (x, z, heading) of ball, block and key; a key's flat side faces the start
    objects = {
        "blue": ((1, 1, 0), (9, 5, 0), (5, 1, 0)),
        "red": ((9, 1, 0), (1, 5, 0), (1, 9, 0)),
    }

    def __init__(self, **kwargs):
        self.world = sign_world()
        things = self.world.entities[:6]
        self.places = np.array([thing.pos[[0, 2]] for thing in things])
        self.reach = np.array([thing.radius for thing in things]) + 0.4 + 1.1 * 0.7
        frame = Box(0, 255, (60, 80, 3), np.uint8)
        super().__init__(frame, 2, [[0], [1], [2]], **kwargs)

    def begin(self):
        low, high = (4, 4, -np.pi), (5, 5, np.pi)
        self.episode = {
            "pose": self.np_random.uniform(low, high, (self.num_envs, 3)),
            "frame": np.zeros((self.num_envs, 60, 80, 3), np.uint8),
            "in_view": np.zeros(self.num_envs, bool),
        }
        self._look(np.ones(self.num_envs, bool))
        return self.episode

    def _look(self, active):
        """Draw what the copies see, and find whether it tells the problem."""
        pose, frame, in_view = self.episode.values()
        distance = np.hypot(pose[:, 0] - 10, pose[:, 1] - 10.25)
        near = active & ~in_view & (distance <= 5.5)
        for mask, other in ((active, 0), (near, 1)):
            for first in range(0, mask.sum(), 64):
                k = np.flatnonzero(mask)[first : first + 64]
                drawn = self.world.draw(self.problem[k] ^ other, pose[k])
                if other:
                    in_view[k] = (drawn != frame[k]).any((1, 2, 3))
                else:
                    frame[k] = drawn

    def advance(self, actions, active):
        pose, world = self.episode["pose"], self.world
        pose[:, 2] += np.array([1, -1, 0])[actions] * active * np.pi / 4
        ahead = np.stack([np.cos(pose[:, 2]), -np.sin(pose[:, 2])], 1)
        for k in np.flatnonzero(active & (actions == 2)):
            x, z = pose[k, :2] + 0.7 * ahead[k]
            if not world.intersect(world.agent, (x, 0, z), world.agent.radius):
                pose[k, :2] = x, z
        self._look(active)
        offset = pose[:, None, :2] - self.places
        contact = np.hypot(offset[..., 0], offset[..., 1]) < self.reach
        touched = contact.any(1)
        right = contact.argmax(1) == 3 * self.problem + self.instruction
        return touched * np.where(right, 1.0, -1.0), touched

    def observe(self):
        return self.episode["frame"].copy()

    def measures(self):
        return {"sign_in_view": self.episode["in_view"].copy()}

    def optimal_return(self, problem, instruction):
        """1: from every start, each object can be reached in 20 steps."""
        return np.ones(len(problem))

    def picture(self, k):
        """What the agent sees, and the world from above."""
        world, (x, z, heading) = self.world, self.episode["pose"][k]
        world.agent.pos, world.agent.dir = np.array([x, 0, z]), heading
        world.say(("BLUE", "RED")[self.problem[k]])
        first_person = world.render_obs(world.vis_fb)
        return np.hstack([first_person, world.render_top_view(world.vis_fb)])


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
        return self._first(*self.task.reset(options=options))

    def step(self, action):
        if self.task.episode is not None and self.task.done[0]:
            raise ValueError("the episode has ended: reset comes before step")
        observation, reward, done, _, info = self.task.step(np.array([action]))
        observation, info = self._first(observation, info)
        return observation, float(reward[0]), bool(done[0]), False, info

    def _first(self, *batches):
        return tuple({k: v[0] for k, v in b.items()} for b in batches)

    def render(self):
        return self.task.picture(0)


TASKS = {
    "coupling": Coupling,
    "bus": Bus,
    "map": Map,
    "distracting-bus": DistractingBus,
    "cooking": Cooking,
    "sign-nav": SignNav,
}
for name, task in TASKS.items():
    single = functools.partial(Trial, task)
    gymnasium.register(f"imrl/{name}-v0", single, vector_entry_point=task)
