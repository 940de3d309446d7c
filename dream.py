"""DREAM: meta-reinforcement learning that learns exploring and executing apart.

Liu, Raghunathan, Liang and Finn, Decoupling Exploration and Exploitation for
Meta-Reinforcement Learning without Sacrifices, ICML 2021, arXiv 2008.02790.

A trial takes place in a problem mu, of which only training knows the id. It is
an exploration episode tau_exp, without reward, and then execution episodes
tau_exec, each with an instruction i. Four networks learn:

    f(mu)             bottleneck: z ~ Normal(f(mu), rho^2), all of mu that is
                      worth knowing; loss: beta |f(mu)|^2 and that of pi_exec
    pi_exec(a|s,i,z)  execution, on z of f, or, as in a test, of g; Q-learning
                      on task reward
    g(tau_:t)         decoder of z from exploration; loss: |f(mu) - g(tau_:t)|^2
                      and, where z is of g, that of pi_exec
    pi_exp(a|tau_:t)  exploration; Q-learning on what a step tells about z:
                      |f(mu) - g(tau_:t)|^2 - |f(mu) - g(tau_:t+1)|^2 - c

Neither waits for the other: execution has z of f before exploration finds
anything, and f tells exploration what there is to find. docs/departures.md
measures what is not in the paper.

    python dream.py --env map  # return 0.80 of 0.80, 5 minutes on one CPU core
"""

import contextlib
import copy
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import tyro
from gymnasium.error import DependencyNotInstalled
from torch import nn
from tqdm import tqdm

import envs

METHOD = "dream"


# --- 1. Arguments -------------------------------------------------------------
@dataclass
class RunArgs:
    seed: int = 0  # random seed
    total_steps: int = 500_000  # environment steps, exploring and executing
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU, if any
    run_dir: Path | None = None  # None: runs/<method>/<task>/<seed>
    overwrite: bool = False  # replace an earlier run in run_dir
    resume: bool = False  # go on from the checkpoint of an earlier run there
    eval: Path | None = None  # do not train: test this run's agent, as it was
    executions: int = 0  # of a test trial (0: 1, or 4 in setting online)
    eval_every: int = 20_000  # environment steps between evaluations
    checkpoint_minutes: float = 5.0  # minutes between checkpoints (0: never)


@dataclass
class TaskArgs:
    env: Literal[tuple(envs.TASKS)] = "map"  # the task
    setting: Literal[tuple(envs.SETTINGS)] = "imrl"  # what a trial is: envs.py
    num_actions: int = 8  # number of actions of the task coupling
    problem_id: Literal[envs.FORMS] = "one-hot"  # how mu is told in training
    instruction: Literal[envs.FORMS[:3]] = "one-hot"  # how i is described
    told: int = 0  # at most this many attributes of mu are shown, at random

    def name(self):
        """What the directories of its runs are called."""
        name = self.env
        name += "" if self.num_actions == 8 else f"-{self.num_actions}"
        name += "" if self.setting == "imrl" else f"-{self.setting}"
        for option in "problem_id", "instruction", "told":
            value = getattr(self, option)
            if value != getattr(TaskArgs, option):
                name += f"-{option.replace('_', '-')}-{value}"
        return name


@dataclass
class DreamArgs:
    explore_after: int = 5_000  # trials before pi_exp learns, too
    bottleneck_std: float = 0.1  # rho, standard deviation of z around f(mu)
    bottleneck_coef: float = 1e-3  # beta, weight of |f(mu)|^2
    step_penalty: float = 0.02  # c, price of a step of exploration
    as_exploration: float = 0.0  # share of executions on f that teach exploring


@dataclass
class QLearningArgs:
    num_envs: int = 64  # trials side by side
    hidden_size: int = 64  # units of a layer
    gamma: float = 0.99  # discount
    q_lambda: float = 0.9  # lambda of Q(lambda) (0: one-step targets)
    cut_traces: bool = True  # after a non-greedy action (Watkins; else Peng)
    learning_rate: float = 1e-3  # learning rate of AdamW
    weight_decay: float = 0.0  # weight decay of AdamW
    target_rate: float = 0.02  # by which targets follow, in each update
    batch_size: int = 64  # trials in an update
    updates_per_round: int = 8  # updates after each num_envs trials
    buffer_size: int = 16_000  # trials in the replay buffer (>= num_envs)
    priority: float = 0.8  # draw trials in proportion to |TD error| ** this
    min_epsilon: float = 0.15  # random share: from 1 to this in half of a run
    sticky_prob: float = 0.0  # chance to repeat a random action in execution


