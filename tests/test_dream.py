"""The networks, acting, Q-learning and the replay buffer of DREAM."""

from types import SimpleNamespace

import gymnasium.spaces
import numpy as np
import pytest
import torch

import dream
import envs

torch.set_num_threads(1)  # bit-identical, and fast where cores are shared


def arguments(**q_learning):
    args = dream.Args()
    args.dream.bottleneck_std = 0.0
    vars(args.q_learning).update({"hidden_size": 16} | q_learning)
    return args


def rewards_matter(*agents):
    for agent in agents:
        for module in agent.modules():
            if isinstance(module, dream.Memory):
                torch.nn.init.normal_(module.reward.weight)


def trials(env="map", B=12, setting="imrl", **q_learning):
    """Untrained networks, in which everything matters, and trials of them."""
    torch.manual_seed(0)
    args = arguments(**q_learning)
    task = envs.make(env, B, setting=setting)
    task.reset(seed=0)
    agent, target = dream.Dream(task, args), dream.Dream(task, args)
    rewards_matter(agent, target)
    torch.nn.init.normal_(agent.f.weight)
    knows_mu, drawn = torch.arange(B) % 2 == 0, [None, None]
    tau_exp, (tau_exec,), _ = dream.trial(
        agent, args, task, None, drawn, knows_mu, (0.9, 0.9)
    )
    return args, agent, target, tau_exp, tau_exec


def frames(B=4, T=5):
    """The same of a task that shows frames, all at random."""
    torch.manual_seed(0)
    space = {
        "observation": gymnasium.spaces.Box(0, 255, (60, 80, 3), np.uint8),
        "instruction": gymnasium.spaces.MultiDiscrete([3, 4]),
    }
    task = SimpleNamespace(
        single_observation_space=space, actions=range(3), num_problems=2,
        forms={"problem_id": "one-hot", "instruction": "one-hot"},
    )  # fmt: skip
    args = arguments()
    agent, target = dream.Dream(task, args), dream.Dream(task, args)
    rewards_matter(agent, target)
    length = torch.tensor([5, 2, 1, 4])

    def episode():
        prev_action = torch.randint(3, (B, T + 1))
        prev_action[:, 0] = 3
        return {
            "observation": torch.randint(256, (B, T + 1, 60, 80, 3)).byte(),
            "instruction": torch.randint(3, (B, 1, 1)).repeat(1, T + 1, 2),
            "prev_action": prev_action,
            "prev_reward": torch.zeros(B, T + 1),
            "reward": torch.randn(B, T) * dream.valid(length, T),
            "length": length,
        }

    tau_exp = episode() | {"mu": torch.tensor([0, 1, 1, 0])}
    tau_exec = episode() | {"knows_mu": torch.arange(B) < 2}
    return args, agent, target, tau_exp, tau_exec


KINDS = pytest.mark.parametrize("kind", [trials, frames])
LIKE = "observation", "instruction", "prev_action", "prev_reward"


def steps(tau, *ts):
    return {name: tau[name][:, slice(*ts)] for name in LIKE}


# --- Networks -----------------------------------------------------------------
@KINDS
def test_memory_step_by_step_is_memory_at_once(kind):
    """What acting knows is what learning reads, whatever the rewards."""
    _, agent, _, _, tau = kind()
    tau["prev_reward"][:, 1:] = torch.randn_like(tau["prev_reward"][:, 1:])
    with torch.no_grad():
        once, _ = agent.decoder(steps(tau, None))
        state, alone = None, []
        for t in range(once.shape[1]):
            x, state = agent.decoder(steps(tau, t, t + 1), state)
            alone.append(x)
        torch.testing.assert_close(torch.cat(alone, 1), once)
        first, state = agent.decoder(steps(tau, 0, 3))
        rest, _ = agent.decoder(steps(tau, 3, None), state)
        torch.testing.assert_close(torch.cat([first, rest], 1), once)


@KINDS
def test_memory_reads_everything_and_nothing_of_the_future(kind):
    _, agent, _, _, tau = kind()
    tau["prev_reward"][:] = 1.0
    before, _ = agent.decoder(steps(tau, None))
    for name in LIKE:
        other = steps(tau, None)
        other[name] = other[name].clone()
        other[name][:, 2] = 1 - (other[name][:, 2] > 0).to(other[name].dtype)
        after, _ = agent.decoder(other)
        changed = (before != after).any(2)
        assert not changed[:, :2].any(), name
        assert changed[:, 2:].all(), f"{name} must be remembered"


