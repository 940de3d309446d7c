"""The functions of RL^2, section 3 of rl2.py, by numbers worked by hand.

A test needs no other function than its own: stand-ins take their place.
"""

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


def options(gamma=0.5):
    args = rl2.Args()
    args.q_learning.gamma = gamma
    return args


# Two trials of at most three steps: explorations of 2 and 1, executions of 1
# and 3 steps. The number of a step says where it is from; 9 is padding.
EXP = [[10, 11, 12, 9], [20, 21, 9, 9]]
EXEC = [[15, 16, 9, 9], [25, 26, 27, 28]]
JOINED = [[10, 11, 12, 15, 16], [20, 21, 25, 26, 27, 28]]
ENDS = torch.tensor([2, 1]), torch.tensor([1, 3])


def episode(numbers, length):
    numbers = torch.tensor(numbers)
    tau = {"observation": numbers[..., None].repeat(1, 1, 2)}
    tau |= {"instruction": numbers[..., None] + 100}
    tau |= {"prev_action": numbers + 200, "prev_reward": numbers / 2}
    return tau | {"reward": torch.zeros(2, 3), "length": length}


# --- join ---------------------------------------------------------------------
def test_join():
    tau_exp, tau_exec = episode(EXP, ENDS[0]), episode(EXEC, ENDS[1])
    tau = rl2.join(tau_exp, tau_exec)
    message = "the length is that of both, and 1 from one to the other"
    same(tau["length"], [4, 5], message)
    for b, numbers in enumerate(JOINED):
        n, expected = len(numbers), torch.tensor(numbers)
        message = f"of trial {b}: both episodes, without padding between them"
        same(tau["prev_action"][b, :n], expected + 200, message)
        same(tau["prev_reward"][b, :n], expected / 2, message)
        same(tau["instruction"][b, :n, 0], expected + 100, message)
        twice = expected[:, None].repeat(1, 2)
        same(tau["observation"][b, :n], twice, message)


def test_join_is_no_longer_than_the_longest_trial():
    tau = rl2.join(episode(EXP, ENDS[0]), episode(EXEC, ENDS[1]))
    for name in "observation", "instruction", "prev_action", "prev_reward":
        message = f"{name}: L must be the greatest length, and 1"
        assert tau[name].shape[:2] == (2, 6), message


# --- split --------------------------------------------------------------------
def test_split():
    x = torch.tensor([[10, 11, 12, 15, 16, 9], JOINED[1]])
    of_exp, of_exec = rl2.split(x, episode(EXP, ENDS[0]))
    message = "both results must be (B, T + 1)"
    assert of_exp.shape == of_exec.shape == (2, 4), message
    same(of_exp[0, :3], [10, 11, 12], "exploration begins with the trial")
    same(of_exp[1, :2], [20, 21], "exploration begins with the trial")
    message = "execution begins after the last observation of exploration"
    same(of_exec[0, :2], [15, 16], message)
    same(of_exec[1], [25, 26, 27, 28], message)


def test_split_keeps_what_comes_after_the_second_axis():
    x = torch.arange(36.0).view(2, 6, 3).requires_grad_()
    of_exp, of_exec = rl2.split(x, episode(EXP, ENDS[0]))
    same(of_exp[1, 1], x[1, 1], "all of a step must be kept")
    same(of_exec[1, 3], x[1, 5], "all of a step must be kept")
    assert of_exec.requires_grad, "the gradient must reach x"


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


# --- worth_of_start -----------------------------------------------------------
def test_worth_of_start(monkeypatch):
    """Values 6 and -2, returns 10 and 4, of which 1/4 and nothing count."""
    paid = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    values = torch.tensor([[6.0, 99.0], [-2.0, 99.0]])
    traces = torch.tensor([[0.25, 0.5], [0.0, 0.5]])
    tau, args = {"reward": paid}, options(gamma=0.75)

    def value_and_trace(q, target_q, tau, args):
        message = "value_and_trace must be given Q and its average, in order"
        assert (q, target_q) == ("q", "average"), message
        return values, traces

    def returns_of(reward, value, trace, gamma):
        same(reward, paid, "the reward must be that of the execution")
        same(value, values, "the values must be those of value_and_trace")
        same(trace, traces, "the traces must be those of value_and_trace")
        assert gamma == 0.75, "gamma must be that of args"
        return torch.tensor([[10.0, 77.0], [4.0, 77.0]])

    monkeypatch.setattr(rl2, "value_and_trace", value_and_trace)
    monkeypatch.setattr(rl2, "lambda_returns", returns_of)
    start = rl2.worth_of_start("q", "average", tau, args)
    message = "v_0 + trace_0 (G_0 - v_0): the trace is the part of the return"
    same(start, [7, -2], message)


