"""What can be earned at best without an exploration episode.

The agent has only the execution episode; what it sees on the way still tells it
of the problem. Nothing is learned or sampled, but for the starts of
`sign-nav`: the best policy is searched for. In 10 minutes:
python no_exploration.py > results/no_exploration.csv; in a minute: --env map

1. All test problems that offer the instruction are equally likely, and all
   pairs (problem, instruction) count the same: no policy that is not told of
   an exploration has a larger `test_return`.
2. Grid tasks: branch and bound over the agent's state, the time, and the set of
   problems that would have shown the same so far. Where only one is left, or
   for a bound, the return is that of a policy which knows the problem.
3. `sign-nav`: breadth-first search over the poses within 20 steps of a start,
   for each object. The colors are equally likely until the sign is in view, as
   `envs.py` has it, from within 5.5 m; who never reads it earns 1 or -1, on
   average 0. An estimate: the signs still differ a little from farther away.
"""

from collections import defaultdict, deque
from functools import cache
from typing import Literal

import numpy as np
import tyro

from envs import TASKS
from pearl_ub import CITY, STATE, model, q_values


def search(seen, start, then, reward, group):
    """The largest mean return over the problems of a group (indices).

    A model as `pearl_ub.model` has it: what is seen and the next state, -1 at
    the end, (P, S, A); the first state; the rewards (T, P, S, A).
    """
    q = q_values(then, reward)

    @cache
    def value(t, state, alike):
        if state == -1 or t == len(reward):
            return 0.0
        group = np.frombuffer(alike, int)
        bound, best = q[t][group, state].mean(0), -np.inf
        if len(group) == 1:
            return bound.max()
        for a in np.argsort(-bound):
            if bound[a] <= best + 1e-9:
                break
            total = reward[t][group, state, a].sum()
            looks = seen[group, state, a]
            for look in np.unique(looks):
                same = group[looks == look]
                after = then[same[0], state, a]
                total += len(same) * value(t + 1, after, same.tobytes())
            best = max(best, total / len(group))
        return best

    return value(0, start, np.array(group).tobytes())


def grid(name):
    copies = TASKS[name]()
    offers = copies.offers["test"][copies.problems["test"], :-1]
    total = 0
    for i in np.flatnonzero(offers.any(0)):
        group = np.flatnonzero(offers[:, i])
        world = model(copies, STATE.get(name, CITY), i)
        total += len(group) * search(*world, group)
    return total / offers.sum()


class Walks:
    """All walks of at most T steps from a start (x, z, heading) in sign-nav.

    A node is the steps made in each of the 8 directions, those back taken off,
    (4,), and the direction faced. `steps` {node: the fewest from the start};
    `before` {node: the nodes a step before it}; and `contact` {object: the
    nodes from which the next step comes near it}.
    """

    def __init__(self, task, start):
        self.task, self.start = task, start[:2]
        self.heading = start[2] + np.arange(8) * np.pi / 4
        ahead = np.stack([np.cos(self.heading), -np.sin(self.heading)], 1)
        self.ahead = 0.7 * ahead[:4]
        place = cache(self.place)
        first = (0, 0, 0, 0), 0
        self.steps, queue = {first: 0}, deque([first])
        self.before, self.contact = defaultdict(list), defaultdict(list)
        while queue:
            node = at, k = queue.popleft()
            if self.steps[node] == task.max_steps:
                continue
            moved = *at[: k % 4], at[k % 4] + 1 - k // 4 * 2, *at[k % 4 + 1 :]
            kind, after = place(moved), [(at, (k + 1) % 8), (at, (k - 1) % 8)]
            if kind == "free":
                after.append((moved, k))
            elif kind != "wall":
                self.contact[kind].append(node)
            for new in after:
                self.before[new].append(node)
                if new not in self.steps:
                    self.steps[new] = self.steps[node] + 1
                    queue.append(new)

    def pose(self, node):
        at, k = node
        return *(self.start + np.array(at) @ self.ahead), self.heading[k]

    def place(self, at):
        """What a step to there meets: the number of an object, or what else."""
        x, z, _ = self.pose((at, 0))
        world = self.task.world
        if world.intersect(world.agent, (x, 0, z), world.agent.radius):
            return "wall"
        near = np.hypot(*(self.task.places - [x, z]).T) < self.task.reach
        return int(near.argmax()) if near.any() else "free"

    def reads(self, node):
        """Whether the sign is in view."""
        pose = np.array([self.pose(node)] * 2)
        if not self.task.near_sign(pose)[0]:
            return False
        blue, red = self.task.world.draw([0, 1], pose)
        return (blue != red).any()

    def left(self, thing):
        """{node: the fewest steps to this object}."""
        left, queue = dict.fromkeys(self.contact[thing], 1), deque()
        queue.extend(left)
        while queue:
            node = queue.popleft()
            for last in self.before[node]:
                if last not in left:
                    left[last] = left[node] + 1
                    queue.append(last)
        return left


def sign_nav(starts):
    task = TASKS["sign-nav"](num_envs=starts)
    task.reset(seed=0)
    returns = []
    for start in task.episode["pose"]:
        walks = Walks(task, start)
        for i in range(3):
            colors = [walks.left(i), walks.left(3 + i)]
            fetched = defaultdict(list)  # how many of the colors: nodes
            for node, steps in walks.steps.items():
                total = [steps + x.get(node, np.inf) for x in colors]
                in_time = [x <= task.max_steps for x in total]
                fetched[sum(in_time)].append(node)
            both, one = (map(walks.reads, fetched[n]) for n in (2, 1))
            returns.append(1.0 if any(both) else 0.5 if any(one) else 0.0)
    return np.mean(returns)


def main(env: Literal["all", *TASKS] = "all", starts: int = 51):
    print("env,return", flush=True)
    for name in TASKS if env == "all" else [env]:
        best = sign_nav(starts) if name == "sign-nav" else grid(name)
        print(f"{name},{best:.4f}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