def test_memory_reads_a_transition():
    """Of tokens, together with the step before; that of frames does not."""
    for kind, matters in (trials, True), (frames, False):
        _, agent, _, tau, _ = kind()
        now = steps(tau, 3, 4)
        _, (h, c, prev_s) = agent.decoder(steps(tau, 0, 3))
        x, _ = agent.decoder(now, (h, c, prev_s))
        y, _ = agent.decoder(now, (h, c, prev_s + 1))
        assert x.equal(y) != matters


def test_a_reward_is_read_with_its_instruction():
    _, agent, _, tau, _ = trials()
    memory, now = agent.decoder, steps(tau, 0, 1)

    def read(reward, instruction):
        now["prev_reward"] = torch.full((12, 1), float(reward))
        now["instruction"] = torch.full((12, 1, 1), instruction)
        return memory(now)[0]

    assert read(0, 1).equal(read(0, 2))
    assert not read(1, 1).equal(read(1, 2))
    torch.nn.init.zeros_(memory.reward.weight)
    assert read(1, 1).equal(read(0, 1))


def test_what_an_agent_begins_with():
    """f near zero, so that z holds only what execution needs; no rewards."""
    torch.manual_seed(0)
    agent = dream.Dream(envs.make("distracting-bus"), arguments())
    assert agent.f.weight.shape == (576, 16)
    assert agent.f.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for memory in agent.decoder, agent.pi_exp.memory, agent.pi_exec.memory:
        assert (memory.reward.weight == 0).all()
    assert agent.pi_exec.head.instruction.weight.std() < 0.3


def test_q_is_dueling_and_depends_on_z_and_the_instruction():
    _, agent, _, _, tau = trials()
    z = torch.randn(12, 16)
    q, _ = agent.pi_exec(tau, z)
    assert q.shape == (12, 21, 6)
    x, _ = agent.pi_exec.memory(tau)
    x = torch.cat([x, z[:, None].expand(-1, 21, -1)], 2)
    head = agent.pi_exec.head
    for p in head.advantage.parameters():  # all actions alike
        torch.nn.init.zeros_(p)
    tokens = head.instruction(tau["instruction"]).flatten(2)
    value = head.value(torch.cat([x, tokens], 2))
    alike, _ = agent.pi_exec(tau, z)
    torch.testing.assert_close(alike, value.expand(-1, -1, 6))
    # The mean of all actions is the value of the state.
    torch.testing.assert_close(q.mean(2, keepdim=True), value)
    other = tau | {"instruction": (tau["instruction"] + 1) % 4}
    assert not agent.pi_exec(other, z)[0].equal(alike)
    assert not agent.pi_exec(tau, z + 1)[0].equal(alike)
    assert agent.pi_exp(tau)[0].shape == (12, 21, 6)


# --- What losses are made of --------------------------------------------------
@pytest.mark.parametrize("kind", ["map", "coupling", "frames"])
def test_padding_never_changes_a_loss(kind):
    inputs = frames() if kind == "frames" else trials(kind)
    args, agent, target, tau_exp, tau_exec = inputs
    before = dream.losses(agent, target, tau_exp, tau_exec, args)
    for tau in (tau_exp, tau_exec):
        padded = ~dream.valid(tau["length"] + 1, tau["prev_action"].shape[1])
        assert padded.any() or kind == "coupling"
        for name in LIKE:
            tau[name][padded] = 1
        assert (tau["reward"][padded[:, 1:]] == 0).all()
    after = dream.losses(agent, target, tau_exp, tau_exec, args)
    for name, loss in before.items():
        assert torch.isfinite(loss).all() and (loss > 0).any()
        torch.testing.assert_close(loss, after[name], rtol=0, atol=0)


def q_loss(q, target_q, *inputs):
    """That of Q-values as they are."""
    policies = (lambda tau, z, q=x: (q, None) for x in (q, target_q))
    return dream.q_loss(*policies, *inputs)


