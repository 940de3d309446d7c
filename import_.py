"""IMPORT: a policy informed by the problem id, or by what stands for it.

Kamienny, Pirotta, Lazaric, Lavril, Usunier and Denoyer, Learning Adaptive
Exploration Strategies in Dynamic Environments Through Informed Policy
Regularization, 2020, arXiv 2005.02934.

A trial takes place in a problem mu, of which only training knows the id. It is
an exploration episode tau_exp, without reward, and then execution episodes
tau_exec, each with an instruction i. What learns:

    h(mu)             an embedding of the id, for half of the trials of training
    h(tau_:t)         of the whole trial so far, for the other half and testing;
                      loss: |h(tau_:t) - h(mu)|^2, which does not teach h(mu)
    pi(a|s,i,h)       both episodes; Q-learning on the task reward of execution,
                      without discount while it explores

Exploring is only rewarded by what execution earns later, as in RL^2 (rl2.py).
"The paper" below is that of DREAM (dream.py), in which IMPORT is compared.

    python import_.py --env map    # return 0.80 of 0.80, 4 minutes
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

METHOD = "import"


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
class ImportArgs:
    pull_coef: float = 1.0  # weight of |h(tau_:t) - h(mu)|^2, mean over steps


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
    import_: ImportArgs = field(default_factory=ImportArgs)
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
DEFAULTS = {  # where they are not those above
    "bus": {"total_steps": 800_000, "pull_coef": 0.1},
    "coupling": {"total_steps": 8_000},
    "map": {"learning_rate": 1e-3},
    "distracting-bus": {"total_steps": 1_000_000, "pull_coef": 0.1},
    "cooking": {
        "total_steps": 2_500_000, "pull_coef": 0.1, "weight_decay": 0.1,
    },
    "sign-nav": {
        "total_steps": 1_000_000, "pull_coef": 0.1,
        "gamma": 0.97, "q_lambda": 0.7, "cut_traces": False, "batch_size": 32,
        "updates_per_round": 16, "buffer_size": 7_000, "sticky_prob": 0.7,
        "weight_decay": 0.1,
    },
    "standard": {
        "total_steps": 1_500_000, "learning_rate": 1e-3, "min_epsilon": 0.05,
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


class Agent(nn.Module):
    """A Q(s_t, i, h, a), with h of the id or of the whole trial so far."""

    def __init__(self, task, args):
        super().__init__()
        hidden = args.q_learning.hidden_size
        self.memory = Memory(task, hidden)
        self.h_tau = nn.Linear(hidden, hidden)
        self.h_mu = reader(task, "problem_id", task.num_problems, hidden, 0.1)
        self.head = QHead(2 * hidden, task, hidden)

    def q(self, x, tau, mu, knows_mu):
        """Q (B, T, A) by h(mu) where knows_mu (B,), else by h(tau_:t), and
        h(tau_:t) (B, T, hidden), of what the memory knows, x."""
        y, s = x.chunk(2, 2)
        h_tau = self.h_tau(y)
        h = torch.where(knows_mu[:, None, None], self.h_mu(mu)[:, None], h_tau)
        return self.head(torch.cat([h, s], 2), tau["instruction"]), h_tau

    def forward(self, tau, mu, knows_mu, state=None, carried=None):
        """Q (B, T, A) at each step, and the state, which at an episode's first
        step is None: then it goes on from `carried`, of the episode before."""
        x, state = self.memory(tau, state or carried)
        return self.q(x, tau, mu, knows_mu)[0], state


# --- 3. The method ------------------------------------------------------------
# In problem mu, explore, then execute instructions, with one memory of it all.
# Execution is paid by the task; exploration earns nothing but, at its end, what
# the execution after it is worth. Half of the trials are played with h(mu), the
# others with h(tau_:t), which imitates it. B trials are learned from, N played.
READ = "observation", "instruction", "prev_action", "prev_reward"  # by Memory


def join(tau_exp, tau_exec):
    """Both episodes of B trials, of up to L steps, as one, (B, L + 1, ...). One
    step, not padding, leads from the last observation of exploration to the
    first of execution, without reward and with the action "none"."""
    B, T = tau_exp["reward"].shape
    explored = tau_exp["length"][:, None]  # (B, 1)
    length = tau_exp["length"] + 1 + tau_exec["length"]
    t = torch.arange(length.max() + 1)
    # Of a trial, T + 1 rows are of tau_exp, then T + 1 of tau_exec.
    rows = torch.where(t <= explored, t, t - explored + T).clamp(max=2 * T + 1)
    rows += (2 * T + 2) * torch.arange(B)[:, None]  # (B, L + 1)
    tau = {"length": length, "explored": tau_exp["length"]}
    for name in (*READ, "reward"):
        both = [tau_exp[name], tau_exec[name]]
        if name == "reward":
            both = [nn.functional.pad(x, (0, 1)) for x in both]
        x = torch.cat(both, 1).flatten(0, 1)
        x = x.index_select(0, rows.flatten())  # faster than x[rows]
        tau[name] = x.unflatten(0, rows.shape)
    return tau


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


def q_losses(q, target_q, tau, args):
    """Squared errors of double Q-learning, {name: (B,)}, summed over one of the
    episodes of joined trials, from Q (B, L + 1, A), and divided by its mean
    length, so that their mean is the mean over its steps."""
    q, target_q, action = q[:, :-1], target_q[:, :-1], tau["prev_action"][:, 1:]
    counts, t = valid(tau["length"], q.shape[1]), torch.arange(q.shape[1])
    explored = tau["explored"][:, None]
    greedy = q.argmax(2)
    value = target_q.gather(2, greedy[..., None])[..., 0] * counts
    # Not in the paper: Q(lambda). What follows a non-greedy action is not what
    # greedy play is worth: Watkins cuts it off, Peng does not.
    keep = (action == greedy) | (not args.q_learning.cut_traces)
    trace = args.q_learning.q_lambda * keep
    # Exploring earns what the setting pays, and at its end what execution is
    # worth; the step between is no choice and hands it on. Not in the paper: no
    # discount up to there, which would reward cutting exploration short.
    trace = torch.where(t == explored, 1.0, trace)
    gamma = torch.where(t <= explored, 1.0, args.q_learning.gamma)
    returns = lambda_returns(tau["reward"][:, :-1], value, trace, gamma)
    taken = action.clamp(max=q.shape[2] - 1)[..., None]  # "none" is not learned
    error = (q.gather(2, taken)[..., 0] - returns) ** 2
    mask = {"execution": counts & (t > explored), "exploration": t < explored}
    return {
        name: (error * x).sum(1) / x.sum(1).float().mean()
        for name, x in mask.items()
    }


def losses(agent, target, tau_exp, tau_exec, args):
    """What B replayed trials teach, {name: (B,)}."""
    tau = join(tau_exp, tau_exec)
    mu, knows_mu = tau_exp["mu"], tau_exp["knows_mu"]
    q, h_tau = agent.q(agent.memory(tau)[0], tau, mu, knows_mu)
    with torch.no_grad():
        target_q, _ = target(tau, mu, knows_mu)
    loss = q_losses(q, target_q, tau, args)

    # At every step of every trial, h(tau_:t) imitates h(mu); not vice versa.
    gap = ((h_tau - agent.h_mu(mu).detach()[:, None]) ** 2).sum(2)  # (B, L + 1)
    gap = (gap * valid(tau["length"], gap.shape[1])).sum(1)
    mean_length = tau["length"].float().mean()
    return loss | {"embedding": args.import_.pull_coef * gap / mean_length}


def remember(memory, tau, state):
    """The memory after each copy's whole episode, its last observation, which
    `act` has not read, included; `state` is the memory before the episode."""
    for t in range(tau["length"].max() + 1):
        _, new = memory({name: tau[name][:, t : t + 1] for name in READ}, state)
        more = t <= tau["length"][:, None]  # (N, 1)
        state = [torch.where(more, x, old) for x, old in zip(new, state or new)]
    return state


@torch.no_grad()
def trial(agent, args, task, mu, instructions, knows_mu, epsilons):
    """Play N trials in problems mu (N,): an exploration with the first of the
    instructions, (N,) each, and an execution with each other one. What is None
    is drawn by the task. h is of mu where knows_mu (N,), which only training
    has, else of tau; epsilons are the shares of random actions, exploring and
    executing. Returns tau_exp, [tau_exec, ...], the last info of each."""
    start = task.explore(mu, instructions[0])
    known = {"mu": torch.tensor(task.problem), "knows_mu": knows_mu}
    tau_exp, info = act(agent, task, start, epsilons[0], **known)
    tau_execs, infos, tau, carried = [], [info], tau_exp, None
    sticky = args.q_learning.sticky_prob  # Not in the paper: see act
    for instruction in instructions[1:]:
        start = task.execute(instruction)
        carried = remember(agent.memory, tau, carried)
        tau, info = act(
            agent, task, start, epsilons[1], sticky, carried=carried, **known
        )
        tau_execs.append(tau)
        infos.append(info)
    return tau_exp | known, tau_execs, infos


# --- 4. Q-learning ------------------------------------------------------------
def valid(length, T):
    """Whether t < length (B,), for t = 0 ... T - 1: (B, T)."""
    return torch.arange(T) < length[:, None]


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
    """A row of progress.csv: the benchmark's columns."""

    def play(task, mu, instructions):
        unknown = torch.zeros(task.num_envs, dtype=torch.bool)
        return trial(agent, args, task, mu, instructions, unknown, (0, 0))[2]

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        K, task = args.run.executions, vars(args.task)
        return envs.meta_test(play, executions=K, final=final, **task)


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
        agent = Agent(envs.make(**vars(args.task)), args)
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
    agent = Agent(task, args)
    # Not in the paper: a running average gives the targets, and is what is
    # tested and saved.
    target = copy.deepcopy(agent).requires_grad_(False)
    # Not in the paper: weight decay, but none of h(mu), where it would pull all
    # problems together.
    others = nn.ModuleList([agent.memory, agent.h_tau, agent.head])
    groups = [{"params": others.parameters(), "weight_decay": q.weight_decay}]
    groups += [{"params": agent.h_mu.parameters(), "weight_decay": 0.0}]
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
        fallen = min(2 * count["env_steps"] / total, 1)  # in half of the run
        epsilon = 1 - (1 - q.min_epsilon) * fallen
        half = torch.rand(n) < 0.5
        tau_exp, (tau_exec,), infos = trial(
            agent, args, task, None, [None, None], half, (epsilon, epsilon)
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
            loss = losses(agent, target, tau_exp, tau_exec, args)
            for name, x in loss.items():
                if not x.isfinite().all():
                    raise ValueError(f"{name} loss is not finite: {count}")
            optimizer.zero_grad()
            sum(x.mean() for x in loss.values()).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 10.0)
            optimizer.step()
            for average, p in zip(target.parameters(), agent.parameters()):
                average.lerp_(p.detach(), q.target_rate)
            td_error = (loss["execution"] + loss["exploration"]).detach()
            buffer.priority[slots] = (td_error + 1e-6).sqrt() ** q.priority
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
