"""IMPORT: a policy informed by the problem id, or by what stands for it.

Kamienny, Pirotta, Lazaric, Lavril, Usunier and Denoyer, Learning Adaptive
Exploration Strategies in Dynamic Environments Through Informed Policy
Regularization, 2020, arXiv 2005.02934.

A trial is an exploration episode without reward, then an execution episode with
an instruction. The policy acts on what it sees, the instruction and h: in half
of the training trials an embedding of the problem id, otherwise an embedding
of the trial so far, which is pulled towards that of the id. Meta-testing knows
no id. Exploring is only rewarded by what execution earns later, as in RL^2.

    python import_.py --env map    # 0.79 of 0.80, 3 minutes
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import torch
import tyro
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import envs

DEFAULTS = {  # all that differs between tasks
    "coupling": dict(total_steps=8_000),
    "bus": {},
    "map": {},
    "distracting-bus": dict(total_steps=1_000_000),
    "cooking": dict(
        total_steps=2_500_000, halving=1e12, weight_decay=0.1, pull=0.1,
    ),
    "sign-nav": dict(
        total_steps=1_000_000, updates=16, batch=32, replay=7_000, gamma=0.97,
        lam=0.7, peng=1.0, sticky=0.7, pull=0.1,
    ),
}


@dataclass(eq=False)
class Args:
    env: Literal[tuple(DEFAULTS)] = "map"  # the task
    seed: int = 0  # of all that is random
    total_steps: int = 500_000  # of the environment, exploring and executing
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU, if any
    run_dir: Path | None = None  # None: runs/<method>/<env>/<seed>
    overwrite: bool = False  # replace what an earlier run has left there
    eval: Path | None = None  # do not train, evaluate this run's agent
    setting: Literal["imrl", "standard"] = "imrl"  # standard: unknown goals
    exploration_rewards: bool = False  # shown, of an instruction; as standard
    execution_episodes: int = 1  # K of a test trial, each its own instruction
    no_exploration: bool = False  # the first of the K explores, and counts
    resume: bool = False  # go on from the checkpoint, if there is one
    checkpoint_minutes: float = 5.0  # between two; 0: none (sign-nav: 4 GB)
    eval_every: int = 20_000  # environment steps between evaluations
    num_actions: int = 8  # A, of coupling
    show_id: bool = False  # of bus: whether each observation shows the problem
    num_envs: int = 64  # trials side by side
    updates: int = 8  # gradient steps after num_envs trials
    batch: int = 64  # trials in a gradient step
    replay: int = 16_000  # trials in the replay
    priority: float = 0.8  # of replayed trials: this power of their TD error
    epsilon: float = 0.15  # least random share; copies: geometric, from 1
    sticky: float = 0.0  # share of random actions that repeat the last one
    learning_rate: float = 1e-3  # of AdamW
    halving: float = 30_000  # trials that halve the learning rate
    weight_decay: float = 0.0  # of AdamW
    target_rate: float = 0.02  # of the target network towards the agent
    gamma: float = 0.99  # discount
    pull: float = 1.0  # weight of the pull towards the id's embedding
    lam: float = 0.9  # lambda of Q(lambda)
    peng: float = 0.0  # of lambda, kept after random actions (1: Peng's)
    hidden: int = 64  # units in a layer

    def __post_init__(self):
        for name, value in vars(self).items():
            low = 0 if name in MAY_BE_0 else 1 if type(value) is int else 1e-12
            high = 1 if name in SHARES else 10**12
            if type(value) in (int, float) and not low <= value <= high:
                option = "--" + name.replace("_", "-")
                raise ValueError(f"{option}: {low} to {high}, not {value}")
        if self.show_id and self.env != "bus":
            raise ValueError(f"--show-id: for bus only, not {self.env}")
        if self.setting == "standard":
            self.exploration_rewards = True
            if self.env == "cooking":
                raise ValueError("--setting: no kitchen has all ingredients")
        if self.no_exploration and self.execution_episodes == 1:
            raise ValueError("--execution-episodes: from 2; the first explores")
        gpu = torch.cuda.is_available()
        if self.device == "cuda" and not gpu:
            raise ValueError("--device cuda: PyTorch finds no GPU")
        if self.device == "auto":
            self.device = "cuda" if gpu else "cpu"


SHARES = "priority", "target_rate", "gamma", "lam", "peng", "epsilon", "sticky"
MAY_BE_0 = *SHARES, "seed", "weight_decay", "checkpoint_minutes"


# --- shared: recurrent Q-learning on replayed episodes ----------------------
class Features(nn.Module):
    """What is sensed (R, ...), for the memory and for Q, each (R, hidden)."""

    def __init__(self, space, hidden):
        super().__init__()
        if len(space.shape) == 3:  # frames (R, 60, 80, 3)
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 8, 4), nn.ReLU(),  # (R, 16, 14, 19)
                nn.Conv2d(16, 32, 4, 2), nn.ReLU(),  # (R, 32, 6, 8)
                nn.Flatten(), nn.Linear(32 * 6 * 8, hidden), nn.ReLU(),
            )
        else:  # tokens (R, fields), each with its own rows of the embedding
            self.net = nn.EmbeddingBag(space.nvec.sum(), hidden, mode="sum")
            first = torch.tensor([0, *space.nvec[:-1]]).cumsum(0)
            self.register_buffer("first", first)

    def forward(self, x):
        if x.dtype == torch.uint8:
            s = self.net((x.permute(0, 3, 1, 2) - 127.5).div_(255))
            return s, s
        # Sums generalise to new combinations, but are to be low beside z. Waves
        # of variance 1 tell any two cells apart, neighbours or not.
        sums = self.net(x + self.first)
        return 1.4 * (2 * sums).sin(), 0.2 * sums


class Memory(nn.Module):
    """Recurrent over transitions (s, a, s')."""

    carried = False  # whether the state goes on from the end, not from padding

    def __init__(self, spaces, num_actions, hidden):
        super().__init__()
        self.features = Features(spaces["observation"], hidden)
        self.before = nn.Embedding(num_actions + 1, hidden)
        self.lstm = nn.LSTM(hidden, hidden)
        tokens = max(spaces["instruction"].nvec)
        # A reward that is shown means something only with its instruction.
        self.paid = nn.Parameter(torch.zeros(tokens, hidden))

    def forward(self, steps, length, state=(None, None)):
        """What is known at the R steps t < length (B,), (R, 2 * hidden).

        Also which steps these are, (t, b), each (R,), and the state.
        """
        T, B = int(length.max()), len(length)
        before = steps["before"].T[:T]  # (T, B)
        t, b = (torch.arange(T)[:, None] < length).nonzero().T.to(before.device)
        seen = steps["observation"]  # (B, T or more, ...)
        rows = b * seen.shape[1] + t
        s, now = self.features(seen.flatten(0, 1).index_select(0, rows))
        s = pad(s, (t, b), T, B)
        lstm, last = state
        last = torch.zeros_like(s[:1]) if last is None else last
        # The product of s and s': where a bus has led to is a fact of both.
        x = s + s * torch.cat([last, s[:-1]]) + self.before(before)
        paid = steps["paid"].T[:T, :, None]
        x = x + paid * self.paid[steps["instruction"]].sum(1)
        if self.carried:
            x = pack_padded_sequence(x, length, enforce_sorted=False)
        x, lstm = self.lstm(x, lstm)
        if self.carried:
            x, _ = pad_packed_sequence(x)
        return torch.cat([x[t, b], now], 1), (t, b), (lstm, s[-1:])


def pad(rows, at, T, B):
    """Zeros (T, B, ...), but for these rows (R, ...) at (t, b), each (R,)."""
    return rows.new_zeros(T, B, *rows.shape[1:]).index_put(at, rows)


class QNetwork(nn.Module):
    """Recurrent dueling Q(tau_:t, i, z, .); no z where z_size is 0."""

    def __init__(self, spaces, num_actions, hidden, z_size):
        super().__init__()
        self.memory = Memory(spaces, num_actions, hidden)
        tokens = spaces["instruction"].nvec
        self.instruction = nn.Embedding(max(tokens), hidden)
        nn.init.normal_(self.instruction.weight, std=0.2)  # lest z drown
        self.attention = nn.Linear(2 * hidden, len(tokens))

        def stream(tokens, out):
            return nn.Sequential(
                nn.Linear((2 + tokens) * hidden + z_size, 2 * hidden),
                nn.ReLU(), nn.Linear(2 * hidden, 2 * hidden),
                nn.ReLU(), nn.Linear(2 * hidden, out),
            )

        self.value = stream(len(tokens), 1)
        self.advantage = stream(1, num_actions)

    def forward(self, steps, length, z, state=(None, None)):
        """Q (T, B, A), 0 from t = length (B,) on, given z (B, Z); the state."""
        x, (t, b), state = self.memory(steps, length, state)
        tokens, z = self.instruction(steps["instruction"])[b], z[b]
        # What to do next hangs on one token, which the past tells (5: sharply);
        # the value of doing it on all.
        weight = (5 * self.attention(x)).softmax(1)[..., None]
        token = (weight * tokens).sum(1)
        v = self.value(torch.cat([x, tokens.flatten(1), z], 1))
        a = self.advantage(torch.cat([x, token, z], 1))
        q = v + a - a.mean(1, keepdim=True)
        return pad(q, (t, b), *steps["before"].T.shape), state


def td_loss(q, target_q, steps, reward, gamma, args):
    """Squared errors of double Q-learning with Watkins's or Peng's Q(lambda).

    Q (T + 1, B, A), replayed steps, reward (T, B); both 0 from the end on.
    Returns the loss of each trial, and what its start has proved worth, (B,).
    """
    action, best = steps["before"][:, 1:].T, q.argmax(2)
    with torch.no_grad():
        value = target_q.gather(2, best[..., None])[..., 0]
        # What follows an action that is not greedy is no news of greedy play.
        trace = args.lam * torch.where(action == best[:-1], 1.0, args.peng)
        # G_t = r_t + gamma ((1 - l_t+1) v_t+1 + l_t+1 G_t+1)
        returns, after = torch.zeros_like(reward), value[-1]
        for t in reversed(range(len(reward))):
            returns[t] = reward[t] + gamma * after
            after = torch.lerp(value[t], returns[t], trace[t])
    q = q[:-1].gather(2, action[..., None])[..., 0]
    return ((q - returns) ** 2).sum(0) / steps["length"].float().mean(), after


def rollout(task, options, policy, z, epsilon, rng, args, shown, state=None):
    """An epsilon-greedy episode in each of N copies, and its last info.

    Steps {name: (N, ...)}, padded: observation, the action before it ("none"
    first), what that has paid, if rewards are shown, and what the task renders,
    if it does (T + 1 of each); reward (T); instruction; length (on the CPU).
    """
    N, T, A = task.num_envs, task.max_steps, int(task.single_action_space.n)
    to = functools.partial(torch.as_tensor, device=z.device)
    batch, info = task.reset(options=options)
    seen, i = batch["observation"], to(batch["instruction"])
    observation = np.zeros((N, T + 1, *seen.shape[1:]), seen.dtype)
    before, reward = np.zeros((N, T + 1), int), np.zeros((N, T), np.float32)
    paid, state = np.zeros((N, T + 1), np.float32), state or (None, None)
    length, done, frames = torch.zeros(N, dtype=int), np.zeros(N, bool), []
    before[:, 0], ends, random = A, task.actions[-1] == "end", 0
    for t in range(T + 1):
        observation[:, t] = batch["observation"]
        if task.render_mode:
            frames.append(task.render())
        if t == T or done.all():
            break
        now = {"observation": to(observation[:, t, None]), "instruction": i}
        now |= {"before": to(before[:, t, None]), "paid": to(paid[:, t, None])}
        with torch.no_grad():
            q, state = policy(now, torch.ones_like(length), z, state)
        # An "end" drawn at random is drawn again, lest all episodes be short.
        new, again = rng.integers(A, size=(2, N))
        new = np.where(ends & (new == A - 1), again, new)
        repeats = (t > 0) & (rng.random(N) < args.sticky)
        random = np.where(repeats, random, new)
        greedy = q[0].argmax(1).cpu().numpy()
        action = np.where(rng.random(N) < epsilon, random, greedy)
        length += torch.as_tensor(~done)
        batch, reward[:, t], done, _, info = task.step(action)
        before[:, t + 1], paid[:, t + 1] = action, shown * reward[:, t]
    steps = {"observation": observation, "before": before, "paid": paid}
    if frames:
        steps["frames"] = np.stack(frames, 1)  # (N, up to T + 1, H, W, 3)
    steps = {name: to(x) for name, x in (steps | {"reward": reward}).items()}
    return steps | {"instruction": i, "length": length}, info


def store(replay, episodes, slots, capacity):
    """Put episodes {name: (N, ...)} into these slots (N,) of the replay."""
    for name, new in episodes.items():
        if name not in replay:
            replay[name] = new.new_empty(capacity, *new.shape[1:])
        replay[name][slots] = new


def sample(replay, batch):
    """These episodes (B,) of the replay."""
    to = {name: batch.to(x.device) for name, x in replay.items()}
    return {name: x.index_select(0, to[name]) for name, x in replay.items()}


# --- end of shared ----------------------------------------------------------
class Informed(nn.Module):
    """A memory that keeps to itself all but h: it passes on (h, s)."""

    def __init__(self, memory, num_problems, hidden):
        super().__init__()
        self.memory, self.gaps = memory, []
        self.id = nn.Embedding(num_problems, hidden)
        nn.init.normal_(self.id.weight, std=0.1)
        self.trial = nn.Linear(hidden, hidden)

    def forward(self, steps, length, state):
        x, (t, b), state = self.memory(steps, length, state)
        past, s = x.chunk(2, 1)
        id, trial = self.id(steps["problem"])[b], self.trial(past)
        if torch.is_grad_enabled():
            self.gaps.append(((trial - id.detach()) ** 2).sum(1))
        h = torch.where(steps["by_id"][b, None], id, trial)
        return torch.cat([h, s], 1), (t, b), state


class Agent(nn.Module):
    """Q(s, i, h, .), h of the problem id or of the whole trial so far."""

    def __init__(self, task, args):
        super().__init__()
        spaces = task.single_observation_space.spaces
        num_actions = int(task.single_action_space.n)
        self.policy = QNetwork(spaces, num_actions, args.hidden, z_size=0)
        informed = Informed(self.policy.memory, task.num_problems, args.hidden)
        self.policy.memory = informed

    def forward(self, steps, length, state=(None, None)):
        """Q (T, B, A), 0 from t = length (B,) on, and the state."""
        no_z = self.policy.attention.weight.new_zeros(len(length), 0)
        return self.policy(steps, length, no_z, state)


def losses(agent, target, exp, exe, args):
    """{name: errors, to be averaged}; of "embedding", one for each step."""
    agent.policy.memory.gaps.clear()
    loss = q_losses(agent, target, exp, exe, args)
    gaps = torch.cat(agent.policy.memory.gaps)  # of both episodes, every step
    return loss | {"embedding": args.pull * gaps}


# --- shared: meta-testing, command line and run directory -------------------
METHOD = Path(__file__).stem.strip("_")
VERSION = 1  # of what is saved
MAY_CHANGE = "commit", "total_steps", "run_dir", "overwrite", "resume", "eval"
MAY_CHANGE += ("checkpoint_minutes",)


def stop(message):
    """Bad input: one line, status 2."""
    tqdm.write(f"error: {message}".splitlines()[0], sys.stderr)
    sys.exit(2)


def parse():
    """The command line, over the defaults of its task."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("--env", choices=DEFAULTS, default=Args.env)
    env = scan.parse_known_args()[0].env
    return tyro.cli(Args, default=Args(env, **DEFAULTS[env]))


@functools.cache
def make(args, num_envs, split, **kwargs):
    """The task, vectorised; the same one when asked again."""
    if args.env == "coupling":
        kwargs["num_actions"] = args.num_actions
    if args.show_id:
        kwargs["show_id"] = True
    kwargs |= {"num_envs": num_envs, "split": split}
    task = gymnasium.make_vec(f"imrl/{args.env}-v0", **kwargs)
    return envs.Standard(task) if args.setting == "standard" else task


def instructions(pairs, K):
    """K instructions for each (problem, instruction), the given one first."""
    given = np.tile(pairs[:, 1], (K, 1))  # (K, P)
    for problem in np.unique(pairs[:, 0]):
        same = pairs[:, 0] == problem
        given[:, same] = [np.roll(given[0, same], k) for k in range(K)]
    return given


def play(agent, args, pairs, final, by_id=False):
    """Trials of these problems and instructions (P, 2), repeated where random.

    Greedy; by_id: execution knows the id, and exploration is half random. The
    exploration, the first execution, what was found, and returns (K, P).
    """
    if not make(args, 1, "test").exhaustive:  # of the 6 pairs, 504 or 102
        pairs = np.tile(pairs, (84 if final else 17, 1))
    copies = make(args, len(pairs), "test")
    copies.reset(seed=0)
    epsilons, rng = (0.5 if by_id else 0.0, 0.0), np.random.default_rng(0)
    given = pairs[:, 0], instructions(pairs, args.execution_episodes)
    by_id = np.full(len(pairs), by_id)
    exp, exes, found = trial(agent, copies, *given, by_id, args, epsilons, rng)
    paid = [exp["earned"]] if args.no_exploration else []
    paid += [exe["reward"] for exe in exes]
    return exp, exes[0], found, torch.stack(paid).double().sum(2)


def meta_test(agent, args, final):
    """A row of greedy test trials without the id, and both their episodes."""
    task = make(args, 1, "test")
    exp, exe, found, returns = play(agent, args, task.pairs(), final)
    row = {"test_return": returns.mean()}
    error = returns.mean(0).std(correction=0) / len(exe["length"]) ** 0.5
    # Which instruction an exploration is paid for, is drawn.
    drawn = args.exploration_rewards and args.setting == "imrl"
    row["test_return_se"] = 0.0 if task.exhaustive and not drawn else error
    if len(returns) > 1:
        row |= {f"test_return_{k + 1}": x.mean() for k, x in enumerate(returns)}
    row["optimal_return"] = task.optimal_return(*task.pairs().T).mean()
    row["exploration_steps"] = exp["length"].double().mean()
    row |= {name: value.mean() for name, value in found.items()}
    for name, pairs in task.groups().items():
        row[name] = play(agent, args, pairs, final)[3].mean()
    return {name: float(x) for name, x in row.items()}, exp, exe


def write(path, what):
    """A whole file or none: written beside, then renamed."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            if path.suffix == ".pt":
                torch.save(what, file)
            elif path.suffix == ".npz":
                np.savez_compressed(file, **what)
            else:
                file.write(what.encode())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink()
        # What the disk has said, torch keeps behind words of its own.
        stop(f"{path}: {error.__context__ or error}")


def load(path, device=None):
    """What this method has saved there."""
    try:
        saved = torch.load(path, device, weights_only=True)
        form = [saved["config"][name] for name in ("method", "version")]
    except Exception as error:  # of many kinds, where the file is not whole
        stop(f"{path}: {type(error).__name__}: {error}")
    if form != [METHOD, VERSION]:
        stop(f"{path}: method and version {form}, not {[METHOD, VERSION]}")
    return saved


def load_args(args):
    """The arguments, on the CPU, of a saved agent, and all that is saved."""
    saved = load(args.eval / "agent.pt", "cpu")
    config = {k: v for k, v in saved["config"].items() if hasattr(Args, k)}
    then = Args(**config | {"device": "cpu"})
    K = max(args.execution_episodes, then.execution_episodes)
    then.execution_episodes = K
    return then, saved


def prefixed(exp, exe):
    """Both episodes in one dictionary."""
    exp = {"exp_" + name: x for name, x in exp.items()}
    return exp | {"exe_" + name: x for name, x in exe.items()}


def open_run(args):
    """The run directory, the configuration, and the checkpoint to resume."""
    run = args.run_dir or Path("runs", METHOD, args.env, str(args.seed))
    git = f"git -C '{Path(__file__).resolve().parent}' rev-parse HEAD"
    status, commit = subprocess.getstatusoutput(git)
    config = {"method": METHOD, "version": VERSION}
    config |= {"commit": None if status else commit, **vars(args)}
    text = json.dumps(config, indent=1, default=str)
    config, saved = json.loads(text), None
    try:
        run.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in run.iterdir()}
        if args.resume and "checkpoint.pt" in names:
            saved = load(run / "checkpoint.pt")
            for name, value in saved["config"].items():
                now = config.get(name)
                if now != value and name not in MAY_CHANGE:
                    stop(f"--resume: {run} has {name} {value}, not {now}")
        elif args.resume and "agent.pt" in names:
            stop(f"--resume: {run} has no checkpoint.pt")
        elif names and not (args.overwrite or args.resume):
            stop(f"{run} is not empty; --resume goes on, --overwrite replaces")
        old = "progress.csv", "checkpoint.pt", "agent.pt"
        for name in () if saved else (*old, "episodes.npz", "film.npz"):
            (run / name).unlink(missing_ok=True)
    except OSError as error:
        stop(f"--run-dir: {run}: {error.strerror}")
    write(run / "config.json", text + "\n")
    return run, config, saved


