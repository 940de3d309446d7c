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

import copy
import functools
import os
import sys
from contextlib import redirect_stdout
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
# four that the colour-blind can tell apart (Okabe and Ito); then more
COLORS = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167)]
COLORS += [(160, 160, 160), (240, 228, 66), (0, 0, 0), (255, 255, 255)]
GREY, YELLOW, BLACK, WHITE = 4, 5, 6, -1


def draw_grid(cells, agent):
    """Colors of cells (W, H) -> RGB picture; the agent is a black square."""
    thirds = cells.repeat(3, 0).repeat(3, 1)
    thirds[1::3, 1::3][tuple(agent)] = BLACK
    picture = np.array(COLORS, np.uint8)[thirds].repeat(8, 0).repeat(8, 1)
    return picture.transpose(1, 0, 2)[::-1]


class Task(gymnasium.vector.VectorEnv):
    """N copies of one task, stepped together; `reset` begins N episodes.

    Actions are one for all or (N,), as are the options of `reset`: `problem`,
    and `instruction` ("none" or -1 to explore). What is missing is drawn from
    the split: a problem, then an instruction that it offers. No autoreset:
    `step` ignores copies that have ended. `info` has `problem`, `instruction`,
    and what the episode has found so far. A wrong argument raises ValueError.

    A task defines `start`, how an episode begins; `advance`, which keeps its
    state `episode`, {name: (N, ...)}; and `sense` and `picture`, which read it.
    `active` are the copies that take part in the current step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    metadata["autoreset_mode"] = gymnasium.vector.AutoresetMode.DISABLED
    max_steps = 20
    test_problems, test_instructions = [], []  # none: train and test on all
    exhaustive = True  # deterministic: one trial of a pair tells all
    names = ()  # of the instructions
    done = None

    def __init__(self, sensed, instructions, offers=True, num_envs=1,
                 split="train", render_mode=None):
        if split not in ("train", "test"):
            raise ValueError(f"split: 'train' or 'test', not {split!r}")
        self.num_envs, self.split = num_envs, split
        self.render_mode = render_mode

        # "none" is the last row and column, where the index -1 finds it.
        none = np.max(instructions, 0) + 1
        self.tokens = np.array([*instructions, none])
        self.names = self.names or [str(i) for i in self.tokens]
        test = np.ones((self.num_problems, len(self.tokens)), bool)
        test[:, :-1] = offers
        train = test.copy()
        train[:, self.test_instructions] = False
        self.offers = {"train": train, "test": test}  # (problem, instruction)
        problems = np.arange(self.num_problems)
        train = np.setdiff1d(problems, self.test_problems)
        test = np.array(self.test_problems or problems)
        self.problems = {"train": train, "test": test}

        space = Dict(observation=sensed, instruction=MultiDiscrete(none + 1))
        self.single_observation_space = space
        self.observation_space = batch_space(space, num_envs)
        self.single_action_space = Discrete(len(self.actions))
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        options, offers = options or {}, self.offers["test"]
        if not options.keys() <= {"problem", "instruction"}:
            raise ValueError(f"options: problem, instruction, not {[*options]}")
        problem, given = options.get("problem"), options.get("instruction")
        instruction = np.array("none" if given is None else given, object)
        instruction[instruction == "none"] = -1
        size = len(self.tokens) - 1
        instruction = self._whole("instruction", instruction.tolist(), -1, size)
        if problem is None:
            split = np.isin(np.arange(len(offers)), self.problems[self.split])
            problem = self._choose(split & offers[:, instruction].T)
        problem = self._whole("problem", problem, 0, len(offers))
        if given is None:
            instruction = self._choose(self.offers[self.split][problem, :-1])
        for p in problem[~offers[problem, instruction]]:
            allowed = np.flatnonzero(offers[p, :-1])
            raise ValueError(f"instruction: in problem {p}, one of {allowed}")
        self.problem, self.instruction = problem, instruction
        self.t = np.zeros(self.num_envs, int)
        self.done = np.zeros(self.num_envs, bool)
        self.active = ~self.done
        self.begin()
        return self._sensed()

    def begin(self):
        n, start = self.num_envs, self.start
        self.episode = {k: np.repeat([v], n, 0) for k, v in start.items()}

    def _whole(self, name, value, low, size):
        """Whole numbers (N,) from low to size - 1: one for all or for each."""
        n = self.num_envs
        try:
            whole = np.asarray(value)
        except ValueError:  # rows of different lengths
            whole = np.empty(0)
        fits = whole.dtype.kind in "iu" and whole.shape in ((), (n,))
        if not fits or whole.min() < low or whole.max() >= size:
            raise ValueError(f"{name}: {n} of {low} to {size - 1}, not {value}")
        return np.broadcast_to(whole, n)

    def _choose(self, allowed):
        """(N, K) booleans -> one true column of each row, uniformly."""
        return (allowed * self.np_random.random(allowed.shape)).argmax(1)

    def _sensed(self):
        observation, found = self.sense()
        instruction = self.tokens[self.instruction]
        batch = {"observation": observation, "instruction": instruction}
        info = {"problem": self.problem, "instruction": self.instruction}
        return batch, info | found

    def step(self, actions):
        if self.done is None:
            raise ValueError("actions: a step comes after reset")
        n = len(self.actions)
        actions = self._whole("actions", actions, 0, n)
        self.active = ~self.done
        reward, over = self.advance(actions)
        if self.actions[-1] == "end":
            ends = actions == n - 1
            rest = -0.1 * (self.max_steps - self.t)
            reward, over = np.where(ends, rest, reward), over | ends
        self.t = self.t + self.active
        self.done = self.done | over | (self.t >= self.max_steps)
        paid = self.active & (self.instruction >= 0)
        batch, info = self._sensed()
        truncated = np.zeros(self.num_envs, bool)
        return batch, np.where(paid, reward, 0.0), self.done, truncated, info

    def render(self):
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

        Of equal states the best is kept, and only while it can still beat what
        its pair has reached: from no state on is the return more than 1.
        """
        envs, n = copy.copy(self), len(self.actions)
        envs.num_envs = len(problem)
        envs.reset(options={"problem": problem, "instruction": instruction})
        pair = keep = np.arange(len(problem))
        total, best = np.zeros(len(pair)), np.full(len(pair), -np.inf)
        while len(keep):
            action, keep = np.tile(np.arange(n), len(keep)), keep.repeat(n)
            for name in ("problem", "instruction", "t", "done"):
                setattr(envs, name, getattr(envs, name)[keep])
            envs.episode = {k: v[keep] for k, v in envs.episode.items()}
            envs.num_envs = len(keep)
            _, reward, done, _, _ = envs.step(action)
            pair, total = pair[keep], total[keep] + reward
            np.maximum.at(best, pair[done], total[done])
            hopeful = ~done & (total + 1 > best[pair] + 1e-9)
            order = np.argsort(-total)
            order = order[hopeful[order]]
            state = np.column_stack([pair, *envs.episode.values()])[order]
            keep = order[np.unique(state, axis=0, return_index=True)[1]]
        return best


