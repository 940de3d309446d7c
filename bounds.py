"""What the best policies of three kinds earn: bounds for the compared methods.

In M minutes on one core: python bounds.py writes results/bounds.csv; in a
second: python bounds.py --env coupling prints only that task's row.

optimum: who knows the problem. no_exploration: who has no exploration episode,
but learns from what an execution shows on the way. pearl_ub: who guesses the
problem (Thompson sampling from the true posterior) and acts on the guess, an
upper bound for PEARL (Rakelly et al., ICML 2019), as Liu et al. (ICML 2021,
arXiv 2008.02790) use it; also with rewards in exploration. All pairs (problem,
instruction) of a test count the same. Nothing is learned or sampled, but for
the starts of sign-nav: all that can happen is enumerated.

PEARL-UB, in six rules:
1. The prior is uniform over the test problems. As in `reset`, an instruction is
   one of the n that its problem offers: having been given it, the problem is
   1/n as likely as before, or impossible. (n differs only between kitchens.)
2. A policy knows the state and the time left. Where its guess is wrong, it
   still does what would be best if the guess were right: it keeps riding to
   where no bus goes. Of several best actions it takes any, uniformly; once
   nothing can be gained any more, these are all, also `end`.
3. Exploration: guess from the prior; make up an instruction which the guess
   offers. With rewards, the real problem gives one: evidence for the guess.
   Follow the guess to the instruction's goal, `end` or T; stop looking there.
4. The posterior keeps the problems that would have shown the same.
5. Execution: the instruction, evidence again; a guess from the posterior, kept
   to the end.
6. In `sign-nav` steps are free: of the best policies, the quickest.
"""

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro

import envs

TASKS = "coupling", "bus", "map", "distracting-bus", "cooking", "sign-nav"
CSV = Path(__file__).parent / "results" / "bounds.csv"
STARTS = 64  # of sign-nav


class Model(NamedTuple):
    """All that can happen with one instruction, in P problems, at T times.

    In each list, the t-th (P, S, A) is about the S states that can be reached
    in t steps; `after` counts those of the next time, -1 after the end.
    """

    start: np.ndarray  # (P, K), what is seen in the K first states
    seen: list  # a code of what is seen after the step
    after: list
    reward: list


class Grid:
    """Numbers the states and the observations of a task."""

    def __init__(self, task):
        self.task = task

    def number(self, state):
        return np.ravel_multi_index(state.T, self.task.state_sizes)

    def see(self, mu, state):
        observation = self.task.sense(mu, state)
        return np.ravel_multi_index(observation.T, self.task.space.nvec)


class SignNav:
    """Numbers poses; seen is the problem if its frame differs, at any distance.

    `differs` {number of a pose: whether the frames of the problems differ}.
    """

    def __init__(self, task):
        self.task, self.differs = task, {}

    def number(self, state):
        x, z, heading = state.T
        turns = np.rint(1e3 * heading / self.task.turn) % 8000
        at = np.rint([1e5 * x, 1e5 * z])
        return np.ravel_multi_index(np.int64([*at, turns]), (2**21, 2**21, 8000))

    def see(self, mu, state):
        numbers, first, index = np.unique(
            self.number(state), return_index=True, return_inverse=True
        )
        new = [n not in self.differs for n in numbers.tolist()]
        pose = state[first[new]]
        differs = self.task.may_see_sign(pose)
        pose, n = pose[differs], differs.sum()
        blue = self.task.world.draw(np.zeros(n, int), pose)
        red = self.task.world.draw(np.ones(n, int), pose)
        differs[differs] = (blue != red).any((1, 2, 3))
        self.differs.update(zip(numbers[new].tolist(), differs.tolist()))
        differs = np.array([self.differs[n] for n in numbers.tolist()])
        return np.where(differs[index], mu, -1)


def model(view, instruction, start):
    task, problems = view.task, view.task.problems["test"]
    states, seen, afters, rewards = start, [], [], []
    for t in range(task.max_steps):
        shape = len(problems), len(states), len(task.actions)
        mu, state, action = np.indices(shape).reshape(3, -1)
        mu, goal = problems[mu], np.full(len(mu), instruction)
        after, reward, done = task.transitions(
            mu, goal, states[state], t, action
        )
        done = np.broadcast_to(done, len(mu))
        live = np.flatnonzero(~done)
        _, first, index = np.unique(
            view.number(after[live]), return_index=True, return_inverse=True
        )
        numbers = np.full(len(mu), -1)
        numbers[live] = index
        print(t, shape, len(first))
        seen.append(view.see(mu, after).reshape(shape))
        afters.append(numbers.reshape(shape))
        rewards.append(reward.reshape(shape))
        states = after[live[first]]
    return Model(None, seen, afters, rewards)