@dataclass
class Args:
    run: RunArgs = field(default_factory=RunArgs)
    task: TaskArgs = field(default_factory=TaskArgs)
    dream: DreamArgs = field(default_factory=DreamArgs)
    q_learning: QLearningArgs = field(default_factory=QLearningArgs)

    def __post_init__(self):
        for group in vars(self).values():
            for name, value in vars(group).items():
                low, high = RANGES.get(name, (0, 1e12))
                if type(value) in (int, float) and not low <= value <= high:
                    name = "--" + name.replace("_", "-")
                    raise ValueError(f"{name}: {low} to {high}, not {value}")


COUNTS = "num_envs", "num_actions", "hidden_size", "batch_size", "buffer_size"
COUNTS += ("updates_per_round",)
SHARES = "gamma", "q_lambda", "target_rate", "priority", "min_epsilon"
SHARES += ("sticky_prob",)
RANGES = dict.fromkeys(COUNTS, (1, 1e12)) | dict.fromkeys(SHARES, (0, 1))
RANGES |= {"as_exploration": (0, 1)}
DEFAULTS = {  # of a task or setting, where they are not those above
    "bus": {"total_steps": 800_000},
    "coupling": {"total_steps": 8_000, "explore_after": 500},
    "map": {"learning_rate": 2e-3},
    "distracting-bus": {"total_steps": 1_000_000, "explore_after": 10_000},
    "cooking": {
        "total_steps": 2_500_000, "explore_after": 10_000, "step_penalty": 0.0,
        "bottleneck_coef": 3e-3, "weight_decay": 0.1,
    },
    "sign-nav": {
        "total_steps": 1_000_000, "explore_after": 4_000, "step_penalty": 0.0,
        "gamma": 0.97, "q_lambda": 0.7, "cut_traces": False, "batch_size": 32,
        "updates_per_round": 16, "buffer_size": 7_000, "sticky_prob": 0.7,
        "weight_decay": 0.1,
    },
    "standard": {
        "total_steps": 1_500_000, "as_exploration": 0.5,
        "learning_rate": 1e-3, "min_epsilon": 0.05,
    },
}  # fmt: skip


# --- 2. Networks --------------------------------------------------------------
def mlp(*sizes):
    """Linear layers with ReLU between them."""
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Memory(nn.Module):
    """What an agent knows at a step: an LSTM over (s_0, a_0, s_1, ... s_t)."""

    def __init__(self, task, hidden):
        super().__init__()
        space = task.single_observation_space
        self.of_frames = len(space["observation"].shape) == 3
        if self.of_frames:
            self.encoder = nn.Sequential(  # frames (R, 3, 60, 80)
                nn.Conv2d(3, 16, 8, stride=4), nn.ReLU(),  # (R, 16, 14, 19)
                nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(),  # (R, 32, 6, 8)
                nn.Flatten(), nn.Linear(32 * 6 * 8, hidden), nn.ReLU(),
            )  # fmt: skip
        else:  # tokens (R, F), each with rows of its own in one embedding
            sizes = torch.as_tensor(space["observation"].nvec)
            self.encoder = nn.EmbeddingBag(sizes.sum(), hidden, mode="sum")
            self.register_buffer("first_row", sizes.cumsum(0) - sizes)
            self.transition = mlp(3 * hidden, 2 * hidden, hidden)
        self.action = nn.Embedding(len(task.actions) + 1, hidden)
        # What a reward means depends on the instruction; at first, nothing.
        self.reward = nn.Embedding(int(space["instruction"].nvec.max()), hidden)
        nn.init.zeros_(self.reward.weight)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)

    def encode(self, tau):
        """Features of what is observed at each step, (B, T, hidden)."""
        x = tau["observation"]
        B, T = x.shape[:2]
        if not self.of_frames:
            x = (x + self.first_row).flatten(0, 1)
            return self.encoder(x).view(B, T, -1)
        # Convolutions take most of the time: they leave out the padding, and
        # read 256 frames at once, which fit into the cache.
        seen = valid(tau.get("length", torch.full((B,), T)) + 1, T)  # (B, T)
        frames = x[seen].permute(0, 3, 1, 2).split(256)
        s = torch.cat([self.encoder((x - 127.5) / 255) for x in frames])
        return s.new_zeros(B, T, s.shape[1]).index_put((seen,), s)

    def forward(self, tau, state=None):
        """What is known at each step (B, T, 2 * hidden), and the state: that of
        the LSTM, and the features of the step before."""
        s, action = self.encode(tau), self.action(tau["prev_action"])
        h, c, prev_s = state or s.new_zeros(3, 1, *s[:, 0].shape)
        if self.of_frames:
            x, plain = s + action, s
        else:
            # Not in the paper: the LSTM reads s_t-1 and s_t together, for where
            # a bus leads to is a fact of both; and s_t, a sum of embeddings,
            # which holds for new combinations, bypasses it, scaled down.
            prev_s = torch.cat([prev_s.transpose(0, 1), s[:, :-1]], 1)
            x = self.transition(torch.cat([prev_s, action, s], 2))
            plain = 0.2 * s
        meaning = self.reward(tau["instruction"]).sum(2)
        x = x + tau["prev_reward"][..., None] * meaning  # (B, T, hidden)
        y, (h, c) = self.lstm(x, (h, c))
        return torch.cat([y, plain], 2), (h, c, s[:, -1:].transpose(0, 1))