@pytest.mark.parametrize("cut_traces", [True, False])
def test_q_loss_against_a_slow_loop(cut_traces):
    """Each target as the mixture of n-step returns that it stands for."""
    q_learning = {"q_lambda": 0.6, "cut_traces": cut_traces, "gamma": 0.9}
    args, agent, target, _, tau = trials(**q_learning)
    z, gamma, lam, reward = torch.randn(12, 16), 0.9, 0.6, tau["reward"]
    with torch.no_grad():
        qs, target_qs = agent.pi_exec(tau, z)[0], target.pi_exec(tau, z)[0]
    loss = q_loss(qs, target_qs, tau, reward, args)
    errors, traces = [[] for _ in range(12)], []
    for b, length in enumerate(tau["length"]):
        q, target_q = qs[b], target_qs[b]
        action, r = tau["prev_action"][b, 1:], reward[b]
        for t in range(length):
            total, weight = 0.0, 1.0
            for n in range(1, length - t + 1):
                value = sum(gamma**k * r[t + k] for k in range(n))
                trace = 0.0
                if t + n < length:
                    best = q[t + n].argmax()
                    value = value + gamma**n * target_q[t + n, best]
                    greedy = action[t + n] == best
                    trace = lam if greedy or not cut_traces else 0.0
                    traces.append(trace)
                total = total + weight * (1 - trace) * value
                weight = weight * trace
            errors[b].append((q[t, action[t]] - total) ** 2)
    mean_length = tau["length"].float().mean()
    for found, error in zip(loss, errors):
        torch.testing.assert_close(found, sum(error) / mean_length)
    mean = torch.stack(sum(errors, [])).mean()
    torch.testing.assert_close(loss.mean(), mean)
    assert sum(traces) > 10  # else it is only one-step learning
    assert (0 in traces) == cut_traces


def test_q_loss_teaches_the_action_taken_towards_its_return():
    args = arguments(q_lambda=0.5, gamma=0.5)
    q = torch.tensor([[[0.0, 2.0], [1.0, 3.0], [5.0, 5.0]]], requires_grad=True)
    average = torch.tensor([[[8.0, 9.0], [4.0, 6.0], [7.0, 7.0]]])
    tau = {
        "prev_action": torch.tensor([[2, 0, 1]]),
        "length": torch.tensor([2]),
    }
    reward = torch.tensor([[1.0, 2.0]])
    loss = q_loss(q, average, tau, reward, args)
    # The second action is greedy: G_1 = 2, G_0 = 1 + 0.5 (6 + 0.5 (2 - 6)) = 3
    assert loss.tolist() == [((0 - 3) ** 2 + (3 - 2) ** 2) / 2]
    loss.sum().backward()
    assert q.grad.tolist() == [[[-3, 0], [0, 1], [0, 0]]]


def test_q_loss_is_of_a_policy_and_of_its_average():
    args, agent, target, _, tau = trials()
    z = torch.randn(12, 16, requires_grad=True)
    loss = dream.q_loss(
        agent.pi_exec, target.pi_exec, tau, tau["reward"], args, z
    )
    q, average = agent.pi_exec(tau, z)[0], target.pi_exec(tau, z)[0]
    expected = q_loss(q, average, tau, tau["reward"], args)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in target.parameters())


SHOWN = {"imrl": (0, 0), "imrl-rewards": (1, 0), "standard": (1, 1)}
SHOWN["online"] = (0, 0)


@pytest.mark.parametrize("setting", SHOWN)
def test_which_rewards_are_observed(setting):
    """Those of the action before, and the networks read them."""
    args, agent, _, *taus = trials(B=64, setting=setting)
    pays = setting == "online", True
    for tau, observed, paid in zip(taus, SHOWN[setting], pays):
        assert (tau["prev_reward"][:, 0] == 0).all()
        after = tau["prev_reward"][:, 1:]  # each step has a reward
        steps = dream.valid(tau["length"], after.shape[1])
        assert (after != 0).equal(steps & bool(observed))
        assert (tau["reward"] != 0).equal(steps & paid)
        if observed and paid:
            assert after.equal(tau["reward"])
    exploring, executing = SHOWN[setting]
    tau_exp, tau_exec = taus
    # An exploration has an instruction unless there is nothing to pay for.
    assert (tau_exp["instruction"] == 4).all() == (setting == "imrl")

    def outputs():
        return [
            agent.g(tau_exp),
            agent.pi_exp(tau_exp)[0],
            agent.pi_exec(tau_exec, torch.zeros(64, 16))[0],
        ]

    before = outputs()
    for net in agent.decoder, agent.pi_exp.memory, agent.pi_exec.memory:
        torch.nn.init.normal_(net.reward.weight)
    changed = [not x.equal(y) for x, y in zip(before, outputs())]
    assert changed == [exploring, exploring, executing]


# --- Acting -------------------------------------------------------------------
LEFT, UP, RIGHT, DOWN, RIDE, END = range(6)


