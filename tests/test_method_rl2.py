"""The functions of RL^2, section 3 of rl2.py, by numbers worked by hand.

A test needs no other function than its own: stand-ins take their place.
"""

from types import SimpleNamespace

import torch

import rl2


def same(found, expected, message):
    expected = torch.as_tensor(expected, dtype=found.dtype)
    assert found.shape == expected.shape, (
        f"{message}: the shape must be {tuple(expected.shape)}, "
        f"not {tuple(found.shape)}"
    )
    assert torch.allclose(found, expected, atol=1e-5), (
        f"{message}:\n{expected}\nexpected, not\n{found}"
    )


def options(**q_learning):
    args = rl2.Args()
    vars(args.q_learning).update({"gamma": 0.5, "q_lambda": 0.75} | q_learning)
    return args


# Three trials of at most three steps: explorations of 2, 1 and 3, executions of
# 1, 3 and 2 steps. The number of a step says where it is from; 9 is padding.
EXP = [[10, 11, 12, 9], [20, 21, 9, 9], [30, 31, 32, 33]]
EXEC = [[15, 16, 9, 9], [25, 26, 27, 28], [35, 36, 37, 9]]
JOINED = [
    [10, 11, 12, 15, 16],
    [20, 21, 25, 26, 27, 28],
    [30, 31, 32, 33, 35, 36, 37],
]
ENDS = torch.tensor([2, 1, 3]), torch.tensor([1, 3, 2])
OF_EXP = [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [8.0, 9.0, 10.0]]  # rewards
OF_EXEC = [[4.0, 0.0, 0.0], [5.0, 6.0, 7.0], [11.0, 12.0, 0.0]]


def episode(numbers, length, reward):
    numbers = torch.tensor(numbers)
    tau = {"observation": numbers[..., None].repeat(1, 1, 2)}
    tau |= {"instruction": numbers[..., None] + 100}
    tau |= {"prev_action": numbers + 200, "prev_reward": numbers / 2}
    return tau | {"reward": torch.tensor(reward), "length": length}


# --- join ---------------------------------------------------------------------
def join():
    tau_exp = episode(EXP, ENDS[0], OF_EXP)
    tau = rl2.join(tau_exp, episode(EXEC, ENDS[1], OF_EXEC))
    named = {*rl2.READ, "reward", "length", "explored"}
    message = f"the trial must have {sorted(named)}, not {sorted(tau)}"
    assert {*tau} == named, message
    return tau


def test_join():
    tau = join()
    message = "the length is that of both, and 1 from one to the other"
    same(tau["length"], [4, 5, 6], message)
    same(tau["explored"], [2, 1, 3], "explored is the length of exploration")
    for b, numbers in enumerate(JOINED):
        n, expected = len(numbers), torch.tensor(numbers)
        message = f"of trial {b}: both episodes, without padding between them"
        same(tau["prev_action"][b, :n], expected + 200, message)
        same(tau["prev_reward"][b, :n], expected / 2, message)
        same(tau["instruction"][b, :n, 0], expected + 100, message)
        twice = expected[:, None].repeat(1, 2)
        same(tau["observation"][b, :n], twice, message)


def test_join_of_rewards():
    reward = join()["reward"]
    assert reward.shape == (3, 7), "reward, too, must be (B, L + 1)"
    message = "the step from exploration to execution must earn nothing"
    same(reward[[0, 1, 2], ENDS[0]], [0, 0, 0], message)
    message = "each step must earn what it has earned in its own episode"
    same(reward[0, :4], [1, 2, 0, 4], message)
    same(reward[1, :5], [3, 0, 5, 6, 7], message)
    same(reward[2, :6], [8, 9, 10, 0, 11, 12], message)
    message = "what comes after the trial must earn nothing"
    same(reward[0, 4:], [0, 0, 0], message)
    same(reward[1, 5:], [0, 0], message)
    same(reward[2, 6:], [0], message)


def test_join_is_no_longer_than_the_longest_trial():
    tau = join()
    for name in "observation", "instruction", "prev_action", "prev_reward":
        message = f"{name}: L must be the greatest length, and 1"
        assert tau[name].shape[:2] == (3, 7), message


# --- lambda_returns -----------------------------------------------------------
REWARD = torch.tensor([[1.0, 2.0, 4.0], [-1.0, 0.0, 8.0]])
VALUE = torch.tensor([[99.0, 20.0, 40.0], [99.0, 6.0, -2.0]])