def reader(task, what, count, hidden, std):
    """Embeds the numbers of problems or instructions, (...) -> (..., hidden),
    or reads their descriptions; std: of what it gives at initialization."""
    if task.forms[what] != "one-hot":
        return task.reader(what, hidden, std)
    embedding = nn.Embedding(count, hidden)
    nn.init.normal_(embedding.weight, std=std)
    return embedding


class QHead(nn.Module):
    """Dueling Q-values of what is known, x, under an instruction."""

    def __init__(self, x_size, task, hidden):
        super().__init__()
        sizes = task.single_observation_space["instruction"].nvec
        # Small, so that the instruction does not drown x
        self.instruction = reader(task, "instruction", sizes.max(), hidden, 0.2)
        any_one = torch.zeros(len(sizes), dtype=torch.long)
        parts = len(self.instruction(any_one))  # tokens, words or a picture
        self.attention = nn.Linear(x_size, parts)
        layers = 2 * hidden, 2 * hidden
        self.value = mlp(x_size + parts * hidden, *layers, 1)
        self.advantage = mlp(x_size + hidden, *layers, len(task.actions))

    def forward(self, x, instruction):
        """x (B, T, X), instruction (B, T, I) -> Q (B, T, A)."""
        tokens = self.instruction(instruction)  # (B, T, parts, hidden)
        # Not in the paper: the advantage attends to one token, as the past
        # tells which is next; the value reads them all.
        weight = (5 * self.attention(x)).softmax(2)  # (B, T, parts)
        token = (weight[..., None] * tokens).sum(2)
        value = self.value(torch.cat([x, tokens.flatten(2)], 2))
        advantage = self.advantage(torch.cat([x, token], 2))
        return value + advantage - advantage.mean(2, keepdim=True)


class Policy(nn.Module):
    """A recurrent Q(tau_:t, i, z, a), without z where z_size is 0."""

    def __init__(self, task, hidden, z_size=0):
        super().__init__()
        self.memory = Memory(task, hidden)
        self.head = QHead(2 * hidden + z_size, task, hidden)

    def forward(self, tau, z=None, state=None):
        """Q (B, T, A) at each step, given z (B, Z), if any; and the state."""
        x, state = self.memory(tau, state)
        if z is not None:
            x = torch.cat([x, z[:, None].expand(-1, x.shape[1], -1)], 2)
        return self.head(x, tau["instruction"]), state


