"""sign-nav, held against its specification and against MiniWorld itself.

Places are (x, z), poses (x, z, heading). What is expected was worked out by
hand, or comes from a search over all walks.
"""

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from numpy.testing import assert_equal

import envs
import sign_nav

try:
    WORLD = sign_nav.make_world()
except gymnasium.error.DependencyNotInstalled:
    pytest.skip(sign_nav.APT, allow_module_level=True)

T = 12
SIGN = 10, 8.8
# Ball, block and key in blue (0) and in red (1)
PLACES = np.array([(1, 1), (9, 5), (5, 1), (9, 1), (1, 5), (1, 9)], float)
LEFT, RIGHT, FORWARD = range(3)
NORTH, SOUTH = np.pi / 2, -np.pi / 2  # towards z = 0 and z = 13
TURN = np.array([0, 0, np.pi / 4])


def options(problem, instruction):
    return {"problem": problem, "instruction": instruction}


def put(poses, problem=0, instruction=0):
    """Copies that stand at these poses; they see what is there after a step."""
    task = envs.make("sign-nav", len(poses))
    task.reset(seed=0, options=options(problem, instruction))
    task.state = np.array(poses, float)
    return task


def act(task, action):
    """Frames, reward, done and info after the same action in all copies."""
    actions = np.full(task.num_envs, action)
    batch, reward, done, truncated, info = task.step(actions)
    assert not truncated.any()
    return batch["observation"], reward, done, info


def draw(problem, poses):
    return WORLD.draw(np.full(len(poses), problem), np.array(poses))


def differ(poses):
    """Whether any pixel differs between the two problems, (n,)."""
    return (draw(0, poses) != draw(1, poses)).any((1, 2, 3))


def facing(x, z, target=SIGN):
    return x, z, np.arctan2(z - target[1], target[0] - x)


def some_poses(n):
    """All over the world, also close to walls and objects."""
    random = np.random.default_rng(0)
    return random.uniform((0.4, 0.4, -np.pi), (9.6, 12.6, np.pi), (n, 3))


# ------------------------------------------- what must hold of the layout


def test_from_every_start_the_two_problems_look_the_same():
    headings = np.radians(np.arange(0, 360, 5))
    coarse, fine = np.linspace(4, 5, 7), np.linspace(4, 5, 21)
    poses = [*itertools.product(coarse, coarse, headings)]
    poses += [facing(x, z) for x, z in itertools.product(fine, fine)]
    assert not differ(poses).any()


class Walks:
    """All walks of at most T steps from some starts (n, 3).

    poses (N, 3), the starts first; steps (N,): the fewest from a start; after
    (M, 3): the pose's number after each action, or -1 - k in contact with
    object k. From the last N - M poses no step is left.
    """

    def __init__(self, starts):
        task = envs.make("sign-nav")
        self.poses, self.after, numbers = [*starts], [], {}
        self.steps = [0] * len(starts)
        for start in starts:
            numbers[self.key(start)] = len(numbers)
        first = 0
        for t in range(1, T + 1):
            state = np.array(self.poses[first:])
            first = len(self.poses)
            n = len(state)
            goal, action = np.zeros(3 * n, int), np.tile(np.arange(3), n)
            state, _, done = task.dynamics(
                goal, goal, state.repeat(3, 0), action
            )
            offset = state[:, None, :2] - PLACES
            nearest = np.hypot(*offset.T).argmin(0)
            for pose, ends, thing in zip(state, done, nearest):
                key = self.key(pose)
                if not ends and key not in numbers:
                    numbers[key] = len(numbers)
                    self.poses.append(pose)
                    self.steps.append(t)
                self.after.append(-1 - thing if ends else numbers[key])
        self.poses, self.steps = np.array(self.poses), np.array(self.steps)
        self.after = np.array(self.after).reshape(-1, 3)

    def key(self, pose):
        x, z, heading = pose
        return round(x, 4), round(z, 4), round(heading / TURN[2], 3) % 8

    def left(self, target=None, thing=None):
        """(N,) the fewest steps to target poses (N,), or to touch a thing."""
        left = np.full(len(self.poses), np.inf)
        if target is not None:
            left[target] = 0
        for _ in range(T):
            touch = np.where(self.after == -1 - (thing or 0), 0, np.inf)
            touch = np.inf if thing is None else touch
            then = np.where(self.after >= 0, left[self.after], touch).min(1)
            left[: len(then)] = np.minimum(left[: len(then)], 1 + then)
        return left

    def reads(self, where):
        """(N,) whether the sign is in view, drawn only `where` (N,)."""
        task = envs.make("sign-nav")
        where = np.flatnonzero(where & task.may_see_sign(self.poses))
        reads = np.zeros(len(self.poses), bool)
        reads[where] = differ(self.poses[where])
        return reads


