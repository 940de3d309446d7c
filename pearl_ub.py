"""PEARL-UB: what guessing the problem and acting on the guess earns at best.

An upper bound for PEARL (Rakelly et al., ICML 2019), as Liu et al. (ICML 2021,
arXiv 2008.02790) use it: Thompson sampling from the true posterior, optimal
policies. Nothing is learned or sampled; all that can happen is enumerated. In
3 minutes: python pearl_ub.py > results/pearl_ub.csv; in 5 seconds: --env map

1. The prior is uniform over the test problems. As in `reset`, an instruction is
   one of the n that its problem offers: having been given it, the problem is
   1/n as likely as before, or impossible. (n differs only between kitchens.)
2. A policy knows the state (cell, hands, pot, stage) and the time left. Where
   its guess is wrong, it still does what would be best if the guess were right:
   it keeps riding to where no bus goes. Of several best actions it takes any,
   uniformly; once nothing can be gained any more, these are all, also `end`.
3. Exploration: guess from the prior; make up an instruction which the guess
   offers. With rewards, the real problem gives one: evidence for the guess.
   Follow the guess to the instruction's goal, `end` or T; stop looking there.
4. The posterior keeps the problems that would have shown the same, in an
   exploration episode (`coupling`'s special action then shows the problem, with
   rewards too). Rewards are news in `coupling` only: not in cities, kitchens.
5. Execution: the instruction, evidence again; a guess from the posterior, kept
   to the end. Undiscounted; all pairs (problem, instruction) count the same.
6. `sign-nav` is not searched: going straight to the guess's object reads no
   sign and earns 1 or -1, on average 0. With rewards, both tell the color: 1.
"""

from collections import defaultdict
from typing import Literal

import numpy as np
import tyro

from envs import TASKS

# What a policy depends on, and how many values each number of it has.
CITY = {"at": [9, 9]}
COOKING = {"at": [3, 3], "held": [5], "pot": [5, 5, 5], "stage": [4]}
STATE = {"coupling": {"shown": [9]}, "cooking": COOKING}


def number(copies, parts):
    """Number the states in which the copies are."""
    columns = np.column_stack([copies.episode[name] for name in parts])
    return np.ravel_multi_index(columns.T, sum(parts.values(), []), mode="clip")


def model(copies, parts, i):
    """One step of instruction i by all actions in all problems and states.

    Returns a code of what is seen, (P, S, A); the first state; the next one,
    -1 after the end, (P, S, A); the reward at each time, (T, P, S, A).
    """
    problems, T = copies.problems["test"], copies.max_steps
    shape = len(problems), *sum(parts.values(), []), len(copies.actions)
    problem, *state, action = np.indices(shape).reshape(len(shape), -1)
    copies.num_envs = len(action)
    copies.offers["test"][:] = True  # what is made up may not be on offer
    copies.reset(options=dict(problem=problems[problem], instruction=i))
    start = number(copies, parts)[0]
    for name, sizes in parts.items():
        value = [state.pop(0) for _ in sizes]
        copies.episode[name] = np.squeeze(value).T  # (N,), the pot (N, 3)
    batch, reward, over, _, _ = copies.step(action)
    seen = np.polyval(batch["observation"].T, 64)
    results = seen, np.where(over, -1, number(copies, parts)), reward
    shape = len(problems), -1, len(copies.actions)
    seen, then, reward = (result.reshape(shape) for result in results)
    reward = np.tile(reward, (T, 1, 1, 1))
    reward[..., -1] *= 1 - np.arange(T)[:, None, None] / T  # of `end`: the rest
    return seen, start, then, reward


def q_values(then, reward):
    """Of a known problem, T times (P, S, A), by backward induction."""
    value, q = np.zeros((len(then), then.shape[1] + 1)), []
    for now in reward[::-1]:  # the last value, index -1: after the end, 0
        q.append(now + value[np.arange(len(then))[:, None, None], then])
        value[:, :-1] = q[-1].max(2)
    return q[::-1]


def follow(guess, seen, start, then, reward, policies):
    """Follow a guess in all problems at once: the return in each, (P,), and
    {(last state, problems with this history, as bytes): its probability}.
    """
    returns = np.zeros(len(then))
    now = {(start, np.arange(len(then)).tobytes()): 1.0}
    for best, pay in zip(policies, reward):
        later = defaultdict(float)
        for (state, alike), p in now.items():
            if state == -1:
                later[state, alike] += p
                continue
            group, actions = np.frombuffer(alike, int), best[guess, state]
            p = p / actions.sum()
            for a in np.flatnonzero(actions):
                returns[group] += p * pay[group, state, a]
                looks = seen[group, state, a]
                for look in np.unique(looks):
                    same = group[looks == look]
                    later[then[same[0], state, a], same.tobytes()] += p
        now = later
    return returns, now


def pearl_ub(name):
    """Optimum, PEARL-UB without and with rewards, of every pair: (3, pairs)."""
    if name == "sign-nav":
        return np.array([[1.0], [0.0], [1.0]])
    copies = TASKS[name]()
    offers = copies.offers["test"][copies.problems["test"]]
    likelihood = offers / offers[:, :-1].sum(1, keepdims=True)
    likelihood[:, -1] = 1  # no instruction, no evidence
    value = np.zeros((len(offers), *offers.shape))  # problem, guess, i
    beliefs = defaultdict(float)  # (instruction, problems left): probability
    parts = STATE.get(name, CITY)
    seen, *_ = model(copies, parts, -1)  # what an explorer sees
    for i in np.flatnonzero(offers[:, :-1].any(0)):
        _, start, then, reward = model(copies, parts, i)
        q = q_values(then, reward)
        world = start, then, reward, [x > x.max(2)[..., None] - 1e-9 for x in q]
        both = 1000 * seen + np.rint(100 * reward[0]).astype(int)
        for guess in np.flatnonzero(offers[:, i]):
            for given, looks in ((-1, seen), (i, both)):
                value[:, guess, i], ended = follow(guess, looks, *world)
                prior = likelihood[guess, i] / likelihood[:, given].sum()
                for (_, left), p in ended.items():
                    beliefs[given, left] += prior * p

    results = np.zeros((3, *offers.shape))
    results[0] = np.einsum("ppi->pi", value)  # who guesses right
    for (given, left), p in beliefs.items():
        left = np.frombuffer(left, int)
        evidence = likelihood[left, given, None]
        guess = evidence * likelihood[left]  # (problem, instruction)
        guess /= np.maximum(guess.sum(0), 1e-12)
        returns = np.einsum("pgi,gi->pi", value[np.ix_(left, left)], guess)
        results[1 + (given >= 0), left] += p * evidence * returns
    return results[:, :, :-1][:, offers[:, :-1]]


def main(env: Literal["all", *TASKS] = "all"):
    print("env,optimum,without_rewards,with_rewards", flush=True)
    for name in TASKS if env == "all" else [env]:
        results = [f"{mean:.4f}" for mean in pearl_ub(name).mean(1)]
        print(name, *results, sep=",", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
