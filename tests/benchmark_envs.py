"""Environment steps per second of one core: python tests/benchmark_envs.py

Random actions other than `end`, episode after episode; copies that have ended
do not count. Median of five measurements after a warm-up, in processor time,
so that other work on the machine matters less. As CSV.
"""

import sys
import time
from pathlib import Path

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import envs  # noqa: E402


def measure(copies, actions, episodes):
    began, steps = time.process_time(), 0
    for _ in range(episodes):
        copies.reset()
        for action in actions:
            steps += copies.num_envs - copies.done.sum()
            copies.step(action)
            if copies.done.all():
                break
    return steps / (time.process_time() - began)


print("env,num_envs,steps_per_s")
for name in envs.TASKS:
    n, episodes = (64, 3) if name == "sign-nav" else (256, 100)
    copies = gymnasium.make_vec(f"imrl/{name}-v0", num_envs=n)
    copies.reset(seed=0)
    count = copies.single_action_space.n - (copies.actions[-1] == "end")
    size = copies.max_steps, n
    actions = np.random.default_rng(0).integers(count, size=size)
    measure(copies, actions, episodes)
    speeds = [measure(copies, actions, episodes) for _ in range(5)]
    print(f"{name},{n},{np.median(speeds):.0f}", flush=True)
