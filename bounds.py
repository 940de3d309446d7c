"""What can be earned at best by three kinds of agents: bounds for the methods.

In 7 minutes on one core: python bounds.py writes results/bounds.csv; in
seconds: python bounds.py --env map prints the row of that task only.

- optimum: the agent knows the problem.
- no_exploration: it has no exploration episode, but learns from what an
  execution shows on the way. All problems that offer the instruction are
  equally likely at first.
- pearl_ub: it guesses the problem, by Thompson sampling from the true
  posterior, and acts on the guess: an upper bound for PEARL (Rakelly et al.,
  ICML 2019), as Liu et al. (ICML 2021, arXiv 2008.02790) use it. Also where
  rewards are observed in exploration.

All test pairs (problem, instruction) count the same. Nothing is learned; all
that can happen is enumerated, in `sign-nav` from a sample of starts.

Six rules define PEARL-UB:
1. The prior is uniform over the test problems. As in `reset`, an instruction is
   one of the n that its problem offers: having been given it, the problem is
   1/n as likely as before, or impossible. (n differs only between kitchens.)
2. A policy knows the state and the time left. Where its guess is wrong, it
   still does what would be best if the guess were right: it keeps riding to
   where no bus goes. Of several best actions it takes any, uniformly; once
   nothing can be gained any more, these are all, also `end`. In `sign-nav`,
   where steps are free, the best are the quickest: they go straight.
3. Exploration: guess from the prior; make up an instruction which the guess
   offers. With rewards, the real problem gives one: evidence for the guess.
   Follow the guess to the instruction's goal, `end` or T; stop looking there.
4. The posterior keeps the problems that would have shown the same.
5. Execution: the instruction, evidence again; a guess from the posterior, kept
   to the end.
6. In `sign-nav`, exploration and execution begin at the same place.
"""

import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import gymnasium
import numpy as np
import tyro

import envs

TASKS = "coupling", "bus", "map", "distracting-bus", "cooking", "sign-nav"
STARTS = 256  # of sign-nav
CSV = Path(__file__).parent / "results" / "bounds.csv"
HEADER = "env,optimum,pearl_ub,pearl_ub_with_rewards,no_exploration,starts"


class Grid:
    """A task in whole numbers: codes of its states and observations."""

    price = 0.0  # of a step, for PEARL-UB's policies

    def __init__(self, task):
        self.task = task

    def begin(self, explores):
        return self.task.begin(np.array([explores]))

    def number(self, state):
        return np.ravel_multi_index(state.T, self.task.state_sizes)

    def see(self, mu, state):
        observation = self.task.sense(mu, state)
        return np.ravel_multi_index(observation.T, self.task.space.nvec)


class SignNav:
    """`sign-nav` from one start. Seen is mu if the frame depends on it, or -1.

    One pixel that differs, at any distance, is enough.
    """

    price = 1e-3  # of two ways to the same reward the shorter one is better

    def __init__(self, task, start):
        self.task, self.start = task, start
        self.differs = {}  # whether the frame at a pose depends on mu

    def begin(self, explores):
        return self.start[None]

    def number(self, state):
        """Equal for poses that differ by rounding errors only."""
        x, z, heading = state.T
        turns = np.rint(1000 * heading / self.task.turn) % 8000
        whole = np.rint(1000 * x), np.rint(1000 * z), turns  # in mm
        return np.ravel_multi_index(np.int64(whole), (20_000, 20_000, 8000))

    def see(self, mu, state):
        numbers, first, index = np.unique(
            self.number(state), return_index=True, return_inverse=True
        )
        # Drawing takes longest, so each pose is drawn only once.
        new = np.array([n not in self.differs for n in numbers.tolist()])
        pose = state[first[new]]
        differs = self.task.may_see_sign(pose)
        pose, draw = pose[differs], self.task.world.draw
        blue = draw(np.zeros(len(pose), int), pose)
        red = draw(np.ones(len(pose), int), pose)
        differs[differs] = (blue != red).any((1, 2, 3))
        self.differs.update(zip(numbers[new].tolist(), differs))
        differs = np.array([self.differs[n] for n in numbers.tolist()])
        return np.where(differs[index], mu, -1)