def test_every_object_and_the_sign_can_be_reached_in_time():
    """From 64 starts; the sign within 5.5 m, where it can be read."""
    spots = itertools.product((4, 5), (4, 5), (0, np.pi / 8))
    for x, z, heading in spots:
        starts = np.array([(x, z, heading) + k * TURN for k in range(8)])
        walks = Walks(starts)
        for k in range(6):
            assert walks.left(thing=k)[:8].max() <= T
        close = np.hypot(*(walks.poses[:, :2] - SIGN).T) <= 5.5
        left = walks.left(walks.reads(close))[:8]
        assert left.min() >= 4 and left.max() <= T


def test_who_does_not_explore_earns_at_most_0_40():
    """Who sees the sign earns 1 if both objects can then be reached in time,
    1/2 if one can; who does not has an even chance of 1 or -1."""
    task, returns = envs.make("sign-nav", 32), []
    task.reset(seed=0)
    for start in task.state:
        walks = Walks(start[None])
        total = walks.steps + [walks.left(thing=k) for k in range(6)]
        in_time = (total <= T).reshape(2, 3, -1).sum(0)  # (objects, N)
        reads = walks.reads(in_time.any(0))
        returns.append((in_time * reads).max(1) / 2)
    assert 0.3 < np.mean(returns) <= 0.4


def test_the_sign_can_be_read_from_5_m():
    """It is 4 m wide and 1 m high, around 1.35 m, and seen from 1.5 m."""
    blue, red = WORLD.entities[6:8]
    assert (blue.width, blue.height) == (red.width, red.height) == (4, 1)
    frames = [draw(problem, [(5, 8.8, 0)])[0] for problem in (0, 1)]
    metre = 30 / np.tan(np.pi / 6) / 4.95  # the sign is 0.05 m thick
    rows = 30 + np.array([-0.35, 0.65]) * metre
    columns = 40 + np.array([-2, 2]) * metre
    for frame in frames:
        bright = frame[15:45].min(2) > 150
        height, width = bright.any(1).nonzero()[0], bright.any(0).nonzero()[0]
        extent = [height[0] + 15, height[-1] + 16, width[0], width[-1] + 1]
        assert np.allclose(extent, [*rows, *columns], rtol=0, atol=1.1)
        # Each of the letters is dark on bright; a space is but bright.
        panel = frame[27:36, 20:60].min(2)
        darkest = [square.min() for square in np.split(panel, 4, 1)]
        letters = [0, 1, 2, 3] if frame is frames[0] else [1, 2, 3]
        assert [k for k in range(4) if darkest[k] < 110] == letters
        assert panel.max() > 150
    spots = (5, 8.8), (7, 12.8), (6, 11.8), (5.2, 10.2)  # all 5 m away
    for spot in spots:
        assert np.isclose(np.hypot(*np.subtract(spot, SIGN)), 5, atol=0.01)
        blue, red = draw(0, [facing(*spot)]), draw(1, [facing(*spot)])
        assert (abs(blue.astype(int) - red) > 30).any(3).sum() > 25


# ----------------------------------------------------------- the dynamics


def test_starts():
    one, other = envs.make("sign-nav", 200), envs.make("sign-nav", 200)
    frames = one.reset(seed=1)[0]["observation"]
    assert frames.shape == (200, 60, 80, 3) and frames.dtype == np.uint8
    assert_equal(other.reset(seed=1)[0]["observation"], frames)
    pose = one.state
    assert_equal(other.state, pose)
    low, high = pose[:, :2].min(0), pose[:, :2].max(0)
    assert (low >= 4).all() and (low < 4.05).all()
    assert (high <= 5).all() and (high > 4.95).all()
    assert set(np.floor(pose[:, 2] / (np.pi / 4)) % 8) == set(range(8))
    assert (other.reset(seed=2)[0]["observation"] != frames).any()


def test_the_12th_step_terminates():
    task = put([(4.5, 4.5, 0)])
    walk = [act(task, LEFT) for _ in range(T)]
    assert [done[0] for _, _, done, _ in walk] == (T - 1) * [False] + [True]
    assert not any(reward[0] for _, reward, _, _ in walk)


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
        _, reward, done, _ = act(put(poses, problem, instruction), action)
        touches = distance != 1.95
        assert_equal(reward, touches * expected)
        assert_equal(done, np.full(6, touches))


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
    task = put([pose], problem, instruction)
    walk = [act(task, action) for action in [LEFT] + steps * [FORWARD]]
    assert [step[1] for step in walk] == steps * [0] + [reward]
    assert [step[2] for step in walk] == steps * [False] + [True]
    way = steps * 0.7 / np.sqrt(2)
    there = 4.5 - way, 4.5 + towards * way
    assert np.allclose(task.state[0, :2], there)
    for action in (RIGHT, FORWARD):
        frames, pays, _, _ = act(task, action)
        assert_equal(frames, walk[-1][0])
        assert pays == [0]
    assert np.allclose(task.state[0, :2], there)