class Dream(nn.Module):
    """f, g, pi_exec and pi_exp."""

    def __init__(self, task, args):
        super().__init__()
        hidden = args.q_learning.hidden_size
        # Not in the paper: from near zero, z holds only what execution needs.
        self.f = reader(task, "problem_id", task.num_problems, hidden, 0.02)
        self.decoder = Memory(task, hidden)
        self.decoded = nn.Linear(2 * hidden, hidden)
        self.pi_exec = Policy(task, hidden, z_size=hidden)
        self.pi_exp = Policy(task, hidden)

    def g(self, tau):
        """The mean of q(z | tau_:t) for every prefix, (B, T + 1, Z)."""
        return self.decoded(self.decoder(tau)[0])


# --- 3. The method ------------------------------------------------------------
# In problem mu, explore once: tau_exp. Then execute instructions with z, all
# that is known of mu: tau_exec. The mean of z is f(mu), known in training only;
# g(tau_:t) guesses it from the first t steps of exploration, which is what a
# test has. f keeps what execution needs, g imitates f, and exploration is paid
# for what brings g closer to f. B trials are learned from, N played at once.
def bottleneck(f, rho):
    """z ~ F(z | mu) = Normal(f(mu), rho^2 I), (B, Z), and |f(mu)|^2, (B,): that
    is 2 rho^2 KL(F(z | mu) || Normal(0, rho^2 I)), and its mean is no less than
    2 rho^2 I(z; mu)."""
    z = f + rho * torch.randn_like(f)
    return z, (f**2).sum(1)


def decoding_error(f, g, length):
    """|f(mu) - g(tau_:t)|^2 at t = 0 ... length, (B, T + 1), 0 on padding. With
    q(z | tau_:t) = Normal(g(tau_:t), rho^2 I), the mean of -log q(z | tau_:t)
    over z ~ F(z | mu) is this / (2 rho^2) + constant."""
    error = ((f[:, None] - g) ** 2).sum(2)  # (B, T + 1)
    return error * valid(length + 1, g.shape[1])


def exploration_reward(error, length, c):
    """What step t has told about z, less the price c of a step, (B, T):
    r_t = |f(mu) - g(tau_:t)|^2 - |f(mu) - g(tau_:t+1)|^2 - c; 0 on padding."""
    reward = error[:, :-1] - error[:, 1:] - c
    return reward.detach() * valid(length, reward.shape[1])


def lambda_returns(reward, value, trace, gamma):
    """Targets of Q(lambda), G_t = r_t + gamma (v_t+1 + trace_t+1 (G_t+1 -
    v_t+1)), (B, T), gamma a number or (B, T). Not in the paper, whose trace is
    0: r_t + gamma v_t+1. On padding, reward and value are 0, and so is G."""
    gamma = torch.as_tensor(gamma).expand_as(reward)
    returns, after = torch.zeros_like(reward), torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.shape[1])):
        returns[:, t] = reward[:, t] + gamma[:, t] * after
        after = torch.lerp(value[:, t], returns[:, t], trace[:, t])
    return returns


def losses(agent, target, tau_exp, tau_exec, args, explore=True):
    """{name: (B,)} of B replayed trials. z and the reward of exploration are
    those of the present f and g, not of when the trial was played."""
    f, g = agent.f(tau_exp["mu"]), agent.g(tau_exp)  # (B, Z), (B, T + 1, Z)
    length = tau_exp["length"]
    z, kl = bottleneck(f, args.dream.bottleneck_std)
    error = decoding_error(f.detach(), g, length)  # teaches g, but not f
    # Not in the paper: |f(mu)|^2 costs from 0 on, not only above a threshold.
    loss = {"bottleneck": args.dream.bottleneck_coef * kl}
    loss["decoder"] = error.sum(1) / (length + 1.0).mean()  # mean over prefixes

    # A random half, drawn when played, executes with z ~ F(z | mu), and teaches
    # f what execution needs. The other half executes as in testing, with the g
    # of all of its exploration; there the gradient reaches g.
    knows_mu = tau_exec["knows_mu"][:, None]  # (B, 1)
    z = torch.where(knows_mu, z, at_end(g, length))  # (B, Z)
    pi, reward = agent.pi_exec, tau_exec["reward"]
    loss["execution"] = q_loss(pi, target.pi_exec, tau_exec, reward, args, z)

    if explore:  # once g has learned from random exploration
        pi = agent.pi_exp
        reward = exploration_reward(error, length, args.dream.step_penalty)
        loss["exploration"] = q_loss(pi, target.pi_exp, tau_exp, reward, args)
    return loss