class Model(NamedTuple):
    """All that can happen with an instruction, in lists of T arrays (P, S, A):
    in P problems, from the S states that can be reached in t steps."""

    start: np.ndarray  # (P,), a code of what is seen before the first step
    seen: list  # a code of what is seen after the step
    after: list  # the next state, counted among those of t + 1; -1: the end
    reward: list


def make_model(view, instruction, explores):
    """The model of the test problems, by breadth-first search."""
    task, problems = view.task, view.task.problems["test"]
    states = view.begin(explores)
    start = view.see(problems, states.repeat(len(problems), 0))
    model = Model(start, [], [], [])
    for t in range(task.max_steps):
        shape = len(problems), len(states), len(task.actions)
        p, s, action = np.indices(shape).reshape(3, -1)
        mu, goal = problems[p], np.full(len(p), instruction)
        state, reward, done = task.transitions(mu, goal, states[s], t, action)
        going = np.flatnonzero(~np.broadcast_to(done, len(p)))
        _, first, index = np.unique(
            view.number(state[going]), return_index=True, return_inverse=True
        )
        after = np.full(len(p), -1)
        after[going] = index
        model.seen.append(view.see(mu, state).reshape(shape))
        model.after.append(after.reshape(shape))
        model.reward.append(reward.reshape(shape))
        states = state[going[first]]
    return model


def q_values(model, price=0.0):
    """T arrays (P, S, A), of an agent that knows the problem."""
    p = np.arange(len(model.start))[:, None, None]
    value, q = np.zeros((len(p), 1)), []  # (P, S + 1), the last is of the end
    for after, reward in zip(model.after[::-1], model.reward[::-1]):
        q.append(reward - price + value[p, after])
        value = np.pad(q[-1].max(2), ((0, 0), (0, 1)))
    return q[::-1]


def split(group, looks):
    """Parts of a group of problems (G,), each with equal looks (G,)."""
    return [group[looks == look] for look in np.unique(looks)]


def search(model, group):
    """The largest mean return over a group of problems, by branch and bound.

    What a policy has to go by: the time, the state, and the problems that would
    have shown the same so far. Who knows the problem earns at least as much.
    """
    q = q_values(model)

    @cache
    def value(t, state, alike):
        group = np.frombuffer(alike, int)
        bound, best = q[t][group, state].mean(0), -np.inf
        if len(group) == 1:
            return bound.max()
        for a in np.argsort(-bound):
            if bound[a] <= best + 1e-9:
                break
            total = model.reward[t][group, state, a].sum()
            for part in split(group, model.seen[t][group, state, a]):
                after = model.after[t][part[0], state, a]
                if after >= 0:
                    total += len(part) * value(t + 1, after, part.tobytes())
            best = max(best, total / len(group))
        return best

    parts = split(np.array(group), model.start[group])
    total = sum(len(part) * value(0, 0, part.tobytes()) for part in parts)
    return total / len(group)


def offers_of(task):
    """Whether a test problem offers an instruction, (P, I)."""
    return task.offers["test"][task.problems["test"], :-1]


def no_exploration(view):
    """The best mean return over all pairs without exploring."""
    offers, total = offers_of(view.task), 0.0
    for i in np.flatnonzero(offers.any(0)):
        group = np.flatnonzero(offers[:, i])
        model = make_model(view, i, explores=False)
        total += len(group) * search(model, group)
    return total / offers.sum()