class Scripted:
    """Greedy actions (N, T), and what the policy has been shown."""

    def __init__(self, actions, num_actions=6):
        self.actions, self.shown = actions, []
        self.num_actions = num_actions

    def __call__(self, tau, state=None):
        t = len(self.shown)
        assert state == (None if t == 0 else t), "the state must be passed on"
        assert {*LIKE} <= {*tau} and tau["prev_action"].shape[1] == 1
        self.shown.append({name: x.clone() for name, x in tau.items()})
        actions = torch.tensor([row[t % len(row)] for row in self.actions])
        q = torch.nn.functional.one_hot(actions, self.num_actions).float()
        return q[:, None], t + 1


@pytest.mark.parametrize("setting", ["imrl", "standard"])
def test_a_hand_worked_episode(setting):
    """One walks to (0, 0), which pays; one is soon tired of it and ends."""
    task = envs.make("bus", 2, setting=setting)
    problem = [4 * 3, 4 * 5 + 1] if setting == "standard" else [3, 5]
    task.explore(problem)
    start = task.execute([0, 1] if setting == "imrl" else None)
    walk = 4 * [LEFT] + 4 * [DOWN]
    policy = Scripted([walk, [RIGHT, UP, END] + 5 * [LEFT]])
    tau, info = dream.act(policy, task, start, 0.0)

    assert tau["length"].tolist() == [8, 3]
    assert len(policy.shown) == 8, "it must stop once all have ended"
    # q_loss reads Q by it, so that padding must be an action, too.
    assert tau["prev_action"][0].tolist() == [6, *walk] + 12 * [0]
    assert tau["prev_action"][1, :4].tolist() == [6, RIGHT, UP, END]
    reward = torch.zeros(2, 20)
    reward[0, :7], reward[0, 7] = -0.1, 1.0
    reward[1, :3] = torch.tensor([-0.1, -0.1, -1.8])
    torch.testing.assert_close(tau["reward"], reward)
    observed = reward if setting == "standard" else torch.zeros(2, 20)
    torch.testing.assert_close(tau["prev_reward"][:, 1:], observed)
    assert (tau["prev_reward"][:, 0] == 0).all()
    walked = [(x, 4) for x in (4, 3, 2, 1, 0)] + [(0, y) for y in (3, 2, 1, 0)]
    assert tau["observation"].shape == (2, 21, 3)
    assert tau["observation"][0, :9, :2].tolist() == [*map(list, walked)]
    ended = [[4, 4], [5, 4], [5, 5], [5, 5]]
    assert tau["observation"][1, :4, :2].tolist() == ended
    asked = [0, 0] if setting == "standard" else [0, 1]
    assert tau["instruction"].shape == (2, 21, 1)
    assert (tau["instruction"][..., 0].T == torch.tensor(asked)).all()
    assert info["return"] == pytest.approx([0.3, -2.0])
    for t, shown in enumerate(policy.shown):
        for name in LIKE:
            assert shown[name].equal(tau[name][:, t : t + 1]), (t, name)


def taken(N, T, epsilon, *sticky_prob, greedy=RIGHT, env="map"):
    """What N copies do in T steps, (N, T), where `greedy` is greedy."""
    torch.manual_seed(0)
    task = envs.make(env, N)
    task.max_steps, A = T, len(task.actions)
    policy = Scripted([[greedy]] * N, A)
    tau, _ = dream.act(policy, task, task.explore(), epsilon, *sticky_prob)
    valid = dream.valid(tau["length"], T)
    return torch.where(valid, tau["prev_action"][:, 1:], -1)


def shares(actions, A):
    return [(actions == a).float().mean().item() for a in range(A)]


def test_a_random_end_is_drawn_again():
    expected = pytest.approx(5 * [35 / 36 / 5] + [1 / 36], abs=0.02)
    action = taken(4000, 2, 1.0)
    assert shares(action[:, 0], 6) == expected
    going = action[action[:, 1] >= 0]
    assert shares(going[:, 1], 6) == expected
    alike = (going[:, 0] == going[:, 1]).float().mean().item()
    assert alike == pytest.approx(5 * (35 / 180) ** 2, abs=0.03)
    # Where nothing ends an episode, all are alike.
    action = taken(4000, 1, 1.0, env="coupling")
    assert shares(action[:, 0], 8) == pytest.approx(8 * [1 / 8], abs=0.02)