@torch.no_grad()
def trial(agent, args, task, mu, instructions, knows_mu, epsilons):
    """Play N trials in problems mu (N,): an exploration with the first of the
    instructions, (N,) each, and an execution with each other one. What is None
    is drawn by the task. z is of f where knows_mu (N,), which only training
    has, else of g; epsilons are the shares of random actions, exploring and
    executing. Returns tau_exp, [tau_exec, ...], the last info of each."""
    start = task.explore(mu, instructions[0])
    tau_exp, info = act(agent.pi_exp, task, start, epsilons[0])
    tau_exp["mu"] = torch.tensor(info["problem"])

    z_explored = at_end(agent.g(tau_exp), tau_exp["length"])
    z, _ = bottleneck(agent.f(tau_exp["mu"]), args.dream.bottleneck_std)
    z = torch.where(knows_mu[:, None], z, z_explored)

    tau_execs, infos = [], [info]
    sticky = args.q_learning.sticky_prob  # Not in the paper: see act
    for instruction in instructions[1:]:
        start = task.execute(instruction)
        tau, info = act(agent.pi_exec, task, start, epsilons[1], sticky, z=z)
        tau_execs.append(tau | {"knows_mu": knows_mu})
        infos.append(info)
    return tau_exp, tau_execs, infos


# --- 4. Q-learning ------------------------------------------------------------
def valid(length, T):
    """Whether t < length (B,), for t = 0 ... T - 1: (B, T)."""
    return torch.arange(T) < length[:, None]


def at_end(x, length):
    """x_t of each row of x (B, T, ...) at t = length (B,)."""
    return x[torch.arange(len(x)), length]


def act(policy, task, start, epsilon, sticky_prob=0.0, **given):
    """An epsilon-greedy episode tau in each of N copies, and its last info. A
    random action is, with sticky_prob, that drawn a step before, taken or not.

    `start` is what task.explore or task.execute has returned, `given` what the
    policy is given beside tau. Of each step, tau has the observation, the
    instruction, the action before it and the reward that is observed with it,
    which may be hidden, (N, T + 1, ...); the reward that Q-learning earns by
    its action, (N, T); and the length of each episode (N,), after which all is
    padding."""
    N, T, A = task.num_envs, task.max_steps, len(task.actions)
    tau = {  # (N, T + 1, ...)
        name: torch.as_tensor(x)[:, None].repeat_interleave(T + 1, 1)
        for name, x in start[0].items()
    }
    tau["prev_reward"] = tau.pop("reward")
    tau["prev_action"] = torch.zeros(N, T + 1, dtype=torch.long)
    tau["prev_action"][:, 0] = A  # none
    reward, state, drawn = torch.zeros(N, T), None, 0
    for t in range(T):
        step = {name: x[:, t : t + 1] for name, x in tau.items()}
        q, state = policy(step, state=state, **given)
        # Not in the paper: a random `end` is drawn once more, lest episodes be
        # short; sticky random actions lead farther.
        new, again = torch.randint(A, (2, N))
        if task.actions[-1] == "end":
            new = torch.where(new == A - 1, again, new)
        drawn = torch.where(torch.rand(N) < sticky_prob * (t > 0), drawn, new)
        greedy = q[:, 0].argmax(1)
        action = torch.where(torch.rand(N) < epsilon, drawn, greedy)
        batch, earned, done, _, info = task.step(action.cpu().numpy())
        tau["observation"][:, t + 1] = torch.as_tensor(batch["observation"])
        tau["prev_action"][:, t + 1] = action
        tau["prev_reward"][:, t + 1] = torch.as_tensor(batch["reward"])
        reward[:, t] = torch.as_tensor(earned)
        if done.all():
            break
    return tau | {"reward": reward, "length": torch.tensor(info["steps"])}, info


