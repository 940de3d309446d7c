"""The task `sign-nav`: 3D navigation, where a sign names the color to fetch.

The only file that knows MiniWorld and OpenGL. Places are (x, z) in metres, x to
the east, z to the south; headings in radians, counterclockwise from the east.
"""

import functools
import os
import sys
from contextlib import redirect_stdout

import gymnasium
import numpy as np

import envs

APT = "libgl1 libglu1-mesa libegl1 libfreetype6"
APT = "apt-get install --no-install-recommends " + APT
WIDTH, HEIGHT = 80, 60  # of a frame, in pixels
SIGN = np.array([10, 1.35, 8.8])  # its centre (x, height, z)
BARRIER_X, BARRIER_Z = 5, 6.75  # it goes east from here; its far side
# (x, z, heading) of ball, block and key; a key's flat side faces the start
OBJECTS = {
    "blue": ((1, 1, 0), (9, 5, 0), (5, 1, -1.6)),
    "red": ((9, 1, 0), (1, 5, 0), (1, 9, 0.9)),
}


@functools.cache
def make_world():
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

    class Ball(entity.Box):
        """GLU's sphere: MiniWorld's mesh takes longer than all the rest."""

        def render(self):
            gl.glDisable(gl.GL_TEXTURE_2D)
            gl.glColor3f(*self.color_vec)
            gl.glPushMatrix()
            gl.glTranslatef(*(self.pos + [0, self.height / 2, 0]))
            gl.gluSphere(gl.gluNewQuadric(), self.height / 2, 16, 12)
            gl.glPopMatrix()

    class Screen(opengl.FrameBuffer):
        """Draws at once into what is read: no multisampling, twice as fast."""

        def bind(self):
            gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self.final_fbo)
            gl.glViewport(0, 0, WIDTH, HEIGHT)

        def resolve(self):
            kind, to = gl.GL_UNSIGNED_BYTE, self.img_array.ctypes.data
            gl.glReadPixels(0, 0, WIDTH, HEIGHT, gl.GL_RGB, kind, to)
            return self.img_array[::-1]

    class World(miniworld.MiniWorldEnv):
        def _gen_world(self):
            front = self.add_rect_room(0, 10, 0, 6.5)
            left = self.add_rect_room(0, BARRIER_X, BARRIER_Z, 13)
            right = self.add_rect_room(BARRIER_X, 10, BARRIER_Z, 13)
            self.connect_rooms(front, left, min_x=0, max_x=BARRIER_X)
            self.connect_rooms(left, right, min_z=BARRIER_Z, max_z=13)
            for color, poses in OBJECTS.items():
                key = entity.MeshEnt(f"key_{color}", 0.6)
                things = Ball(color, 0.9), entity.Box(color, 0.8), key
                for thing, (x, z, angle) in zip(things, poses):
                    self.place_entity(thing, pos=np.array([x, 0, z]), dir=angle)
            for word in ("BLUE", " RED"):  # panels of one size, both 4 m wide
                self.entities.append(entity.TextFrame(SIGN, np.pi, word, 1))
            self.place_agent(pos=np.zeros(3), dir=0)

        def _render_static(self):
            """As in MiniWorld, but not into list 1, which all worlds share."""
            first = gl.glGenLists(3) + 1  # thus never 1
            self.lists, self.list = (first, first + 1), first
            light = {  # the position lacks a number, as in MiniWorld
                gl.GL_POSITION: self.light_pos + [1],
                gl.GL_AMBIENT: self.light_ambient,
                gl.GL_DIFFUSE: self.light_color,
            }
            for number, sign in zip(self.lists, self.entities[6:8]):
                gl.glNewList(number, gl.GL_COMPILE)
                for name, value in light.items():
                    gl.glLightfv(gl.GL_LIGHT0, name, (gl.GLfloat * 4)(*value))
                gl.glEnable(gl.GL_LIGHTING)
                gl.glEnable(gl.GL_LIGHT0)
                gl.glEnable(gl.GL_COLOR_MATERIAL)
                gl.glEnable(gl.GL_TEXTURE_2D)
                for room in self.rooms:
                    room._render()
                for thing in self.entities[:6] + [sign]:
                    thing.render()
                gl.glEndList()

        def _render_world(self, frame_buffer, render_agent):
            gl.glCallList(self.list)
            if render_agent:
                self.agent.render()
            return frame_buffer.resolve()

        def draw(self, problems, poses):
            """The frames (n, 60, 80, 3) in problems (n,) from poses (n, 3)."""
            frames = np.empty((len(poses), HEIGHT, WIDTH, 3), np.uint8)
            for frame, problem, (x, z, heading) in zip(frames, problems, poses):
                self.list = self.lists[problem]
                self.agent.pos, self.agent.dir = np.array([x, 0, z]), heading
                frame[:] = self.render_obs()
            return frames

    # Of MiniWorld's handwritten letters, those that can be read
    for letter in ("B_3", "L_2", "U_1", "E_3", "R_2", "D_7"):
        name = f"chars/ch_0x{ord(letter[0])}"
        path = opengl.get_file_path("textures", name + letter[1:], "png")
        opengl.Texture.tex_paths[name] = [path]
    with redirect_stdout(None):  # it prints how many samples it takes
        # The window shows it from above: 10 x 13 m, and 1 m around
        world = World(window_width=16 * 12, window_height=16 * 15)
    world.obs_fb = Screen(WIDTH, HEIGHT)
    return world