def test_standard_meta_rl_hides_the_object_in_the_problem():
    """Problem 4 is the red block; its reward is observed, exploring too."""
    task = envs.make("sign-nav", 6, setting="standard")
    task.explore(problem=np.full(6, 4))
    task.state = np.array([facing(x + 1, z, (x, z)) for x, z in PLACES])
    batch, reward, done, _, info = task.step(np.full(6, LEFT))
    assert batch["reward"].tolist() == [-1, -1, -1, -1, 1, -1] and done.all()
    assert not reward.any()  # exploring, it does not count
    assert_equal(info["return"], batch["reward"])


def test_walls_stop_and_the_way_round_does_not():
    """A step of 0.7 m needs 1.1 m, for the agent's radius is 0.4 m."""
    walls = [(0, 3, np.pi), (10, 3, 0), (3, 0, NORTH), (5, 13, SOUTH)]
    walls += [(7, 6.5, SOUTH), (9.5, 6.75, NORTH), (5, 6.625, 0)]  # barrier
    walls = np.array(walls)
    heading = walls[:, 2]
    into = np.stack([np.cos(heading), -np.sin(heading), 0 * heading], 1)
    poses = [*walls - 1.08 * into, *walls - 1.12 * into]
    poses = np.array([*poses, (3.5, 6, SOUTH), (4.5, 10, 0)])
    task = put(poses)
    _, reward, done, _ = act(task, FORWARD)
    assert not reward.any() and not done.any()
    poses[7:14] += 0.7 * into
    poses[14:, :2] = (3.5, 6.7), (5.2, 10)
    assert np.allclose(task.state, poses)


def test_walls_are_where_miniworld_has_them():
    random = np.random.default_rng(0)
    at = random.uniform((-0.5, -0.5), (10.5, 13.5), (10_000, 2))
    at[:3000] = random.uniform((4, 6), (6, 7.3), (3000, 2))  # barrier's end
    task = envs.make("sign-nav")
    agent, n = WORLD.agent, len(at)
    meets = [WORLD.intersect(agent, (x, 0, z), agent.radius) for x, z in at]
    assert_equal(task.blocked(at), [thing is True for thing in meets])
    # An object stops nobody: contact comes before.
    _, _, done = task.dynamics(
        np.zeros(n, int),
        np.zeros(n, int),
        np.column_stack([at, np.zeros(n)]),
        np.full(n, LEFT),
    )
    objects = np.array([thing in WORLD.entities[:6] for thing in meets])
    stays = ~task.blocked(at)
    assert objects.any() and done[objects & stays].all()


def test_eight_turns_make_a_circle():
    task = put(some_poses(8) * [0, 0, 1] + [4.5, 4.5, 0])
    start = task.state.copy()
    for _ in range(8):
        frames, *_ = act(task, LEFT)
    assert_equal(frames, draw(0, start))
    act(task, RIGHT)
    assert np.allclose(task.state, start + 7 * TURN)


# ------------------------------------------------------------- the sight


def test_when_the_sign_is_in_view_and_how_far_it_is():
    inf = np.inf
    distances = {
        (5, 8.8, 0): 5,
        (1, 8.8, 0): 9,
        facing(7, 12.8): 5,  # 3 m and 4 m away
        facing(4, 0.8): inf,  # 10 m away, behind the barrier
        facing(4.5, 4.5): inf,
        (6, 8.8, np.pi): inf,  # the sign is at its back
        (6, 8.8, NORTH): inf,  # aside of the field of view
    }
    poses = np.array([*distances]).repeat(2, 0)  # in both problems
    expected = np.repeat([*distances.values()], 2)
    task = put(poses - TURN, np.arange(14) % 2, "none")
    frames, _, _, info = act(task, LEFT)
    assert_equal(frames[0::2], draw(0, poses[0::2]))
    assert_equal(frames[1::2], draw(1, poses[1::2]))
    assert_equal(info["sign_in_view"], expected < inf)
    assert np.allclose(info["sign_distance"], expected)
    first = info

    # Only the first sight counts. From (6, 8.8), who looked west turns by the
    # south to the east, who looked north by the west to the south.
    for _ in range(4):
        *_, info = act(task, LEFT)
    expected[[10, 11]] = 4
    assert np.allclose(info["sign_distance"], expected)
    assert_equal(info["sign_in_view"], expected < inf)
    assert first["sign_in_view"].sum() == 6  # what was returned stays
    *_, info = task.explore()
    assert not info["sign_in_view"].any()
    assert np.isinf(info["sign_distance"]).all()


