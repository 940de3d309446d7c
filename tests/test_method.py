"""The five functions of the method, and `losses`, by numbers worked by hand.

A test needs no other function than its own: stand-ins take their place.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dream


def same(found, expected, message):
    expected = torch.as_tensor(expected, dtype=found.dtype)
    assert found.shape == expected.shape, (
        f"{message}: the shape must be {tuple(expected.shape)}, "
        f"not {tuple(found.shape)}"
    )
    assert torch.allclose(found, expected, atol=1e-5), (
        f"{message}:\n{expected}\nexpected, not\n{found}"
    )


# --- bottleneck ---------------------------------------------------------------
def test_bottleneck_without_noise():
    f = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, -2.0]], requires_grad=True)
    z, kl = dream.bottleneck(f, 0.0)
    same(z, [[3, 4], [0, 0], [1, -2]], "where rho is 0, z must be f(mu)")
    same(kl, [25, 0, 5], "the second result must be |f(mu)|^2 of each problem")
    (slope,) = torch.autograd.grad(kl.sum(), f)
    same(slope, [[6, 8], [0, 0], [2, -4]], "|f|^2 must teach f: gradient 2 f")


def test_bottleneck_noise():
    torch.manual_seed(0)
    f = torch.full((4, 50_000), 3.0, requires_grad=True)
    z, kl = dream.bottleneck(f, 0.5)
    same(kl, [450_000] * 4, "|f|^2 must be of f, not of the noisy z")
    same(f, torch.full((4, 50_000), 3.0), "f must not be changed")
    noise = (z - f).detach() / 0.5
    for row in noise:
        assert abs(row.mean()) < 0.02, "the noise must have mean 0"
        assert abs(row.std() - 1) < 0.02, "its standard deviation must be rho"
        assert abs((row**4).mean() - 3) < 0.2, "the noise must be Gaussian"
    assert abs(noise[0] @ noise[1]) / 50_000 < 0.02, (
        "each problem must have noise of its own"
    )
    again = dream.bottleneck(f, 0.5)[0]
    assert not torch.equal(z, again), "each call must draw new noise"
    (slope,) = torch.autograd.grad(z.sum(), f)
    same(slope, torch.ones_like(f), "the gradient of z must reach f")


# --- decoding_error -----------------------------------------------------------
F = [[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]]
G = [
    [[0.0, 0.0], [3.0, 1.0], [1.0, 0.5]],
    [[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]],  # one step: the last is padding
    [[-1.0, -1.0], [-1.0, 2.0], [2.0, 3.0]],
]
LENGTH = [2, 1, 2]


def test_decoding_error():
    f, g, length = torch.tensor(F), torch.tensor(G), torch.tensor(LENGTH)
    error = dream.decoding_error(f, g, length)
    assert error.shape == (3, 3), (
        "there must be T + 1 prefixes, from the empty one to the whole episode"
    )
    same(error[:, 0], [1, 4, 0], "the error of the empty prefix, g(tau_:0)")
    same(error[[0, 2], 2], [0.25, 25], "the error of a whole episode")
    same(error[1, 2], 0, "the error of padding must be 0")
    same(error, [[1, 5, 0.25], [4, 5, 0], [0, 9, 25]], "the squared distances")


def test_decoding_error_teaches_g():
    f, g = torch.tensor(F), torch.tensor(G, requires_grad=True)
    error = dream.decoding_error(f, g, torch.tensor(LENGTH))
    (slope,) = torch.autograd.grad(error.sum(), g)
    expected = 2 * (g.detach() - f[:, None])
    expected[1, 2] = 0.0
    same(slope, expected, "the gradient must be 2 (g - f), and 0 on padding")


# --- exploration_reward -------------------------------------------------------
ERROR = [[9.0, 4.0, 4.0, 1.0], [6.0, 8.0, 0.0, 0.0], [1.0, 0.5, 0.75, 0.0]]
STEPS = [3, 1, 2]


def test_exploration_reward():
    error, length = torch.tensor(ERROR), torch.tensor(STEPS)
    reward = dream.exploration_reward(error, length, 0.5)
    assert reward.shape == (3, 3), "there must be one reward for each step"
    same(reward[0], [4.5, -0.5, 2.5], "how much the error falls, less c")
    same(reward[1, 0], -2.5, "a step that misleads the decoder must cost")
    same(reward[2, :2], [0, -0.75], "the last step, too, must cost c")
    same(reward[1, 1:], [0, 0], "the reward after the end must be 0")
    same(reward[2, 2], 0, "the reward after the end must be 0")
    same(error, ERROR, "the errors must not be changed")


def test_exploration_reward_is_the_information_gained():
    error, length = torch.tensor(ERROR), torch.tensor(STEPS)
    free = dream.exploration_reward(error, length, 0.0).sum(1)
    same(free, [8, -2, 0.25], "where c is 0: the error before less that after")
    paid = dream.exploration_reward(error, length, 0.1).sum(1)
    same(paid, [7.7, -2.1, 0.05], "every step must cost c, and only steps do")


def test_exploration_reward_teaches_neither_f_nor_g():
    error = torch.tensor(ERROR, requires_grad=True)
    reward = dream.exploration_reward(error, torch.tensor(STEPS), 0.5)
    assert not reward.requires_grad, "the reward must be detached"


# --- lambda_returns -----------------------------------------------------------
REWARD = torch.tensor([[1.0, 2.0, 4.0], [-1.0, 0.0, 8.0]])
VALUE = torch.tensor([[99.0, 20.0, 40.0], [99.0, 6.0, -2.0]])


def lambda_returns(trace, gamma, T=3):
    trace = torch.tensor(trace)[:, :T]
    inputs = REWARD[:, :T].clone(), VALUE[:, :T].clone(), trace.clone()
    returns = dream.lambda_returns(*inputs, gamma)
    unchanged = zip(inputs, (REWARD[:, :T], VALUE[:, :T], trace))
    for value, before in unchanged:
        same(value, before, "what is passed must not be changed")
    return returns


def test_lambda_returns_of_one_step():
    returns = lambda_returns([[0.0, 0.0, 0.0]] * 2, 0.5)
    same(returns[:, 2], [4, 8], "nothing must come after the last step")
    expected = [[11, 22, 4], [2, -1, 8]]
    same(returns, expected, "where traces are 0: r_t + gamma v_t+1")


def test_lambda_returns_of_the_whole_episode():
    returns = lambda_returns([[1.0, 1.0, 1.0]] * 2, 0.5)
    expected = [[3, 4, 4], [1, 4, 8]]
    same(returns, expected, "where traces are 1: the discounted rewards")
    returns = lambda_returns([[1.0, 1.0, 1.0]] * 2, 1.0)
    same(returns, [[7, 6, 4], [7, 8, 8]], "where gamma is 1, too: their sum")


def test_lambda_returns_of_a_mixture():
    # G_2 = 4, G_1 = 2 + 0.5 (40 + 0.25 (4 - 40)) = 17.5,
    # G_0 = 1 + 0.5 (20 + 0.5 (17.5 - 20)) = 10.375; the trace of the first
    # step and its value mean nothing.
    returns = lambda_returns([[0.7, 0.5, 0.25], [0.7, 0.0, 1.0]], 0.5)
    same(returns[0], [10.375, 17.5, 4], "trace_t+1 must weigh G_t+1, not v_t+1")
    same(returns[1], [2, 4, 8], "each step must have the trace of the next")


def test_lambda_returns_of_a_discount_for_each_step():
    # G_2 = 4, G_1 = 2 + 0.5 * 4 = 4, G_0 = 1 + 1 * 4 = 5
    gamma = torch.tensor([[1.0, 0.5, 0.25], [0.5, 1.0, 0.25]])
    message = "gamma may be (B, T): its step t discounts what comes after t"
    returns = lambda_returns([[1.0, 1.0, 1.0]] * 2, gamma)
    same(returns, [[5, 4, 4], [3, 8, 8]], message)
    returns = lambda_returns([[0.0, 0.0, 0.0]] * 2, gamma)
    same(returns, [[21, 22, 4], [2, -2, 8]], message)


def test_lambda_returns_of_an_episode_of_one_step():
    returns = lambda_returns([[0.5] * 3] * 2, 0.9, T=1)
    same(returns, [[1], [-1]], "nothing must come after the only step")


# --- trial --------------------------------------------------------------------
N, T = 3, 2
ENDS = torch.tensor([2, 1, 2])


class Scripted:
    """A task, an agent and `act`, which say what is done with them."""

    num_envs, max_steps = N, T

    def __init__(self, monkeypatch):
        self.calls, self.noise, self.inputs = [], 0, []
        table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        decoded = 10.0 * torch.arange(N * (T + 1) * 2.0).view(N, T + 1, 2)
        self.table = table.requires_grad_()
        self.decoded = decoded.requires_grad_()
        for name in "act", "bottleneck":
            monkeypatch.setattr(dream, name, getattr(self, name))
        # pi_exec of these, and z as it is given
        self.agent = SimpleNamespace(
            f=self.f, g=self.g, pi_exp=self.pi_exp, pi_exec=self.pi_exec
        )
        std = SimpleNamespace(bottleneck_std=0.25)
        sticky = SimpleNamespace(sticky_prob=0.75)
        self.args = SimpleNamespace(dream=std, q_learning=sticky)

    def bottleneck(self, f, rho):
        assert rho == 0.25, "rho must be the standard deviation of args.dream"
        self.noise += 1000.0
        return f + self.noise, "unused"

    def f(self, mu):
        return self.table[mu]

    def g(self, tau):
        assert tau["episode"] == 0, "g must be given the exploration episode"
        return self.decoded

    def pi_exp(self, tau, z=None, state=None):
        assert z is None, "exploration must not see z"
        return "exploration", None

    def pi_exec(self, tau, z=None, state=None):
        assert z.shape == (N, 2), "z must be (N, Z)"
        assert not z.requires_grad, "acting must not keep gradients"
        return z, None

    # The task

    def explore(self, problem=None, instruction=None):
        self.calls.append(("explore", problem, instruction))
        self.problem = [2, 0, 1] if problem is None else problem
        return "start", len(self.calls)

    def execute(self, instruction=None):
        self.calls.append(("execute", instruction))
        return "start", len(self.calls)

    def act(self, policy, task, start, epsilon, sticky_prob=0.0, **given):
        assert task is self, "act must be given the task as it is"
        assert start == ("start", len(self.calls)), (
            "an episode must be acted right after its own beginning"
        )
        episode = len(self.calls) // 2
        sticks = 0.75 if episode else 0.0
        message = "random actions must be sticky in execution, and only there"
        assert sticky_prob == sticks, message
        self.calls.append(("act", epsilon))
        self.inputs.append(policy({"episode": episode}, state=None, **given)[0])
        info = {"problem": np.array(self.problem), "episode": episode}
        return {"episode": episode, "length": ENDS}, info


def play(monkeypatch, mu, instructions, knows_mu, epsilons=(0.5, 0.25)):
    it = Scripted(monkeypatch)
    knows_mu = torch.tensor(knows_mu)
    result = dream.trial(
        it.agent, it.args, it, mu, instructions, knows_mu, epsilons
    )
    return it, *result


def test_trial_explores_then_executes_each_instruction(monkeypatch):
    mu, asked = [1, 1, 0], ["none", "first", "second"]
    it, tau_exp, tau_execs, infos = play(monkeypatch, mu, asked, [False] * N)
    assert it.calls == [
        ("explore", mu, "none"),
        ("act", 0.5),
        ("execute", "first"),
        ("act", 0.25),
        ("execute", "second"),
        ("act", 0.25),
    ], "it must explore once in mu, then execute each further instruction"
    assert asked == ["none", "first", "second"], "it must stay as it was"
    assert isinstance(it.inputs[0], str), "pi_exp must explore"
    assert tau_exp["episode"] == 0, "the first result must be tau_exp"
    assert len(tau_execs) == 2, "there must be a tau_exec of each execution"
    for k, tau in enumerate(tau_execs):
        assert tau["episode"] == k + 1, "tau_execs must be in order"
    assert [info["episode"] for info in infos] == [0, 1, 2], (
        "there must be one info of each episode, in order"
    )


def test_trial_explores_only(monkeypatch):
    it, _, tau_execs, infos = play(monkeypatch, [0] * N, [None], [False] * N)
    assert len(it.calls) == 2, "without a further instruction: explore only"
    assert tau_execs == [], "there must be a tau_exec of each execution"
    assert len(infos) == 1, "there must be one info of each episode"


def test_trial_in_problems_that_the_task_draws(monkeypatch):
    it, tau_exp, (tau_exec,), _ = play(
        monkeypatch, None, [None, None], [True, False, True]
    )
    message = "a problem or instruction of None must be left to the task"
    assert it.calls[0] == ("explore", None, None), message
    assert it.calls[2] == ("execute", None), message
    same(tau_exp["mu"], [2, 0, 1], "tau_exp must say its problems")
    same(
        tau_exec["knows_mu"],
        [True, False, True],
        "tau_exec must say which know",
    )


def test_trial_tests_without_mu(monkeypatch):
    it, *_ = play(monkeypatch, [2, 0, 1], [None, "a", "b"], [False] * N)
    expected = [[40, 50], [80, 90], [160, 170]]
    for z in it.inputs[1:]:
        same(z, expected, "z must be g at the end of tau_exp, without noise")


def test_trial_trains_with_mu_in_one_half(monkeypatch):
    knows_mu = [True, False, True]
    it, *_ = play(monkeypatch, None, [None, "a", "b"], knows_mu)
    expected = [[1005, 1006], [80, 90], [1003, 1004]]
    message = "z must be f + noise where mu is known, g of tau_exp elsewhere"
    same(it.inputs[1], expected, message)
    same(it.inputs[2], expected, "all executions of a trial must have one z")


# --- losses -------------------------------------------------------------------
def arguments(**q_learning):
    args = dream.Args()
    args.dream.bottleneck_coef, args.dream.step_penalty = 0.5, 0.125
    args.dream.bottleneck_std = 0.75
    vars(args.q_learning).update({"hidden_size": 4} | q_learning)
    return args


def stand_ins(monkeypatch, **functions):
    for name, function in functions.items():
        monkeypatch.setattr(dream, name, function)


@pytest.mark.parametrize("explore", [True, False])
def test_losses(monkeypatch, explore):
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    decoded = torch.arange(12.0).view(2, 3, 2).requires_grad_()
    steps = torch.tensor([2, 1])
    errors = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    gained = torch.tensor([[0.5, 0.25], [0.125, 0.0]])
    paid = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    tau_exp = {"mu": torch.tensor([2, 0]), "length": steps}
    tau_exec = {"knows_mu": torch.tensor([True, False]), "reward": paid}
    options, given = arguments(), []

    def bottleneck(f, rho):
        same(f, [[5, 6], [1, 2]], "f must be looked up by mu")
        assert rho == options.dream.bottleneck_std, "rho is of the arguments"
        return f + 100.0, torch.tensor([6.0, 8.0])

    def decoding_error(f, g, length):
        same(f, [[5, 6], [1, 2]], "f must be looked up by mu")
        assert not f.requires_grad, "the decoder must not teach f"
        same(g, decoded, "the decoder must read tau_exp")
        same(length, steps, "the length must be that of tau_exp")
        return errors

    def exploration_reward(error, length, c):
        same(error, errors, "exploration is paid by the decoding error")
        same(length, steps, "the length must be that of tau_exp")
        assert c == 0.125, "the price c must be the step_penalty of args.dream"
        return gained

    def q_loss(policy, target, tau, reward, args, z=None):
        given.append((policy, target, tau, reward, z))
        return torch.tensor([1.5 if policy == "pi_exec" else 2.5, 7.0])

    stand_ins(
        monkeypatch,
        bottleneck=bottleneck,
        decoding_error=decoding_error,
        exploration_reward=exploration_reward,
        q_loss=q_loss,
    )
    f = torch.nn.Embedding.from_pretrained(table, freeze=False)
    agent = SimpleNamespace(
        f=f, g=lambda tau: decoded, pi_exec="pi_exec", pi_exp="pi_exp"
    )
    target = SimpleNamespace(pi_exec="average exec", pi_exp="average exp")
    loss = dream.losses(agent, target, tau_exp, tau_exec, options, explore)

    named = ["bottleneck", "decoder", "execution"] + explore * ["exploration"]
    message = f"the losses must be {named}, not {sorted(loss)}"
    assert sorted(loss) == named, message
    same(loss["bottleneck"], [3, 4], "the bottleneck must cost beta |f|^2")
    # (2 + 1 + 1 + 1) / 2 prefixes in a trial on the average
    same(loss["decoder"], [2.4, 3.6], "the error of all prefixes, summed")
    given.sort(key=lambda x: x[0])  # they may be called in any order
    policy, average, tau, reward, z = given[0]
    message = "execution is of pi_exec, its average, and tau_exec"
    assert (policy, average) == ("pi_exec", "average exec"), message
    assert tau is tau_exec, message
    same(reward, paid, "execution must earn what the task pays")
    expected = [[105, 106], [8, 9]]
    same(z, expected, "z must be f + noise where mu is known, g elsewhere")
    assert z.requires_grad, "execution must teach f through z"
    same(loss["execution"], [1.5, 7], "the loss of pi_exec")
    message = "q_loss is called once, and once more where `explore`"
    assert len(given) == 1 + explore, message
    if explore:
        policy, average, tau, reward, z = given[1]
        message = "exploration is of pi_exp, its average, and tau_exp"
        assert (policy, average) == ("pi_exp", "average exp"), message
        assert tau is tau_exp, message
        assert z is None, "exploration must not see z"
        same(reward, gained, "exploration must earn what a step tells")
        same(loss["exploration"], [2.5, 7], "the loss of pi_exp")


def test_losses_teach(monkeypatch):
    """Which of the four networks, and of their averages, each loss changes."""
    stand_ins(
        monkeypatch,
        bottleneck=lambda f, rho: (f + 1.0, 3 * f.sum(1)),
        decoding_error=lambda f, g, length: f.sum(1, keepdim=True) - g.sum(2),
        exploration_reward=lambda error, length, c: error.detach()[:, 1:],
        lambda_returns=lambda reward, value, trace, gamma: reward + value,
    )
    torch.manual_seed(0)
    B, T, args = 6, 2, arguments()
    task = dream.envs.make("bus", B)
    task.max_steps = T
    agent, target = dream.Dream(task, args), dream.Dream(task, args)
    tau = {
        "observation": torch.randint(2, (B, T + 1, 3)),
        "instruction": torch.randint(4, (B, T + 1, 1)),
        "prev_action": torch.randint(6, (B, T + 1)),
        "prev_reward": torch.zeros(B, T + 1),
        "reward": torch.randn(B, T),
        "length": torch.full((B,), T),
        "mu": torch.arange(B),
        "knows_mu": torch.arange(B) < 3,
    }
    loss = dream.losses(agent, target, tau, tau, args)
    assert all(x.shape == (B,) for x in loss.values()), (
        "a loss must have one number for each trial"
    )
    networks = {
        "f": [agent.f], "g": [agent.decoder, agent.decoded],
        "pi_exec": [agent.pi_exec], "pi_exp": [agent.pi_exp],
        "average": [target],
    }  # fmt: skip
    taught = {name: set() for name in loss}
    for name, x in loss.items():
        for network, modules in networks.items():
            weights = [p for module in modules for p in module.parameters()]
            slopes = torch.autograd.grad(
                x.sum(), weights, retain_graph=True, allow_unused=True
            )
            if any(s is not None and s.abs().sum() > 0 for s in slopes):
                taught[name].add(network)
    expected = {
        "bottleneck": {"f"},
        "decoder": {"g"},
        "execution": {"pi_exec", "f", "g"},
        "exploration": {"pi_exp"},
    }
    message = f"the losses must teach {expected}, not {taught}"
    assert taught == expected, message