def q_loss(policy, target, tau, reward, args, z=None):
    """Squared errors of double Q-learning, summed over each episode, (B,), and
    divided by the mean length, so that their mean is the mean over all steps.
    reward is (B, T); target is the running average of the policy."""
    q, _ = policy(tau, z)  # (B, T + 1, A)
    with torch.no_grad():
        target_q, _ = target(tau, z)
    action = tau["prev_action"][:, 1:]
    mask = valid(tau["length"], action.shape[1])  # (B, T)
    greedy = q[:, :-1].argmax(2)
    value = target_q[:, :-1].gather(2, greedy[..., None])[..., 0] * mask
    # Not in the paper: Q(lambda). What follows a non-greedy action is not what
    # greedy play is worth: Watkins cuts it off, Peng does not.
    keep = (action == greedy) | (not args.q_learning.cut_traces)
    trace = args.q_learning.q_lambda * keep
    returns = lambda_returns(reward, value, trace, args.q_learning.gamma)
    error = (q[:, :-1].gather(2, action[..., None])[..., 0] - returns) ** 2
    return (error * mask).sum(1) / tau["length"].float().mean()


def use_executions(tau_exp, tau_exec, share):
    """Not in the paper: in this share of B trials, the execution of those that
    knew mu stands in for the exploration. It has gone where it pays to go, and
    g and Q-learning can learn from any walk, whoever took it."""
    B = len(tau_exp["mu"])
    used = tau_exec["knows_mu"] & (torch.arange(B) < share * B)
    for name in "observation", "prev_action", "prev_reward", "length":
        tau_exp[name][used] = tau_exec[name][used]


class ReplayBuffer:
    """The latest trials. Not in the paper: they are drawn in proportion to
    |TD error| ** args.q_learning.priority, where a trial's TD error is the root
    of its Q losses (Schaul et al., 2016, without importance weights)."""

    def __init__(self, size):
        self.size, self.added, self.taus = size, 0, ({}, {})
        self.priority = torch.ones(size)

    def add(self, *taus):
        """The episodes {name: (N, ...)} of N trials."""
        N = len(taus[0]["length"])
        slots = torch.arange(self.added, self.added + N) % self.size
        for stored, tau in zip(self.taus, taus):
            for name, x in tau.items():
                if name not in stored:
                    stored[name] = x.new_zeros(self.size, *x.shape[1:])
                stored[name][slots] = x
        self.priority[slots] = self.priority.max()
        self.added += N

    def draw(self, n):
        """The slots of n trials, (n,)."""
        return self.priority[: self.added].multinomial(n, replacement=True)

    def sample(self, slots):
        """Copies of the episodes in these slots (B,)."""
        return [
            {name: x.index_select(0, slots) for name, x in tau.items()}
            for tau in self.taus
        ]


# --- 5. Training --------------------------------------------------------------
def evaluate(agent, args, final=False):
    """A row of progress.csv: the benchmark's columns; then, of 256 training
    trials that explore with epsilon 0.5, the return of executing with z of f
    (if problems are described, also of 256 test trials), the variance of f(mu),
    and the squared error of g."""

    def play(task, mu, instructions):
        unknown = torch.zeros(task.num_envs, dtype=torch.bool)
        return trial(agent, args, task, mu, instructions, unknown, (0, 0))[2]

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        K = args.run.executions
        row = envs.meta_test(play, executions=K, final=final, **vars(args.task))

        known = torch.ones(256, dtype=torch.bool)
        names = {"test": "return_with_id_unseen", "train": "return_with_id"}
        if args.task.problem_id == "one-hot":
            del names["test"]  # of untrained one-hots, f knows nothing
        for split, name in names.items():
            task = envs.make(num_envs=256, split=split, **vars(args.task))
            task.reset(seed=0)
            tau, _, infos = trial(
                agent, args, task, None, [None, None], known, (0.5, 0)
            )
            row[name] = float(infos[1]["return"].mean())
        f = agent.f(tau["mu"])  # of the training trials, the last
        error = decoding_error(f, agent.g(tau), tau["length"])
    row["prior_error"] = f.var(0, correction=0).sum().item()
    row["decoder_error"] = at_end(error, tau["length"]).mean().item()
    return row


def save(path, content):
    """A whole file or none: it is written beside, then renamed."""
    part = path.with_name(path.name + ".part")
    try:
        if isinstance(content, str):
            part.write_text(content)
        else:
            torch.save(content, part)
    except RuntimeError as error:  # what torch makes of an OSError
        raise OSError(f"{path} not written (disk full?): {error}") from error
    part.replace(path)