# --- q_losses -----------------------------------------------------------------
def test_q_losses(monkeypatch):
    """Explorations of 2 and 1 steps; execution is worth 5 and 7."""
    tau_exp = {"reward": torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])}
    tau_exp["length"] = torch.tensor([2, 1])
    tau_exec = {"reward": torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 1.0]])}
    tau_exec["length"], calls = torch.tensor([3, 3]), []

    def worth_of_start(q, target_q, tau, args):
        message = "what is worth something is the start of the execution"
        assert (q, target_q) == ("q of exec", "average of exec"), message
        assert tau is tau_exec, message
        return torch.tensor([5.0, 7.0])

    def td_loss(q, target_q, tau, reward, gamma, args):
        calls.append((q, target_q, tau, reward, gamma))
        return f"loss of {q.split()[-1]}"

    stand_ins = {
        "split": lambda x, tau_exp: (f"{x} of exp", f"{x} of exec"),
        "worth_of_start": worth_of_start,
        "td_loss": td_loss,
    }
    for name, function in stand_ins.items():
        monkeypatch.setattr(rl2, name, function)
    losses = rl2.q_losses("q", "average", tau_exp, tau_exec, options())

    expected = {"execution": "loss of exec", "exploration": "loss of exp"}
    message = f"the losses must be {expected}, not {losses}"
    assert losses == expected, message
    of_exp, of_exec = sorted(calls, key=lambda call: call[0] == "q of exec")
    message = "an episode's loss is of its own part of Q and of the average"
    assert of_exp[:2] == ("q of exp", "average of exp"), message
    assert of_exec[:2] == ("q of exec", "average of exec"), message
    message = "an episode's loss is of its own tau"
    assert of_exp[2] is tau_exp and of_exec[2] is tau_exec, message
    same(of_exec[3], tau_exec["reward"], "execution must earn its reward")
    assert of_exec[4] == 0.5, "execution has the discount of args"
    message = "the last step of exploration also earns what execution is worth"
    same(of_exp[3], [[1, 7, 0], [10, 0, 0]], message)
    assert of_exp[4] == 1.0, "exploration must have no discount"
    message = "what is passed must not be changed"
    same(tau_exp["reward"], [[1, 2, 0], [3, 0, 0]], message)


# --- losses -------------------------------------------------------------------
def test_losses(monkeypatch):
    taus, args = ({"exp": 1}, {"exec": 2}), options()

    def join(tau_exp, tau_exec):
        assert (tau_exp, tau_exec) == taus, "both episodes, in their order"
        return "joined"

    def q_losses(q, target_q, tau_exp, tau_exec, args):
        message = "the first Q must be the agent's, and teach it"
        assert q.requires_grad and q.item() == 3, message
        message = "the second Q must be the average's, without gradient"
        assert not target_q.requires_grad and target_q.item() == 4, message
        assert (tau_exp, tau_exec) == taus, "both episodes, in their order"
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
    losses = rl2.losses(network(3.0), network(4.0), *taus, args)
    assert losses == "losses", "the result must be that of q_losses"


# --- remember -----------------------------------------------------------------
def counter(tau, state=None):
    """A memory that adds up the actions before, and counts the steps."""
    message = "the memory must read one step at a time"
    assert tau["prev_action"].shape[1] == 1, message
    message = "the memory must be given all that it reads, and only that"
    assert {*tau} == {*rl2.READ}, message
    total, steps = state or torch.zeros(2, 1, 2, 1)
    total = total + tau["prev_action"][None].float()
    return "what is known", (total, steps + 1)


def test_remember_starts_from_nothing():
    total, steps = rl2.remember(counter, episode(EXP, ENDS[0]), None)
    message = "each copy must read its episode up to its last observation"
    same(steps, [[[3], [2]]], message)
    same(total, [[[633], [441]]], message)


def test_remember_goes_on():
    state = [torch.full((1, 2, 1), 1000.0), torch.full((1, 2, 1), 50.0)]
    total, steps = rl2.remember(counter, episode(EXP, ENDS[0]), state)
    message = "it must go on from the memory before the episode"
    same(steps, [[[53], [52]]], message)
    same(total, [[[1633], [1441]]], message)
    message = "the memory before the episode must not be changed"
    same(state[0], [[[1000], [1000]]], message)


# --- trial --------------------------------------------------------------------
class Scripted:
    """A task, an agent, `act` and `remember`, which say what is done."""

    memory = "memory"

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

    def act(self, policy, task, start, epsilon, args):
        message = "act must be given task and args as they are"
        assert task is self and args == "args", message
        message = "an episode must be acted right after its own beginning"
        assert start == ("start", len(self.calls)), message
        self.calls.append(("act", epsilon))
        policy("tau", state=None)
        k = len(self.carried) - 1
        return {"episode": k}, {"info": k}

    def remember(self, memory, tau, state):
        assert memory == "memory", "what remembers is the memory of the agent"
        return [*(state or []), tau["episode"]]


def test_trial(monkeypatch):
    it, asked = Scripted(monkeypatch), ["none", "a", "b"]
    tau_exp, tau_execs, infos = rl2.trial(it, "args", it, "mu", asked, (1, 2))
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
    rl2.trial(it, "args", it, None, [None, None, None], (0, 0))
    assert it.carried[0] is None, "exploration starts from nothing"
    message = "an execution must start from the memory of all episodes before"
    assert it.carried[1:] == [[0], [0, 1]], message


def test_trial_explores_only(monkeypatch):
    it = Scripted(monkeypatch)
    _, tau_execs, infos = rl2.trial(it, "args", it, None, [None], (0, 0))
    message = "without a further instruction: explore only"
    assert tau_execs == [] and len(infos) == 1, message