class Coupling(Task):
    """The chicken-and-egg problem in one step: which action pays 1?

    Exploring, the last action shows the problem, the others nothing.
    """

    max_steps = 1

    def __init__(self, num_actions=8, **kwargs):
        self.actions, self.num_problems = range(num_actions), num_actions
        self.start = {"shown": num_actions}
        super().__init__(MultiDiscrete([num_actions + 1]), [[0]], **kwargs)

    def advance(self, actions):
        asks = self.active & (self.instruction < 0)
        asks &= actions == self.actions[-1]
        self.episode["shown"][asks] = self.problem[asks]
        return 1.0 * (actions == self.problem), True

    def sense(self):
        shown = self.episode["shown"].copy()
        return shown[:, None], {"problem_shown": shown < len(self.actions)}

    def picture(self, k):
        """The agent stands at what is shown, in the last cell at nothing."""
        cells = np.full((len(self.actions) + 1, 1), WHITE)
        cells[self.problem[k]] = YELLOW
        return draw_grid(cells, (self.episode["shown"][k], 0))


class Bus(Task):
    """9 x 9 cells; the problem is which stops are joined by a bus.

    With `show_id`, every observation shows the problem: no need to explore.
    """

    actions = ("left", "up", "right", "down", "ride", "end")
    goals = np.array([(0, 0), (8, 8), (0, 8), (8, 0), (-1, -1)])
    # Of 4 useful and 4 useless buses; the problem permutes their outer stops.
    inner = (4, 5), (5, 4), (3, 4), (4, 3), (5, 5), (3, 3), (3, 5), (5, 3)
    outer = (0, 1), (0, 7), (8, 1), (8, 7), (0, 4), (4, 0), (8, 4), (4, 8)
    num_problems, num_buses, has_map = 24, 4, False
    names = [f"({x}, {y})" for x, y in goals[:4]]

    def __init__(self, show_id=False, **kwargs):
        self.show_id = show_id
        orders = np.array([*permutations(range(4))])
        self.bus = np.full((self.num_problems, 9, 9), -1)  # that stops there
        self.ride = np.zeros((self.num_problems, 9, 9, 2), int)  # to where
        for problem, bus in np.ndindex(self.num_problems, self.num_buses):
            useful, useless = divmod(problem, self.num_problems // 24)
            order = [*orders[useful], *orders[useless] + 4]
            a, b = self.inner[bus], self.outer[order[bus]]
            self.bus[problem][a] = self.bus[problem][b] = bus
            self.ride[problem][a], self.ride[problem][b] = b, a
        found = np.zeros(self.num_buses + 1, bool)  # each bus, and the map
        self.start = {"at": (4, 4), "found": found}
        shown = (self.has_map or show_id) * [self.num_problems + 1]
        observation = MultiDiscrete([9, 9, 2] + shown)
        super().__init__(observation, [[0], [1], [2], [3]], **kwargs)

    def advance(self, actions):
        at, found = self.episode.values()
        at = np.clip(at + MOVES[actions] * self.active[:, None], 0, 8)
        x, y = at.T
        bus = self.bus[self.problem, x, y]
        rides = self.active & (actions == 4) & (bus >= 0)
        found[rides, bus[rides]] = True
        found[:, -1] |= (x == 7) & (y == 3)
        at[rides] = self.ride[self.problem, x, y][rides]
        self.episode["at"] = at
        goal = (at == self.goals[self.instruction]).all(1)
        return np.where(goal, 1.0, -0.1), goal

    def sense(self):
        at, found = self.episode.values()
        x, y = at.T
        cell = [x, y, self.bus[self.problem, x, y] >= 0]
        if self.has_map or self.show_id:
            shown = self.show_id | (x == 7) & (y == 3)
            cell.append(np.where(shown, self.problem, self.num_problems))
        if self.has_map:
            return np.stack(cell, 1), {"map_visited": found[:, -1].copy()}
        info = {"useful_buses": found[:, :4].sum(1)}
        info["useless_buses"] = found[:, 4:-1].sum(1)
        return np.stack(cell, 1), info

    def picture(self, k):
        cells = np.minimum(self.bus[self.problem[k]], GREY)
        if self.instruction[k] >= 0:
            cells[tuple(self.goals[self.instruction[k]])] = YELLOW
        return draw_grid(cells, self.episode["at"][k])


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
    start = {"at": (1, 1), "held": 4, "pot": (4, 4, 4)}  # 4 is nothing
    start |= {"stage": 0, "opened": (False, False, False)}

    def __init__(self, **kwargs):
        self.fridges = np.array([*product(range(4), repeat=3)])
        observation = MultiDiscrete([3, 3, 3, 5, 5, 5, 5])
        pairs = np.array([*product(range(4), repeat=2)])
        has = (self.fridges[:, None] == np.arange(4)[:, None]).any(2)
        super().__init__(observation, pairs, has[:, pairs].all(2), **kwargs)

    def advance(self, actions):
        at, held, pot, stage, opened = self.episode.values()
        at = np.clip(at + MOVES[actions] * self.active[:, None], 0, 2)
        x, y = at.T
        copies = np.arange(self.num_envs)
        pick = self.active & (actions == 4) & (x == 2)
        drop = self.active & (actions == 5)
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
        stage = stage + (1 * reached - lost) * self.active
        self.episode |= dict(at=at, held=held, stage=stage)
        return reward, (stage == 4) & (self.instruction >= 0)

    def sense(self):
        at, held, pot, _, opened = self.episode.values()
        x, y = at.T
        stands = np.where(x == 2, 0, np.where((x == 1) & (y == 1), 1, 2))
        cell = np.column_stack([at, stands, held, pot])
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
        at, held, pot, _, _ = (v[k] for v in self.episode.values())
        cells = np.full((3, 6), WHITE)
        cells[2, :3], cells[1, 1] = self.fridges[self.problem[k]], GREY
        cells[0, 3], cells[:, 4] = held, pot
        cells[:2, 5] = self.tokens[self.instruction[k]]
        return draw_grid(cells, at)


@functools.cache
def sign_world():
    """The MiniWorld of this process, which draws both problems.

    Raises DependencyNotInstalled where OpenGL is missing.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")  # fastest without a GPU
    try:
        import pyglet

        pyglet.options["headless"] = sys.platform == "linux"
        pyglet.options["debug_gl"] = False
        from miniworld import entity, miniworld, opengl
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
            self.place_agent(pos=np.array([4.5, 0, 4.5]), dir=0)
            for word in ("BLUE", "RED"):
                sign = entity.TextFrame((10, 1.35, 10.25), np.pi, word, 1)
                self.entities.append(sign)
            self.signs = self.entities[7:]

        def show(self, problem):
            """Put up its sign, and draw all that stands still."""
            self.entities[7:] = [self.signs[problem]]
            self._render_static()

        def draw(self, problem, pose):
            """What is seen from n poses (x, z, heading): (n, 60, 80, 3).

            In the perspective that `render_obs` has set.
            """
            self.shadow_window.switch_to()
            self.obs_fb.bind()
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

    # Of MiniWorld's handwritten letters, those that can be read
    for letter in ("B_3", "L_2", "U_1", "E_3", "R_2", "D_7"):
        name = f"chars/ch_0x{ord(letter[0])}"
        path = opengl.get_file_path("textures", name + letter[1:], "png")
        opengl.Texture.tex_paths[name] = [path]
    # Lacking `gl_info`, MiniWorld does without multisampling, and says so.
    with mock.patch.object(opengl, "gl_info", None), redirect_stdout(None):
        world = World(window_width=320, window_height=240)
    world.lists = gl.glGenLists(1), gl.glGenLists(1)
    for problem, number in enumerate(world.lists):
        # Into a list of its own, not into 1, which all MiniWorlds share
        gl.glNewList(number, gl.GL_COMPILE)
        with mock.patch.object(miniworld, "glNewList"):
            world.show(problem)
    return world


class SignNav(Task):
    """3D navigation: the sign behind the barrier names the color to fetch."""

    actions = ("turn left", "turn right", "forward")
    exhaustive, num_problems, names = False, 2, ("ball", "block", "key")
    # (x, z, heading) of ball, block and key; a key's flat side faces the start
    objects = {
        "blue": ((1, 1, 0), (9, 5, 0), (5, 1, -1.6)),
        "red": ((9, 1, 0), (1, 5, 0), (1, 9, 0.9)),
    }

    def __init__(self, **kwargs):
        self.world = sign_world()
        things = self.world.entities[:6]
        self.places = np.array([thing.pos[[0, 2]] for thing in things])
        # MiniWorld's `near`: both radii, and 1.1 steps of 0.7 m
        self.reach = np.array([t.radius + 0.4 + 1.1 * 0.7 for t in things])
        frame = Box(0, 255, (60, 80, 3), np.uint8)
        self.start = {"frame": np.zeros((60, 80, 3), np.uint8)}
        self.start |= {"pose": np.zeros(3), "in_view": False}
        super().__init__(frame, [[0], [1], [2]], **kwargs)

    def begin(self):
        super().begin()
        low, high, n = (4, 4, -np.pi), (5, 5, np.pi), self.num_envs
        self.episode["pose"] = self.np_random.uniform(low, high, (n, 3))

    def advance(self, actions):
        pose, world = self.episode["pose"], self.world
        turns = np.array([1, -1, 0])[actions] * self.active
        pose[:, 2] += turns * np.pi / 4
        ahead = np.stack([np.cos(pose[:, 2]), -np.sin(pose[:, 2])], 1)
        for k in np.flatnonzero(self.active & (actions == 2)):
            x, z = pose[k, :2] + 0.7 * ahead[k]
            if not world.intersect(world.agent, (x, 0, z), world.agent.radius):
                pose[k, :2] = x, z
        offset = pose[:, None, :2] - self.places  # (N, 6, 2)
        near = np.hypot(offset[..., 0], offset[..., 1]) < self.reach
        right = near.argmax(1) == 3 * self.problem + self.instruction
        return np.where(right, 1.0, -1.0) * near.any(1), near.any(1)

    def near_sign(self, pose):
        """Whether within 5.5 m, (N,), at poses (N, 3)."""
        return np.hypot(pose[:, 0] - 10, pose[:, 1] - 10.25) <= 5.5

    def sense(self):
        """In view: near the sign the frame is not that of the other sign."""
        frame, pose, in_view = self.episode.values()
        draw, now = self.world.draw, self.active
        frame[now] = draw(self.problem[now], pose[now])
        near = self.near_sign(pose) & now & ~in_view
        other = draw(1 - self.problem[near], pose[near])
        in_view[near] = (other != frame[near]).any((1, 2, 3))
        return frame.copy(), {"sign_in_view": in_view.copy()}

    def optimal_return(self, problem, instruction):
        """1: from every start, each object can be reached in 20 steps."""
        return np.ones(len(problem))

    def picture(self, k):
        """What the agent sees, and the world from above."""
        world, (x, z, heading) = self.world, self.episode["pose"][k]
        world.agent.pos, world.agent.dir = np.array([x, 0, z]), heading
        world.show(self.problem[k])
        above = world.render_top_view(world.vis_fb)
        return np.hstack([world.render_obs(world.vis_fb), above])


class Standard(gymnasium.vector.VectorWrapper):
    """Standard meta-RL: the goal is part of the problem and has to be found.

    Problem p is problem p // I of the task with its instruction p % I, of I;
    the only instruction is empty. Only for tasks where all problems offer all
    instructions.
    """

    def __init__(self, task):
        super().__init__(task)
        n = self.goals = len(task.tokens) - 1
        self.names = ["find the goal"]
        self.num_problems = n * task.num_problems
        self.problems = {
            split: np.add.outer(n * problems, np.arange(n)).ravel()
            for split, problems in task.problems.items()
        }
        space = task.single_observation_space
        space = Dict({**space, "instruction": MultiDiscrete([2])})
        self.single_observation_space = space
        self.observation_space = batch_space(space, task.num_envs)

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset(self, *, seed=None, options=None):
        options = dict(options or {})
        if "problem" in options:
            layout, goal = np.divmod(options["problem"], self.goals)
            options = {"problem": layout, "instruction": goal}
        return self._empty(*self.env.reset(seed=seed, options=options))

    def step(self, actions):
        batch, *more, info = self.env.step(actions)
        batch, info = self._empty(batch, info)
        return batch, *more, info

    def _empty(self, batch, info):
        problem = self.goals * info["problem"] + info["instruction"]
        empty = np.zeros_like(problem)
        batch = batch | {"instruction": empty[:, None]}
        return batch, info | {"problem": problem, "instruction": empty}

    def pairs(self, problems="test", instructions="test"):
        problems = self.problems[problems]
        return np.column_stack([problems, np.zeros_like(problems)])

    def optimal_return(self, problem, instruction):
        return self.env.optimal_return(*np.divmod(problem, self.goals))


def first(part):
    """Of (N, ...) or {name: (N, ...)} that of the first copy."""
    if isinstance(part, dict):
        return {name: value[0] for name, value in part.items()}
    return part[0].item()


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
        return tuple(map(first, self.task.reset(options=options)))

    def step(self, action):
        if self.task.done is not None and self.task.done[0]:
            raise ValueError("actions: a step after the end comes after reset")
        return tuple(map(first, self.task.step([action])))

    def render(self):
        return self.task.picture(0)


TASKS = {"coupling": Coupling, "bus": Bus, "map": Map, "cooking": Cooking}
TASKS |= {"distracting-bus": DistractingBus, "sign-nav": SignNav}
for name, task in TASKS.items():
    single = functools.partial(Trial, task)
    gymnasium.register(f"imrl/{name}-v0", single, vector_entry_point=task)