class SignNav(envs.Task):
    """Fetch the object that is named, in the color that the sign names.

    The problem is what is on the sign, behind the barrier. Coming near an
    object ends the episode; executing, it pays 1 if it is the right one,
    otherwise -1. State: x, z, heading.
    """

    actions = ("turn left", "turn right", "forward")
    num_problems, max_steps, attributes = 2, 12, np.array([[0], [1]])
    instructions, names = [[0], [1], [2]], ["ball", "block", "key"]
    space = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    exhaustive, finds = False, ["sign_in_view", "sign_distance"]
    turn, stride, radius = np.pi / 4, 0.7, 0.4  # radians, metres

    def __init__(self, **kwargs):
        self.world = make_world()
        walls = self.world.wall_segs[:, :, [0, 2]]
        self.walls = walls.min(1), walls.max(1)
        objects = self.world.entities[:6]
        self.places = np.array([thing.pos[[0, 2]] for thing in objects])
        # The distance from an object at which MiniWorld's `near` begins
        self.reach = np.array([thing.radius for thing in objects])
        self.reach += self.radius + 1.1 * self.stride
        super().__init__(**kwargs)

    def begin(self, explores):
        low, high = (4, 4, -np.pi), (5, 5, np.pi)
        return self.np_random.uniform(low, high, (len(explores), 3))

    def dynamics(self, mu, goal, state, action):
        heading = state[:, 2] + self.turn * np.array([1, -1, 0])[action]
        ahead = np.stack([np.cos(heading), -np.sin(heading)], 1)
        at = state[:, :2] + self.stride * (action == 2)[:, None] * ahead
        at = np.where(self.blocked(at)[:, None], state[:, :2], at)
        distance = np.hypot(*(at[:, None] - self.places).T).T  # (n, 6)
        near = distance < self.reach
        right = near.argmax(1) == 3 * mu + goal
        reward = np.where(right, 1.0, -1.0) * near.any(1)
        return np.column_stack([at, heading]), reward, near.any(1)

    def blocked(self, at):
        """Whether walls, which are along x or z, stop an agent (n, 2)."""
        gap = at[:, None] - np.clip(at[:, None], *self.walls)  # (n, walls, 2)
        return (np.hypot(*gap.T) < self.radius).any(0)

    def may_see_sign(self, pose):
        """False where the barrier hides all of it from a pose (n, 3)."""
        x, z = pose[:, :2].T
        east, south = SIGN[0] - 0.05 - x, SIGN[2] + 2 - z  # to its south end
        past = east * (BARRIER_Z - z) < south * (BARRIER_X - x)
        return past | (z > BARRIER_Z)

    def discover(self, mu, state, action, after):
        return []  # `look` does, from frames that it has drawn anyway

    def look(self):
        """Draw active copies; whose frame would differ in the other problem?"""
        if not self.t.any():  # an episode begins
            shape = self.num_envs, *self.space.shape
            self.observation = np.zeros(shape, np.uint8)
            self.distance = np.full(self.num_envs, np.inf)
        draw, mu, pose = self.world.draw, self.mu, self.state
        active = ~self.done
        self.observation[active] = draw(mu[active], pose[active])
        unsure = active & np.isinf(self.distance) & self.may_see_sign(pose)
        unsure = np.flatnonzero(unsure)
        differs = draw(1 - mu[unsure], pose[unsure]) != self.observation[unsure]
        sees = unsure[differs.any((1, 2, 3))]
        self.distance[sees] = np.hypot(*(pose[sees, :2] - SIGN[::2]).T)

    def report(self):
        """In metres from the sign when it was first in view; before, inf."""
        distance = self.distance.copy()
        return {"sign_in_view": distance < np.inf, "sign_distance": distance}

    def optimal_return(self, problem, instruction):
        """1: from every start, each object can be reached in 12 steps."""
        return np.ones(len(problem))

    def picture(self, k):
        """What the agent sees, 4 times as large, and the view from above."""
        frame = self.world.draw(self.mu[[k]], self.state[[k]])[0]
        above = self.world.render_top_view(self.world.vis_fb)  # of the same
        return np.hstack([frame.repeat(4, 0).repeat(4, 1), above])