def test_sticky_random_actions():
    action = taken(4000, 2, 1.0, 0.5)
    assert shares(action[:, 0], 5) == pytest.approx(5 * [0.194], abs=0.02)
    going = action[action[:, 1] >= 0]
    alike = (going[:, 0] == going[:, 1]).float().mean().item()
    assert alike == pytest.approx(0.5 + 0.5 * 0.19, abs=0.03)
    # It sticks to the last random action, also over greedy ones.
    action = taken(200, 12, 0.5, 1.0)
    for row in action:
        assert len({*row.tolist()} - {RIGHT, -1}) <= 1
    assert len({*action.flatten().tolist()} - {-1}) == 6


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
def test_epsilon_is_the_share_of_random_actions(epsilon):
    action = taken(400, 10, epsilon, greedy=UP)
    random = (action[action >= 0] != UP).float().mean().item()
    assert random == pytest.approx(epsilon * (1 - 35 / 180), abs=0.03)


# --- Replay -------------------------------------------------------------------
def numbered(first, N):
    """N trials which tell their number in each episode."""
    number = torch.arange(first, first + N)
    return (
        {"mu": number, "length": number + 1},
        {"reward": number[:, None] / 2 * torch.ones(3)},
    )


def test_executions_that_teach_exploring():
    """Of the first half of eight trials, those that knew mu."""
    number = torch.arange(8.0)

    def episode(sign):
        x = sign * (number + 1)
        each, steps = x.long(), x[:, None].repeat(1, 3)
        tau = {"observation": steps[..., None].repeat(1, 1, 2)}
        tau |= {"prev_action": steps.long(), "prev_reward": steps}
        return tau | {"length": each, "instruction": steps, "reward": steps}

    exploration, execution = episode(1) | {"mu": number}, episode(-1)
    execution["knows_mu"] = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1]) == 1
    for share, used in ((0, []), (0.5, [0, 2, 3]), (1, [0, 2, 3, 4, 6, 7])):
        tau_exp = {name: x.clone() for name, x in exploration.items()}
        tau_exec = {name: x.clone() for name, x in execution.items()}
        dream.use_executions(tau_exp, tau_exec, share)
        for name, x in tau_exp.items():
            replaced = name not in ("mu", "instruction", "reward")
            of_execution = x.reshape(8, -1)[:, 0] < 0
            expected = used if replaced else []
            assert of_execution.nonzero()[:, 0].tolist() == expected, name
            assert x.abs().equal(exploration[name].abs())
        assert all(x.equal(execution[name]) for name, x in tau_exec.items())


def test_the_replay_keeps_the_latest_trials():
    replay = dream.ReplayBuffer(10)
    replay.add(*numbered(0, 4))
    tau, _ = replay.sample(replay.draw(200))
    assert {*tau["mu"].tolist()} == {0, 1, 2, 3}, "only what has been stored"
    for first in range(4, 24, 4):
        replay.add(*numbered(first, 4))
    slots = replay.draw(500)
    tau_exp, tau_exec = replay.sample(slots)
    assert {*tau_exp["mu"].tolist()} == {*range(14, 24)}
    assert {*slots.tolist()} == {*range(10)}
    assert (tau_exp["mu"] % 10 == slots).all()
    assert tau_exp["length"].equal(tau_exp["mu"] + 1)
    assert tau_exec["reward"].shape == (500, 3)
    assert tau_exec["reward"][:, 0].equal(tau_exp["mu"] / 2)
    tau_exp["mu"] += 1
    again, _ = replay.sample(slots)
    assert again["mu"].max() == 23, "what is drawn must be a copy"


def test_the_replay_draws_in_proportion_to_priority():
    torch.manual_seed(0)
    replay = dream.ReplayBuffer(100)
    replay.add(*numbered(0, 4))
    replay.priority[:4] = torch.tensor([1.0, 0.0, 3.0, 4.0])
    slots = replay.draw(20_000)
    found = slots.bincount(minlength=4) / 20_000
    expected = torch.tensor([1 / 8, 0, 3 / 8, 1 / 2])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_new_trials_have_the_largest_priority():
    replay = dream.ReplayBuffer(8)
    replay.add(*numbered(0, 8))
    assert (replay.priority == 1).all()
    replay.priority[:] = torch.tensor([1, 2, 3, 9, 4, 5, 6, 7]) / 10
    replay.add(*numbered(8, 2))
    expected = torch.tensor([9, 9, 3, 9, 4, 5, 6, 7]) / 10
    assert replay.priority.equal(expected)