def lambda_returns(trace, gamma):
    inputs = REWARD.clone(), VALUE.clone(), torch.tensor(trace)
    returns = rl2.lambda_returns(*inputs, gamma)
    unchanged = zip(inputs, (REWARD, VALUE, trace))
    for found, before in unchanged:
        same(found, before, "what is passed must not be changed")
    return returns


def test_lambda_returns_of_one_step():
    returns = lambda_returns([[0.0, 0.0, 0.0]] * 2, 0.5)
    expected = [[11, 22, 4], [2, -1, 8]]
    same(returns, expected, "where traces are 0: r_t + gamma v_t+1")


def test_lambda_returns_of_the_whole_episode():
    returns = lambda_returns([[1.0, 1.0, 1.0]] * 2, 0.5)
    expected = [[3, 4, 4], [1, 4, 8]]
    same(returns, expected, "where traces are 1: the discounted rewards")


def test_lambda_returns_of_a_mixture():
    returns = lambda_returns([[0.7, 0.5, 0.25], [0.7, 0.0, 1.0]], 0.5)
    same(returns[0], [10.375, 17.5, 4], "trace_t+1 must weigh G_t+1, not v_t+1")
    same(returns[1], [2, 4, 8], "each step must have the trace of the next")


def test_lambda_returns_of_a_discount_for_each_step():
    gamma = torch.tensor([[1.0, 0.5, 0.25], [0.5, 1.0, 0.25]])
    message = "gamma may be (B, T): its step t discounts what comes after t"
    returns = lambda_returns([[1.0, 1.0, 1.0]] * 2, gamma)
    same(returns, [[5, 4, 4], [3, 8, 8]], message)
    returns = lambda_returns([[0.0, 0.0, 0.0]] * 2, gamma)
    same(returns, [[21, 22, 4], [2, -2, 8]], message)


# --- q_losses -----------------------------------------------------------------
# Two joined trials, with the actions 0 and 1, and 2 for none: explorations of 2
# steps and 1, the step between, and executions of 1 step and 3. What the
# average thinks best is never what Q thinks best.
Q = [
    [[5.0, 1], [1, 3], [2, 4], [6, 2], [1, 2], [0, 1]],
    [[1.0, 2], [3, 1], [4, 0], [7, 5], [0, 8], [9, 1]],
]
AVERAGE = [
    [[50.0, 60], [30, 10], [71, 61], [20, 40], [50, 40], [72, 62]],
    [[70.0, 60], [51, 81], [11, 70], [12, 80], [90, 13], [52, 82]],
]
ACTIONS = [[2, 0, 1, 2, 1, 0], [2, 1, 2, 0, 1, 0]]  # before each step
EARNED = [[1.0, 2, 0, 4, 0, 0], [3.0, 0, 5, 6, 7, 0]]
# What lambda_returns says: 99 where nothing must be learned
RETURNS = [[2.0, 0, 99, 4, 99], [5.0, 99, 2, 6, 3]]


def q_losses(monkeypatch, **q_learning):
    """Q, the losses, and {name: what lambda_returns was given}."""
    q = torch.tensor(Q, requires_grad=True)
    tau = {"prev_action": torch.tensor(ACTIONS), "reward": torch.tensor(EARNED)}
    tau |= {"length": torch.tensor([4, 5]), "explored": torch.tensor([2, 1])}
    calls = []

    def lambda_returns(reward, value, trace, gamma):
        given = {"reward": reward, "value": value, "trace": trace}
        given["gamma"] = torch.as_tensor(gamma).expand_as(reward)
        calls.append({name: x.float() for name, x in given.items()})
        return torch.tensor(RETURNS)

    monkeypatch.setattr(rl2, "lambda_returns", lambda_returns)
    args = options(**q_learning)
    loss = rl2.q_losses(q, torch.tensor(AVERAGE), tau, args)
    message = "lambda_returns must be called once, for the whole trials"
    assert len(calls) == 1, message
    for name, x in calls[0].items():
        message = f"{name} must be (B, L), without the last observation"
        assert x.shape == (2, 5), message
        assert not x.requires_grad, f"{name} must not learn: it has a gradient"
    return q, loss, calls[0]


def test_q_losses_of_rewards(monkeypatch):
    *_, given = q_losses(monkeypatch)
    expected = [[1, 2, 0, 4, 0], [3, 0, 5, 6, 7]]
    message = "each step must earn its own reward, also while it explores"
    same(given["reward"], expected, message)