def follow(model, policy, seen):
    """What becomes of a policy, T arrays (S, A) of booleans, in all problems.

    Returns the mean return in each, (P,), and the probability of each end:
    {problems that have shown the same, as bytes: probability in each of them}.
    """
    returns, ends = np.zeros(len(model.start)), defaultdict(float)
    parts = split(np.arange(len(returns)), model.start)
    now = {(0, part.tobytes()): 1.0 for part in parts}
    for t, best in enumerate(policy):
        later = defaultdict(float)
        for (state, alike), p in now.items():
            group, actions = np.frombuffer(alike, int), best[state]
            p = p / actions.sum()
            for a in np.flatnonzero(actions):
                returns[group] += p * model.reward[t][group, state, a]
                for part in split(group, seen[t][group, state, a]):
                    after = model.after[t][part[0], state, a]
                    if after >= 0:
                        later[after, part.tobytes()] += p
                    else:
                        ends[part.tobytes()] += p
        now = later
    return returns, ends


def pearl_ub(view):
    """Optimum, PEARL-UB without and with rewards, of every pair: (3, pairs)."""
    offers = offers_of(view.task)
    likelihood = offers / offers.sum(1, keepdims=True)  # of an instruction
    # In the last column, -1, none has been given, which is no evidence.
    likelihood = np.pad(likelihood, ((0, 0), (0, 1)), constant_values=1)
    returns = np.zeros((len(offers), *offers.shape))  # problem, guess, i
    beliefs = defaultdict(float)  # {(given i, problems left): probability}
    for i in np.flatnonzero(offers.any(0)):
        # An exploration with an instruction pays what an execution pays.
        model = make_model(view, i, explores=True)
        # What is seen, and the reward in hundredths, as one number
        paid = [np.rint(100 * reward) for reward in model.reward]
        both = [1000 * seen + pay for seen, pay in zip(model.seen, paid)]
        q = q_values(model, view.price)
        best = [x > x.max(2, keepdims=True) - 1e-9 for x in q]
        for guess in np.flatnonzero(offers[:, i]):
            policy = [x[guess] for x in best]
            for given, seen in ((-1, model.seen), (i, both)):
                returns[:, guess, i], ends = follow(model, policy, seen)
                prior = likelihood[guess, i] / likelihood[:, given].sum()
                for left, p in ends.items():
                    beliefs[given, left] += prior * p

    results = np.zeros((3, *offers.shape))
    results[0] = np.einsum("ppi->pi", returns)  # of those who guess right
    for (given, left), p in beliefs.items():
        left = np.frombuffer(left, int)
        evidence = likelihood[left, given, None]
        posterior = evidence * likelihood[left, :-1]  # (guess, i)
        posterior /= np.maximum(posterior.sum(0), 1e-12)
        mean = np.einsum("pgi,gi->pi", returns[np.ix_(left, left)], posterior)
        results[1 + (given >= 0), left] += p * evidence * mean
    return results[:, offers]


def bounds(name, starts=STARTS):
    """Optimum, PEARL-UB without and with rewards, no exploration: (4,)."""
    exact = name != "sign-nav"
    task = envs.make(name, 1 if exact else starts, split="test")
    task.reset(seed=0)
    views = [Grid(task)] if exact else [SignNav(task, x) for x in task.state]
    rows = [[*pearl_ub(v).mean(1), no_exploration(v)] for v in views]
    return np.mean(rows, 0)


def main(env: Literal["all", *TASKS] = "all"):
    """Print the bounds of a task; or of all, and write results/bounds.csv."""
    lines = [HEADER]
    if env == "all":
        CSV.parent.mkdir(exist_ok=True)  # or fail now, not after minutes
    for name in TASKS if env == "all" else [env]:
        figures = [f"{figure:.4f}" for figure in bounds(name)]
        starts = str(STARTS) if name == "sign-nav" else ""
        lines.append(",".join([name, *figures, starts]))
        print(lines[-1], flush=True)
    if env == "all":
        CSV.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except (OSError, gymnasium.error.DependencyNotInstalled) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