def say(args, row):
    """The last line: the last row in words."""
    words = (
        "{env}, seed {seed}: test return {test_return:.3f} (standard error "
        "{test_return_se:.3f}, optimum {optimal_return:.3f}), exploration of "
        "{exploration_steps:.1f} steps, after {env_steps:,.0f} environment "
        "steps and {seconds:,.0f} seconds of training"
    )
    row = {name: float(value) for name, value in row.items()}
    print(words.format(**vars(args) | row))


# --- end of shared ----------------------------------------------------------
# --- shared: learning over the whole trial ----------------------------------
Memory.carried = True  # from exploration to execution


def q_losses(agent, target, exp, exe, args):
    """TD losses {name: (B,)} of both episodes of replayed trials."""

    def both(net):
        """Q (T + 1, B, A) of both episodes; the memory is carried across."""
        q_exp, (lstm, _) = net(exp, exp["length"] + 1)
        q_exe, _ = net(exe, exe["length"], (lstm, None))
        taken = torch.arange(len(q_exp))[:, None] < exp["length"]
        return q_exp * taken.to(q_exp.device)[..., None], q_exe

    q_exp, q_exe = both(agent)
    with torch.no_grad():
        target_exp, target_exe = both(target)
    inputs = q_exe, target_exe, exe, exe["reward"].T, args.gamma, args
    execution, start = td_loss(*inputs)

    # Exploration earns, with its last action, what execution is then worth;
    # no discount on the way, which would reward cutting it short.
    last = torch.arange(1, len(q_exp))[:, None] == exp["length"]
    reward = start * last.to(start.device)
    if args.no_exploration:  # it earns as well
        reward = reward + exp["reward"].T
    inputs = q_exp, target_exp, exp, reward, 1.0, args
    return {"execution": execution, "exploration": td_loss(*inputs)[0]}