def test_q_losses_of_values(monkeypatch):
    value = q_losses(monkeypatch)[2]["value"]
    message = "v is what the average says of the action that Q thinks best"
    same(value[0, [1, 3]], [10, 20], message)
    same(value[1, 2:], [11, 12, 13], message)
    same(value[0, 4], 0, "v must be 0 after the end")


def test_q_losses_of_traces(monkeypatch):
    """Of the first step, and after the end, the trace does not matter."""
    trace = q_losses(monkeypatch)[2]["trace"]
    message = "on the step between, the trace must be 1, and never be cut"
    same(trace[[0, 1], [2, 1]], [1, 1], message)
    message = "where Q thinks the action best, the trace must be lambda"
    same(trace[[0, 1], [1, 2]], [0.75, 0.75], message)
    message = "where Q thinks another action best, the trace must be 0"
    same(trace[[0, 1, 1], [3, 3, 4]], [0, 0, 0], message)


def test_q_losses_of_traces_that_are_not_cut(monkeypatch):
    trace = q_losses(monkeypatch, cut_traces=False)[2]["trace"]
    message = "without args.q_learning.cut_traces, it must always be lambda"
    same(trace[0, [1, 3]], [0.75, 0.75], message)
    same(trace[1, 2:], [0.75, 0.75, 0.75], message)
    message = "on the step between, the trace must be 1, not lambda"
    same(trace[[0, 1], [2, 1]], [1, 1], message)


def test_q_losses_of_discounts(monkeypatch):
    """Of the last step, and after the end, the discount does not matter."""
    gamma = q_losses(monkeypatch)[2]["gamma"]
    message = "there must be no discount while it explores"
    same(gamma[0, :2], [1, 1], message)
    same(gamma[1, :1], [1], message)
    message = "there must be no discount on the step between"
    same(gamma[[0, 1], [2, 1]], [1, 1], message)
    message = "execution must have the discount of args"
    same(gamma[1, 2:4], [0.5, 0.5], message)


def test_q_losses(monkeypatch):
    _, loss, _ = q_losses(monkeypatch)
    named = ["execution", "exploration"]
    message = f"the losses must be {named}, not {sorted(loss)}"
    assert sorted(loss) == named, message
    # (3^2 + 3^2, 3^2) / 1.5 and (2^2, 2^2 + 1^2 + 3^2) / 2
    message = "squared errors, summed, divided by the mean length of {}s"
    same(loss["exploration"], [12, 6], message.format("exploration"))
    same(loss["execution"], [2, 7], message.format("execution"))


def test_q_losses_teach(monkeypatch):
    q, loss, _ = q_losses(monkeypatch)
    expected = {name: torch.zeros(2, 6, 2) for name in loss}
    expected["exploration"][[0, 0, 1], [0, 1, 0], [0, 1, 1]] = torch.tensor(
        [4.0, 4.0, -4.0]
    )
    expected["execution"][[0, 1, 1, 1], [3, 2, 3, 4], [1, 0, 1, 0]] = (
        torch.tensor([-2.0, 2.0, -1.0, -3.0])
    )
    for name, x in loss.items():
        (slope,) = torch.autograd.grad(x.sum(), q, retain_graph=True)
        message = (
            f"{name} must teach Q of the actions taken in it, and not that of "
            "the step between or of padding"
        )
        same(slope, expected[name], message)


# --- losses -------------------------------------------------------------------
def test_losses(monkeypatch):
    taus, given = ({"exp": 1}, {"exec": 2}), options()

    def join(tau_exp, tau_exec):
        assert (tau_exp, tau_exec) == taus, "both episodes, in their order"
        return "joined"

    def q_losses(q, target_q, tau, args):
        message = "the first Q must be the agent's, and teach it"
        assert q.requires_grad and q.item() == 3, message
        message = "the second Q must be the average's, without gradient"
        assert not target_q.requires_grad and target_q.item() == 4, message
        assert tau == "joined", "what is learned from is the joined trial"
        assert args is given, "the arguments must be passed on as they are"
        return "losses"

    def network(value):
        value = torch.tensor(value, requires_grad=True)

        def q(tau, state=None, carried=None):
            assert tau == "joined", "Q is of the joined trial"
            assert state is None and carried is None, "it starts from nothing"
            return 1 * value, "state"

        return q

    monkeypatch.setattr(rl2, "join", join)
    monkeypatch.setattr(rl2, "q_losses", q_losses)
    losses = rl2.losses(network(3.0), network(4.0), *taus, given)
    assert losses == "losses", "the result must be that of q_losses"