@contextlib.contextmanager
def loading(path):
    """What this method has saved there. What fails in a `with` block that uses
    it is a fault of the file: it is of another version, say."""
    try:
        saved = torch.load(path, torch.get_default_device(), weights_only=True)
        if saved["config"]["method"] != METHOD:
            raise ValueError(f"it is of {saved['config']['method']}")
        yield saved
    except (OSError, DependencyNotInstalled):
        raise
    except Exception as error:
        reason = repr(error).split("\\n")[-1]  # one line, the last
        raise ValueError(f"{path} does not fit {METHOD}: {reason}") from error


def load_agent(run_dir):
    """The agent of a run, its arguments, and its last row of progress.csv."""
    args = Args()
    with loading(Path(run_dir) / "agent.pt") as saved:
        for name, group in vars(args).items():
            vars(group).update(saved["config"][name])
        agent = Dream(envs.make(**vars(args.task)), args)
        agent.load_state_dict(saved["agent"])
        return agent, args, saved["row"]


def run_directory(args):
    """Where a run is kept, and whether one is there to go on with."""
    run, task = args.run, args.task
    path = run.run_dir or Path("runs", METHOD, task.name(), str(run.seed))
    path.mkdir(parents=True, exist_ok=True)
    in_use = any(file.suffix != ".part" for file in path.iterdir())
    if in_use and not (run.resume or run.overwrite):
        raise ValueError(f"{path} is in use: --resume or --overwrite it")
    if not run.resume:
        (path / "checkpoint.pt").unlink(missing_ok=True)
    return path, in_use and run.resume