def trial(agent, task, problem, instructions, by_id, args, epsilons, rng):
    """All episodes of a trial; the memory goes on from one to the next.

    An action before that is "none" marks a beginning. The id may be used where
    by_id (N,), in training. Returns the exploration {name: (N, ...)}, an
    execution like it for each of the instructions (N,), None where they are
    drawn, and what has been found.
    """
    no_z = next(agent.parameters()).new_zeros(len(problem), 0)
    known = {"problem": problem, "by_id": by_id}
    to = functools.partial(torch.as_tensor, device=no_z.device)
    known = {name: to(x) for name, x in known.items()}

    def policy(steps, length, _, state):
        return agent(steps | known, length, state)

    options = {"problem": problem}
    if args.no_exploration:
        options["instruction"], *instructions = instructions
    elif not args.exploration_rewards:
        options["instruction"] = "none"
    inputs = task, options, policy, no_z
    shown = args.exploration_rewards
    exp, info = rollout(*inputs, epsilons[0], rng, args, shown)
    drawn = "problem", "instruction"
    found = {name: x for name, x in info.items() if name not in drawn}
    exp["earned"] = exp["reward"]  # which in dream.py is of another kind
    episodes, state = [exp | known], (None, None)
    shown = args.setting == "standard"
    for instruction in instructions:
        last = episodes[-1]
        with torch.no_grad():
            _, (lstm, _) = agent(last, last["length"] + 1, state)
        options["instruction"], state = instruction, (lstm, None)
        exe, _ = rollout(*inputs, epsilons[1], rng, args, shown, state)
        episodes.append(exe | known)
    return episodes[0], episodes[1:], found