# --- remember -----------------------------------------------------------------
def counter(tau, state=None):
    """A memory that adds up the actions before, and counts the steps."""
    message = "the memory must read one step at a time"
    assert tau["prev_action"].shape[1] == 1, message
    message = "the memory must be given all that it reads, and only that"
    assert {*tau} == {*rl2.READ}, message
    total, steps = state or torch.zeros(2, 1, 3, 1)
    total = total + tau["prev_action"][None].float()
    return "what is known", (total, steps + 1)


def test_remember_starts_from_nothing():
    tau = episode(EXP, ENDS[0], OF_EXP)
    total, steps = rl2.remember(counter, tau, None)
    message = "each copy must read its episode up to its last observation"
    same(steps, [[[3], [2], [4]]], message)
    same(total, [[[633], [441], [926]]], message)


def test_remember_goes_on():
    state = [torch.full((1, 3, 1), 1000.0), torch.full((1, 3, 1), 50.0)]
    tau = episode(EXP, ENDS[0], OF_EXP)
    total, steps = rl2.remember(counter, tau, state)
    message = "it must go on from the memory before the episode"
    same(steps, [[[53], [52], [54]]], message)
    same(total, [[[1633], [1441], [1926]]], message)
    message = "the memory before the episode must not be changed"
    same(state[0], [[[1000], [1000], [1000]]], message)


# --- trial --------------------------------------------------------------------
class Scripted:
    """A task, an agent, `act` and `remember`, which say what is done."""

    memory = "memory"
    args = SimpleNamespace(q_learning=SimpleNamespace(sticky_prob=0.75))

    def __init__(self, monkeypatch):
        self.calls, self.carried = [], []
        monkeypatch.setattr(rl2, "act", self.act)
        monkeypatch.setattr(rl2, "remember", self.remember)

    def explore(self, problem=None, instruction=None):
        self.calls.append(("explore", problem, instruction))
        return "start", len(self.calls)

    def execute(self, instruction=None):
        self.calls.append(("execute", instruction))
        return "start", len(self.calls)

    def __call__(self, tau, state=None, carried=None):
        self.carried.append(carried)

    def act(self, policy, task, start, epsilon, sticky_prob=0.0, **given):
        assert task is self, "act must be given the task as it is"
        message = "an episode must be acted right after its own beginning"
        assert start == ("start", len(self.calls)), message
        self.calls.append(("act", epsilon))
        policy("tau", state=None, **given)
        k = len(self.carried) - 1
        message = "random actions must be sticky in execution, and only there"
        assert sticky_prob == (0.75 if k else 0.0), message
        return {"episode": k}, {"info": k}

    def remember(self, memory, tau, state):
        assert memory == "memory", "what remembers is the memory of the agent"
        return [*(state or []), tau["episode"]]


def test_trial(monkeypatch):
    it, asked = Scripted(monkeypatch), ["none", "a", "b"]
    tau_exp, tau_execs, infos = rl2.trial(it, it.args, it, "mu", asked, (1, 2))
    message = "it must explore once in mu, then execute each instruction"
    expected = [("explore", "mu", "none"), ("act", 1), ("execute", "a")]
    expected += [("act", 2), ("execute", "b"), ("act", 2)]
    assert it.calls == expected, message
    assert tau_exp == {"episode": 0}, "the first result must be tau_exp"
    message = "there must be a tau_exec of each execution, in order"
    assert tau_execs == [{"episode": 1}, {"episode": 2}], message
    message = "there must be one info of each episode, in order"
    assert infos == [{"info": 0}, {"info": 1}, {"info": 2}], message


def test_trial_carries_its_memory(monkeypatch):
    it = Scripted(monkeypatch)
    rl2.trial(it, it.args, it, None, [None, None, None], (0, 0))
    assert it.carried[0] is None, "exploration starts from nothing"
    message = "an execution must start from the memory of all episodes before"
    assert it.carried[1:] == [[0], [0, 1]], message


def test_trial_explores_only(monkeypatch):
    it = Scripted(monkeypatch)
    _, tau_execs, infos = rl2.trial(it, it.args, it, None, [None], (0, 0))
    message = "without a further instruction: explore only"
    assert tau_execs == [] and len(infos) == 1, message