def train(args, bar):
    """Train an agent; the last row of its progress.csv."""
    run, q, n = args.run, args.q_learning, args.q_learning.num_envs
    torch.manual_seed(run.seed)
    task = envs.make(num_envs=n, **vars(args.task))
    task.reset(seed=run.seed)
    agent = Dream(task, args)
    # Not in the paper: a running average gives the targets, and is what is
    # tested and saved.
    target = copy.deepcopy(agent).requires_grad_(False)
    f = [*agent.f.parameters()]
    others = [p for x, p in agent.named_parameters() if not x.startswith("f.")]
    # Not in the paper: weight decay, but none of f, which its own loss pulls to
    # 0; f learns faster where it is embeddings than where it reads words.
    described = args.task.problem_id in ("words", "picture")
    f_rate = (1 if described else 4) * q.learning_rate
    groups = [{"params": others, "weight_decay": q.weight_decay}]
    groups += [{"params": f, "lr": f_rate, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, q.learning_rate, fused=True)
    buffer, rows, next_test = ReplayBuffer(max(q.buffer_size, n)), [], 0
    count = {"env_steps": 0, "seconds": 0.0, "trials": 0, "updates": 0}
    logged = {}  # the mean losses of the latest update

    parts = {"agent": agent, "target": target, "optimizer": optimizer}
    path, goes_on = run_directory(args)
    config = json.dumps({"method": METHOD, **asdict(args)}, default=str)
    config = json.loads(config)
    if goes_on:
        with loading(path / "checkpoint.pt") as saved:
            # Of the options of the run, only the seed must be the same.
            then = saved["config"] | {"run": saved["config"]["run"]["seed"]}
            if then != config | {"run": run.seed}:
                raise ValueError(f"it has other options: {then}")
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            vars(buffer).update(saved["buffer"])
            count, logged, rows, next_test, *random = saved["progress"]
            torch.set_rng_state(random[0].cpu())
            task.np_random.bit_generator.state = random[1]
    next_save, total = 0.0, run.total_steps
    while True:
        final = count["env_steps"] >= total

        # SAVE
        if run.checkpoint_minutes and (final or time.monotonic() > next_save):
            state = {name: part.state_dict() for name, part in parts.items()}
            random = torch.get_rng_state(), task.np_random.bit_generator.state
            state["progress"] = count, logged, rows, next_test, *random
            state |= {"config": config, "buffer": vars(buffer)}
            save(path / "checkpoint.pt", state)
            next_save = time.monotonic() + 60 * run.checkpoint_minutes

        # EVALUATE
        if final or count["env_steps"] >= next_test:
            next_test = count["env_steps"] + run.eval_every
            row = count | evaluate(target, args, final) | logged
            rows = [*rows, row]
            lines = [[x.get(name, math.nan) for name in row] for x in rows]
            lines = [",".join(map(str, line)) for line in [row, *lines]]
            save(path / "progress.csv", "\n".join(lines) + "\n")
            save(path / "config.json", json.dumps(config, indent=1))
            state = {"config": config, "agent": target.state_dict(), "row": row}
            save(path / "agent.pt", state)
            bar.set_postfix({"test_return": row["test_return"]}, refresh=False)
        if final:
            return row

        # EXPLORE, EXECUTE
        began = time.perf_counter()
        explore = count["trials"] >= args.dream.explore_after
        fallen = min(2 * count["env_steps"] / total, 1)  # in half of the run
        epsilon = 1 - (1 - q.min_epsilon) * fallen
        epsilons = (epsilon if explore else 1.0), epsilon
        half = torch.rand(n) < 0.5
        tau_exp, (tau_exec,), infos = trial(
            agent, args, task, None, [None, None], half, epsilons
        )
        buffer.add(tau_exp, tau_exec)
        count["env_steps"] += sum(int(info["steps"].sum()) for info in infos)
        count["trials"] += n

        # UPDATE
        # All batches are drawn before any update, while the new trials have the
        # largest priority, so that each is drawn several times.
        drawn = buffer.draw(q.updates_per_round * q.batch_size)
        for slots in drawn.split(q.batch_size):
            tau_exp, tau_exec = buffer.sample(slots)
            use_executions(tau_exp, tau_exec, args.dream.as_exploration)
            loss = losses(agent, target, tau_exp, tau_exec, args, explore)
            for name, x in loss.items():
                if not x.isfinite().all():
                    raise ValueError(f"{name} loss is not finite: {count}")
            optimizer.zero_grad()
            sum(x.mean() for x in loss.values()).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 10.0)
            optimizer.step()
            for average, p in zip(target.parameters(), agent.parameters()):
                average.lerp_(p.detach(), q.target_rate)
            td_error = loss["execution"] + loss.get("exploration", 0)
            td_error = (td_error.detach() + 1e-6).sqrt()
            buffer.priority[slots] = td_error**q.priority
            count["updates"] += 1
        logged = {f"{name}_loss": x.mean().item() for name, x in loss.items()}
        count["seconds"] += time.perf_counter() - began
        bar.update(min(count["env_steps"], total) - bar.n)


def parse():
    """The command line, over the defaults of its task and setting."""
    # A first pass finds the two that the defaults depend on.
    args = Args()
    found, _ = tyro.cli(TaskArgs, add_help=False, return_unknown_args=True)
    args.task = found
    defaults = DEFAULTS.get(found.env, {}) | DEFAULTS.get(found.setting, {})
    for name, value in defaults.items():
        for group in vars(args).values():
            if hasattr(group, name):
                setattr(group, name, value)
    style = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(Args, default=args, config=style, description=__doc__)


def main():
    args, gpu = parse(), torch.cuda.is_available()
    run = args.run
    try:
        if run.device == "cuda" and not gpu:
            raise ValueError("--device cuda: PyTorch finds no GPU")
        device = "cuda" if gpu and run.device != "cpu" else "cpu"
        torch.set_default_device(device)
        if run.eval:
            agent, args, row = load_agent(run.eval)
            args.run.executions = run.executions or args.run.executions
            row |= evaluate(agent, args, final=True)
        else:
            with tqdm(total=run.total_steps, unit=" steps", delay=1) as bar:
                row = train(args, bar)
    except (OSError, ValueError, MemoryError, DependencyNotInstalled) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    print(
        "{env}, seed {seed}: test return {test_return:.3f} (standard error "
        "{test_return_se:.3f}, optimum {optimal_return:.3f}), exploration of "
        "{exploration_steps:.1f} steps, after {env_steps:,} environment steps "
        "and {seconds:,.0f} seconds of training".format(
            **row, env=args.task.env, seed=args.run.seed
        )
    )


if __name__ == "__main__":
    main()