def save_trials(args):
    """--eval: many test trials of a saved agent, into its episodes.npz."""
    run = args.eval
    args, saved = load_args(args)
    agent = Agent(make(args, 1, "test"), args)
    agent.load_state_dict(saved["agent"])
    row, exp, exe = meta_test(agent, args, final=True)
    write(run / "episodes.npz", prefixed(exp, exe))
    say(args, saved["row"] | row)


def train(args, run, config, saved):
    torch.manual_seed(args.seed)
    task = make(args, args.num_envs, "train")
    agent = Agent(task, args).to(args.device)
    ema = get_ema_multi_avg_fn(1 - args.target_rate)
    target = AveragedModel(agent, multi_avg_fn=ema)
    optimizer = torch.optim.AdamW(
        agent.parameters(), args.learning_rate,
        weight_decay=args.weight_decay, fused=True,
    )
    # From 1 down to epsilon; epsilon, if there is but one copy
    spread = args.epsilon ** np.linspace(1, 0, args.num_envs)[::-1]
    drawn = [None] * (1 + args.no_exploration)
    replays, logged, rows, row = ({}, {}), {}, [], None
    priority = torch.ones(args.replay, device=args.device)
    steps = trials = updates = seconds = 0
    next_evaluation, checkpointed = 1, time.monotonic()
    learned = {"agent": agent, "target": target, "optimizer": optimizer}
    if saved:
        for name, part in learned.items():
            part.load_state_dict(saved[name])
        replays, priority, logged, rows, counts = saved["data"]
        steps, trials, updates, seconds, next_evaluation = counts
    bar = tqdm(total=args.total_steps, initial=steps, unit=" steps")
    with bar, suppress(KeyboardInterrupt):  # what was logged is kept
        while True:
            # EVALUATE
            final = steps >= args.total_steps
            if final or steps >= next_evaluation:
                row = {"env_steps": steps, "seconds": round(seconds, 2)}
                row |= {"trials": trials, "updates": updates}
                row |= meta_test(target.module, args, final)[0]
                for name, values in logged.items():
                    row[name] = torch.stack(values).mean().item()
                logged = {}
                next_evaluation = steps + args.eval_every
                rows.append(row)
                lines = row.keys(), *(past.values() for past in rows)
                lines = [",".join(map(str, line)) for line in lines]
                write(run / "progress.csv", "\n".join(lines) + "\n")
                bar.set_postfix(test_return=row["test_return"])
            if final:
                break

            # EXPLORE, then EXECUTE with the same memory
            began = time.perf_counter()
            # Each round has its own random numbers, resumed or not.
            rng = task.np_random = np.random.default_rng([args.seed, trials])
            torch.manual_seed(rng.integers(2**63))
            epsilons = rng.permutation(spread), spread
            mu = rng.choice(task.problems["train"], args.num_envs)
            by_id = rng.random(args.num_envs) < 0.5
            inputs = agent, task, mu, drawn, by_id, args, epsilons, rng
            exp, (exe,), _ = trial(*inputs)
            slots = torch.arange(trials, trials + args.num_envs) % args.replay
            for replay, episodes in zip(replays, (exp, exe)):
                store(replay, episodes, slots, args.replay)
                steps += int(episodes["length"].sum())
            trials += args.num_envs
            priority[slots] = priority.max()

            # UPDATE on trials that are likelier the larger their TD error
            size = args.updates * args.batch
            batches = priority[:trials].multinomial(size, replacement=True)
            for batch in batches.cpu().view(args.updates, args.batch):
                exp, exe = (sample(replay, batch) for replay in replays)
                loss = losses(agent, target.module, exp, exe, args)
                td = loss["execution"] + loss["exploration"]
                priority[batch] = (td.detach() + 1e-6) ** (args.priority / 2)
                loss = {name: value.mean() for name, value in loss.items()}
                optimizer.zero_grad()
                sum(loss.values()).backward()
                parameters = agent.parameters()
                norm = nn.utils.clip_grad_norm_(parameters, 10.0, foreach=True)
                optimizer.step()
                updates += 1
                target.update_parameters(agent)
                loss = {name + "_loss": value for name, value in loss.items()}
                for name, value in (loss | {"gradient_norm": norm}).items():
                    logged.setdefault(name, []).append(value.detach())
            for group in optimizer.param_groups:
                group["lr"] *= 0.5 ** (args.num_envs / args.halving)
            for name, values in logged.items():
                if not values[-1].isfinite():
                    stop(f"{name} is {values[-1]} after {steps} steps")
            seconds += time.perf_counter() - began
            bar.update(min(steps, args.total_steps) - bar.n)

            # CHECKPOINT
            minutes = (time.monotonic() - checkpointed) / 60
            due = minutes > args.checkpoint_minutes or steps >= args.total_steps
            if due and args.checkpoint_minutes:
                counts = steps, trials, updates, seconds, next_evaluation
                data = replays, priority, logged, rows, counts
                state = {k: part.state_dict() for k, part in learned.items()}
                state |= {"config": config, "data": data}
                write(run / "checkpoint.pt", state)
                checkpointed = time.monotonic()
    if row is not None:
        agent = {"config": config, "agent": target.module.state_dict()}
        write(run / "agent.pt", agent | {"row": row})
        say(args, row)


# --- end of shared ----------------------------------------------------------
if __name__ == "__main__":
    args = parse()
    try:
        if args.eval is None:
            make(args, 1, "test")
            train(args, *open_run(args))
        else:
            save_trials(args)
    except gymnasium.error.DependencyNotInstalled as error:
        stop(error)  # OpenGL