def test_where_no_sight_is_thought_possible_there_is_none():
    task, random = envs.make("sign-nav"), np.random.default_rng(0)
    spots = random.uniform((0.4, 0.4), (9.6, 12.6), (2000, 2))
    edge = random.uniform((0.4, 3), (5.5, 7), (2000, 2))  # sight may begin
    ends = random.choice([6.8, 10.8], 2000)  # of the sign
    poses = [facing(*spot, (10, z)) for spot, z in zip(edge, ends)]
    poses = np.array([*some_poses(2000), *map(facing, *spots.T), *poses])
    poses = poses[~task.blocked(poses[:, :2])]
    may, seen = task.may_see_sign(poses), differ(poses)
    assert not (seen & ~may).any()
    assert 500 < seen.sum() and (~may).sum() > 1000


def test_environments_in_one_process_do_not_draw_over_each_other():
    pose = facing(7, 10) - TURN
    blue, red = put([pose], 0), put([pose], 1)
    blue_frame, red_frame = act(blue, LEFT)[0], act(red, LEFT)[0]
    assert (blue_frame != red_frame).any()
    for seed in range(3):
        red.reset(seed=seed, options=options(1, 0))
        red.render()
        act(blue, RIGHT)
        assert_equal(act(blue, LEFT)[0], blue_frame)
    from miniworld.envs.hallway import Hallway

    Hallway(window_width=80, window_height=60).reset()
    red.state = np.array([pose])
    assert_equal(act(red, LEFT)[0], red_frame)


@pytest.mark.parametrize("problem", [0, 1])
def test_frames_are_what_the_library_draws(problem):
    """Whatever else is drawn in the same call."""
    from miniworld.miniworld import MiniWorldEnv

    poses = [facing(x, 11) for x in np.linspace(5, 9, 10)]
    poses += [facing(x, 4, place) for x in (2.5, 7) for place in PLACES]
    poses = np.array([*poses, *some_poses(100)])
    frames = draw(problem, poses)
    assert_equal(draw(problem, poses[::-1]), frames[::-1])
    stock = copy.copy(WORLD)
    stock.__class__ = MiniWorldEnv
    stock.entities = [*WORLD.entities[:6], WORLD.entities[6 + problem]]
    stock._render_static()
    for (x, z, heading), frame in zip(poses, frames):
        stock.agent.pos, stock.agent.dir = np.array([x, 0, z]), heading
        assert_equal(stock.render_obs(), frame)


def test_keys_show_their_flat_side_to_the_start():
    """It is wider than high; seen from its edge, a thin bar."""
    for place, channel in ((PLACES[2], 2), (PLACES[5], 0)):
        spots = itertools.product((4, 4.5, 5), repeat=2)
        for frame in draw(0, [facing(*spot, place) for spot in spots]):
            frame = frame.astype(int)
            others = np.delete(frame, channel, 2).max(2)
            key = (frame[..., channel] - others)[:, 20:60] > 40
            assert key.any(0).sum() > 1.5 * key.any(1).sum()


def test_a_picture_shows_the_frame_as_it_is():
    task = put([(4.5, 4.5, 0), facing(5, 8.8)], 1)
    frames, *_ = act(task, RIGHT)
    pictures = task.render()
    for frame, picture in zip(frames, pictures):
        large = np.kron(frame, np.ones((4, 4, 1), np.uint8))
        assert_equal(picture[:, :320], large)
    above = [picture[:, 320:].astype(int) for picture in pictures]
    assert above[0].shape == (240, 192, 3)
    # 16 pixels a metre, and a margin of 1 m; two agents and no more move.
    rows, columns = (above[0] != above[1]).any(2).nonzero()
    assert abs(rows.min() / 16 - 1 - 4.5) < 0.5
    assert abs(rows.max() / 16 - 1 - 8.8) < 0.5
    assert set(np.round(columns / 16 - 1)) <= {4, 5}


def test_without_opengl_it_says_what_is_missing():
    code = """
import sys, gymnasium, envs, sign_nav
assert not {"pyglet", "miniworld"} & set(sys.modules)
sys.modules["miniworld"] = None
try:
    envs.make("sign-nav")
except gymnasium.error.DependencyNotInstalled as error:
    sys.exit("apt-get install" not in str(error))
sys.exit("no error")
"""
    folder = Path(envs.__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
