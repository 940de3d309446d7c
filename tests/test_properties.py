"""What holds for any input, whatever it is (property-based)."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dream
import envs

GRIDS = ["coupling", "bus", "bus-show-id", "map", "distracting-bus", "cooking"]
quick = settings(max_examples=60, deadline=None, derandomize=True)


@quick
@given(st.data())
def test_exploration_rewards_telescope(data):
    """Whatever the distances: information gained, less the price of steps."""
    T = data.draw(st.integers(1, 20))
    length = data.draw(st.integers(1, T))
    c = data.draw(st.floats(0, 1))
    distance = st.floats(0, 100, width=32)
    d = data.draw(st.lists(distance, min_size=T + 1, max_size=T + 1))
    error = torch.tensor([d]) * (torch.arange(T + 1) <= length)
    reward = dream.exploration_reward(error, torch.tensor([length]), c)
    gained = d[0] - d[length] - c * length
    assert abs(reward.sum().item() - gained) < 1e-3
    assert (reward[0, length:] == 0).all()


@quick
@given(st.data())
def test_any_episode_of_any_grid_task(data):
    """Observations are in their space, returns are sums of rewards, and an
    episode ends by its last step."""
    env = data.draw(st.sampled_from(GRIDS))
    task = envs.make(env, 2, data.draw(st.sampled_from(["train", "test"])))
    task.reset(seed=data.draw(st.integers(0, 99)))
    begin = data.draw(st.sampled_from([task.explore, task.execute]))
    batch, info = begin()
    action = st.integers(0, len(task.actions) - 1)
    total, done = np.zeros(2), np.zeros(2, bool)
    for _ in range(task.max_steps):
        assert batch in task.observation_space
        actions = data.draw(st.tuples(action, action))
        before = done
        batch, reward, done, truncated, info = task.step(np.array(actions))
        total += reward
        assert (reward[before] == 0).all() and (done >= before).all()
        assert not truncated.any() and (batch["reward"] == 0).all()
    assert done.all() and (info["steps"] <= task.max_steps).all()
    assert np.allclose(info["return"], total)
    if begin == task.explore:
        assert (total == 0).all()
