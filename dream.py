"""DREAM: meta-reinforcement learning that decouples exploring from executing.

Liu, Raghunathan, Liang and Finn, Decoupling Exploration and Exploitation for
Meta-Reinforcement Learning without Sacrifices, ICML 2021, arXiv 2008.02790.

A trial is one exploration episode without reward in an unknown problem mu,
then an execution episode with an instruction i. Four parts learn:

    f(mu)            bottleneck   problem id -> what is worth knowing of it, z
    pi_exec(a|s,i,z) execution    learns from z = f(mu) before exploring works
    g(tau)           decoder      exploration -> z, without the id
    pi_exp(a|tau)    exploration  rewarded for what it tells the decoder of z

    python dream.py --env map --seed 0      # return 0.80 of 0.80, 5 minutes
"""

import argparse
import copy
import csv
import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import torch
import tyro
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from tqdm import tqdm

import envs as tasks

# What differs between tasks; everything else is the same for all.
DEFAULTS = {
    "coupling": dict(total_steps=8_000, explore_after=500, epsilon_trials=1_000),
    "bus": dict(),
    "map": dict(),
    "distracting-bus": dict(total_steps=1_500_000, explore_after=30_000),
    "cooking": dict(total_steps=2_000_000, explore_after=30_000),
    "sign-nav": dict(
        total_steps=1_000_000, replay=8_000, cost=0.0, gamma=0.97,
        explore_after=4_000, epsilon_trials=8_000,
    ),
}


@dataclasses.dataclass
class Args:
    env: Literal[tuple(DEFAULTS)] = "map"
    """the task"""
    seed: int = 0
    """of everything random"""
    total_steps: int = 600_000
    """environment steps of training, exploration and execution together"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one"""
    run_dir: Path | None = None
    """where results go; runs/dream/<env>/<seed> if not given"""
    overwrite: bool = False
    """replace what an earlier run left in the run directory"""
    eval: Path | None = None
    """evaluate the agent of this run directory instead of training"""
    eval_every: int = 20_000
    """environment steps between evaluations"""

    num_envs: int = 64
    """trials that run side by side"""
    updates: int = 8
    """gradient steps after each num_envs trials"""
    batch: int = 64
    """trials in a gradient step"""
    replay: int = 16_000
    """trials kept for replay"""
    learn_after: int = 500
    """trials before the first gradient step"""
    learning_rate: float = 1e-3
    """of Adam"""
    gamma: float = 0.99
    """discount"""
    lam: float = 0.7
    """of the lambda-returns"""
    target_every: int = 100
    """gradient steps between copies into the target networks"""
    explore_after: int = 10_000
    """trials before the exploration policy learns"""
    epsilon_trials: int = 15_000
    """trials over which each policy's epsilon falls from 1 to epsilon_end"""
    epsilon_end: float = 0.02
    """share of random actions in the end"""
    cost: float = 0.02
    """c, price of an exploration step"""
    z_size: int = 64
    """dimensions of z"""
    noise: float = 0.1
    """rho, standard deviation of z around f(mu)"""
    beta: float = 1e-3
    """weight of the bottleneck's ||f(mu)||^2"""
    hidden: int = 64
    """units of each layer"""


# --- shared: networks -------------------------------------------------------
class Features(nn.Module):
    """What is sensed -> (..., hidden): embedded tokens, or a small convnet."""

    def __init__(self, space, hidden):
        super().__init__()
        self.frames = len(space.shape) == 3
        if self.frames:
            self.first = nn.Sequential(
                nn.Conv2d(3, 16, 8, 4),  # 60 x 80 -> 14 x 19
                nn.ReLU(),
                nn.Conv2d(16, 32, 4, 2),  # -> 6 x 8
                nn.ReLU(),
                nn.Flatten(),
            )
            self.second = nn.Linear(32 * 6 * 8, hidden)
        else:
            start = np.cumsum([0, *space.nvec[:-1]])
            self.register_buffer("start", torch.tensor(start))
            self.first = nn.EmbeddingBag(int(space.nvec.sum()), hidden, mode="sum")
            self.second = nn.Linear(hidden, hidden)

    def forward(self, x):  # (N, ...)
        if self.frames:
            x = self.first(x.permute(0, 3, 1, 2) / 255 - 0.5)
        else:
            x = self.first(x.long() + self.start).relu()
        return self.second(x).relu()


class Memory(nn.Module):
    """Recurrent over observations and the actions before them.

    Episodes come packed, without padding: R rows (t, b), time-major, the
    longest episode first, and `sizes`, how many run at each t (on the CPU).
    """

    def __init__(self, spaces, num_actions, hidden):
        super().__init__()
        self.features = Features(spaces["observation"], hidden)
        self.previous = nn.Embedding(num_actions + 1, hidden)
        self.lstm = nn.LSTM(hidden, hidden)

    def forward(self, observation, previous, sizes, state=None):
        """(R, ...), (R,) -> (R, 2 * hidden), new state."""
        features = self.features(observation)
        x = PackedSequence(features + self.previous(previous), sizes)
        x, state = self.lstm(x, state)
        return torch.cat([x.data, features], 1), state


class QNetwork(nn.Module):
    """Dueling Q(tau, i, z), recurrent; z is left out where z_size is 0."""

    def __init__(self, spaces, num_actions, hidden, z_size=0):
        super().__init__()
        self.memory = Memory(spaces, num_actions, hidden)
        self.instruction = Features(spaces["instruction"], hidden)
        self.hidden = nn.Linear(3 * hidden + z_size, 2 * hidden)
        self.value = nn.Linear(2 * hidden, 1)
        self.advantage = nn.Linear(2 * hidden, num_actions)

    def forward(self, observation, previous, i, z, sizes, state=None):
        """(R, ...), (R,), (R, I), (R, Z) or None -> Q (R, A), new state."""
        x, state = self.memory(observation, previous, sizes, state)
        x = [x, self.instruction(i)] if z is None else [x, self.instruction(i), z]
        x = self.hidden(torch.cat(x, 1)).relu()
        advantage = self.advantage(x)
        advantage = advantage - advantage.mean(1, keepdim=True)
        return self.value(x) + advantage, state


# --- end of shared ----------------------------------------------------------


class Bottleneck(nn.Module):
    """f: problem id -> mean of z. It starts near zero, so that z holds only
    what the execution loss puts there."""

    def __init__(self, num_problems, z_size):
        super().__init__()
        self.f = nn.Embedding(num_problems, z_size)
        nn.init.normal_(self.f.weight, std=0.02)

    def forward(self, mu):  # (B,) -> (B, Z)
        return self.f(mu)


class Decoder(nn.Module):
    """g: an exploration so far -> z."""

    def __init__(self, spaces, num_actions, hidden, z_size):
        super().__init__()
        self.memory = Memory(spaces, num_actions, hidden)
        self.out = nn.Linear(2 * hidden, z_size)
        nn.init.zeros_(self.out.weight)

    def forward(self, observation, previous, sizes):
        """-> g(tau_:t) of every prefix, (R, Z)."""
        x, _ = self.memory(observation, previous, sizes)
        return self.out(x)


class Dream(nn.Module):
    """The four parts."""

    def __init__(self, spaces, num_actions, num_problems, args):
        super().__init__()
        sizes = spaces, num_actions, args.hidden
        self.f = Bottleneck(num_problems, args.z_size)
        self.g = Decoder(*sizes, args.z_size)
        self.execution = QNetwork(*sizes, args.z_size)
        self.exploration = QNetwork(*sizes)


# --- shared: Q-learning -----------------------------------------------------
class Replay:
    """The latest trials, {name: (capacity, ...)}, on the learning device."""

    def __init__(self, capacity, device):
        self.capacity, self.device = capacity, device
        self.data, self.count = {}, 0

    def add(self, trials):
        """Trials {name: (N, ...)}; the oldest give way."""
        n = len(next(iter(trials.values())))
        slots = torch.arange(self.count, self.count + n) % self.capacity
        for name, value in trials.items():
            if name not in self.data:
                shape = self.capacity, *value.shape[1:]
                self.data[name] = value.new_empty(shape)
            self.data[name][slots] = value
        self.count += n

    def sample(self, batch):
        """Which trials: uniform indices (batch,)."""
        return torch.randint(min(self.count, self.capacity), (batch,))


class Packed:
    """Steps of episodes without padding: rows (t, b), time-major.

    `trials` says which of the stored episodes, and b is a place in it; the
    longest episode comes first, as `sizes`, how many run at each t, needs it.
    All indices are on the CPU: nothing has to wait for a GPU.
    """

    def __init__(self, data, trials, prefix="", ends=False):
        """With `ends`, also the observation after the last action."""
        self.data, self.prefix, self.trials = data, prefix, trials
        self.length = data[prefix + "length"][trials]
        count, order = (self.length + ends).sort(descending=True, stable=True)
        running = torch.arange(int(count[0]))[:, None] < count
        self.t, column = running.nonzero(as_tuple=True)
        self.b, self.sizes = order[column], running.sum(1)

    def __getitem__(self, name):
        """What is stored for each step, (N, T, ...) -> (R, ...)."""
        return self.data[self.prefix + name][self.trials[self.b], self.t]

    def inputs(self):
        """Observation, action before it, instruction: (R, ...), and sizes."""
        i = self.data[self.prefix + "instruction"][self.trials][self.b]
        return self["observation"], self["previous"], i

    def pad(self, rows):
        """(R, ...) -> (T, B, ...), zeros where an episode is over."""
        shape = len(self.sizes), len(self.trials), *rows.shape[1:]
        return rows.new_zeros(shape).index_put((self.t, self.b), rows)

    def at_end(self, rows):
        """(R, ...) -> (B, ...), the row after the last action."""
        end = self.t == self.length[self.b]
        shape = len(self.trials), *rows.shape[1:]
        return rows.new_zeros(shape).index_put((self.b[end],), rows[end])


def lambda_returns(reward, value, length, gamma, lam):
    """G_t = r_t + gamma ((1 - lam) v_t+1 + lam G_t+1), and r_t at the end.

    reward and value are (T, B); value[t] is that of observation t.
    """
    returns = torch.zeros_like(reward)
    following = torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        running = t + 1 < length
        returns[t] = reward[t] + gamma * following * running
        following = (1 - lam) * value[t] + lam * returns[t]
    return returns


def q_loss(policy, target, tau, reward, z, args):
    """Squared error of Q to the lambda-returns of double Q-learning.

    tau is Packed, reward (T, B), z (B, Z) or None.
    """
    z = None if z is None else z[tau.b]
    inputs = *tau.inputs(), z, tau.sizes
    q, _ = policy(*inputs)
    with torch.no_grad():
        target_q, _ = target(*inputs)
        value = tau.pad(target_q.gather(1, q.argmax(1, keepdim=True))[:, 0])
        length = tau.length.to(q.device)
        returns = lambda_returns(reward, value, length, args.gamma, args.lam)
    taken = q.gather(1, tau["action"][:, None])[:, 0]
    return ((taken - returns[tau.t, tau.b]) ** 2).mean()


def rollout(envs, options, policy, z, epsilon, rng):
    """One epsilon-greedy episode in each of N copies, and its last info.

    Returns {name: (N, ...)}: observation and previous action (T + 1 of them,
    the first "none"), action and reward (T), instruction, length.
    """
    N, T, A = envs.num_envs, envs.max_steps, envs.single_action_space.n
    device = next(policy.parameters()).device
    batch, info = envs.reset(options=options)
    first = batch["observation"]
    kind = np.uint8 if first.dtype == np.uint8 else np.int16
    observation = np.zeros((N, T + 1, *first.shape[1:]), kind)
    previous, reward = np.full((N, T + 1), A), np.zeros((N, T), np.float32)
    observation[:, 0], length = first, np.zeros(N, int)
    i = torch.as_tensor(batch["instruction"], device=device)
    done, state, sizes = np.zeros(N, bool), None, torch.tensor([N])
    for t in range(T):
        sensed = torch.as_tensor(observation[:, t], device=device)
        before = torch.as_tensor(previous[:, t], device=device)
        with torch.no_grad():
            q, state = policy(sensed, before, i, z, sizes, state)
        greedy = q.argmax(1).cpu().numpy()
        random = rng.random(N) < epsilon
        action = np.where(random, rng.integers(A, size=N), greedy)
        length += ~done
        batch, reward[:, t], done, _, info = envs.step(action)
        observation[:, t + 1], previous[:, t + 1] = batch["observation"], action
        if done.all():
            break
    action = np.where(previous < A, previous, 0)[:, 1:]
    tau = dict(observation=observation, previous=previous, action=action, reward=reward)
    tau = {name: torch.as_tensor(value, device=device) for name, value in tau.items()}
    return tau | {"instruction": i, "length": torch.as_tensor(length)}, info


# --- end of shared ----------------------------------------------------------
def losses(agent, target, data, trials, args, explore=True):
    """{name: scalar} of what is learned from a batch of replayed trials."""
    f = agent.f(data["problem"][trials])  # (B, Z)
    exp = Packed(data, trials, "exp_", ends=True)  # prefixes t = 0 ... T
    observation, previous, _ = exp.inputs()
    g = agent.g(observation, previous, exp.sizes)  # g(tau_:t), (R, Z)

    # Decoder: -log q(z | tau_:t) for the z that the bottleneck keeps.
    error = ((f.detach()[exp.b] - g) ** 2).sum(1)
    loss = {"decoder": error.mean()}

    # Bottleneck: KL(F(z | mu) || N(0, rho^2 I)), but for a constant factor.
    loss["bottleneck"] = (f**2).sum(1).mean()

    # Execution: on z ~ F(z | mu) or on z = g(tau), drawn once for each trial.
    noisy = f + args.noise * torch.randn_like(f)
    z = torch.where(data["from_id"][trials][:, None], noisy, exp.at_end(g))
    exe = Packed(data, trials, "exe_")
    reward = exe.pad(exe["reward"])
    loss["execution"] = q_loss(
        agent.execution, target.execution, exe, reward, z, args
    )

    # Exploration: r_t = |f - g(tau_:t)|^2 - |f - g(tau_:t+1)|^2 - c, what each
    # step tells the decoder, recomputed here as both have learned on.
    if explore:
        distance = exp.pad(error.detach())
        reward = distance[:-1] - distance[1:] - args.cost
        exp = Packed(data, trials, "exp_")
        loss["exploration"] = q_loss(
            agent.exploration, target.exploration, exp, reward, None, args
        )
    return loss


def explore(agent, envs, problem, epsilon, rng):
    """An exploration of each problem: tau, z = g(tau) (N, Z), its end's info,
    and |f(mu) - g(tau_:t)|^2, (T + 1, N), zero after the end."""
    options = {"problem": problem, "instruction": "none"}
    tau, info = rollout(envs, options, agent.exploration, None, epsilon, rng)
    steps = Packed(tau, torch.arange(len(problem)), ends=True)
    with torch.no_grad():
        observation, previous, _ = steps.inputs()
        g = agent.g(observation, previous, steps.sizes)
        f = agent.f(torch.as_tensor(problem, device=g.device))
        distance = steps.pad(((f[steps.b] - g) ** 2).sum(1))
        return tau, steps.at_end(g), info, distance


def execute(agent, envs, problem, instruction, z, epsilon, rng):
    """An execution of each instruction on z (N, Z)."""
    options = {"problem": problem, "instruction": instruction}
    return rollout(envs, options, agent.execution, z, epsilon, rng)[0]


# --- shared: command line and run directory ---------------------------------
def stop(message):
    """Bad input: one line, status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse():
    """The command line, over the defaults of its task."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("--env", default=Args.env)
    env = scan.parse_known_args()[0].env
    args = tyro.cli(Args, default=Args(env=env, **DEFAULTS.get(env, {})))
    for field in dataclasses.fields(Args):
        value = getattr(args, field.name)
        option = "--" + field.name.replace("_", "-")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low = 0 if field.name in MAY_BE_ZERO else 1 if type(value) is int else 1e-9
            high = 1 if field.name in SHARES else math.inf
            if not low <= value <= high or value == math.inf:
                above = f"at least {low}" if low != 1e-9 else "above 0"
                below = f" and at most {high}" if high == 1 else ""
                stop(f"{option} is {above}{below}, not {value}")
    if args.device == "cuda" and not torch.cuda.is_available():
        stop("--device cuda: there is no GPU that PyTorch can use; use cpu")
    return args


def open_run(args, method):
    """Makes the run directory with config.json; its path."""
    run = args.run_dir or Path("runs", method, args.env, str(args.seed))
    try:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            if not run.is_dir() or not args.overwrite:
                stop(f"{run} holds an earlier run; --overwrite replaces it")
            for name in ("progress.csv", "config.json", "agent.pt", "episodes.npz"):
                (run / name).unlink(missing_ok=True)
        run.mkdir(parents=True, exist_ok=True)
        git = ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"]
        try:
            commit = subprocess.check_output(git, stderr=subprocess.DEVNULL, text=True)
        except (OSError, subprocess.CalledProcessError):
            commit = ""
        config = {k: v for k, v in vars(args).items() if not isinstance(v, Path)}
        config |= dict(method=method, commit=commit.strip(), torch=torch.__version__)
        (run / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        stop(f"--run-dir: cannot write to {run}: {error.strerror}")
    return run


def make(env, **kwargs):
    """The task, vectorised; without OpenGL, sign-nav says what to install."""
    try:
        return gymnasium.make_vec(f"imrl/{env}-v0", **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        stop(str(error))


class Log:
    """progress.csv, a row for each evaluation."""

    def __init__(self, path):
        self.file, self.last = open(path, "w", newline=""), None

    def write(self, row):
        row = {k: round(float(v), 6) if isinstance(v, float) else v for k, v in row.items()}
        writer = csv.DictWriter(self.file, list(row))
        if self.last is None:
            writer.writeheader()
        writer.writerow(row)
        self.file.flush()
        self.last = row


# --- end of shared ----------------------------------------------------------
MAY_BE_ZERO = {"seed", "learn_after", "explore_after", "cost", "noise", "beta", "gamma", "lam", "epsilon_end"}
SHARES = {"gamma", "lam", "epsilon_end"}


class Evaluation:
    """Greedy meta-test trials of all that a task asks for."""

    def __init__(self, args):
        self.args = args
        task = make(args.env, num_envs=1)
        self.groups = task.groups()
        self.exhaustive = args.env != "sign-nav"
        self.known = task.pairs("train", "train")
        pairs = self.groups["test_return"]
        self.optimum = task.optimal_return(*pairs.T).mean()

    def play(self, agent, pairs, repeats=1, by_id=False):
        pairs = np.tile(pairs, (1 if self.exhaustive else repeats, 1))
        envs = make(self.args.env, num_envs=len(pairs), split="test")
        envs.reset(seed=1)
        rng = np.random.default_rng(0)  # nothing is drawn: epsilon is 0
        problem, instruction = pairs.T
        exp, z, info, distance = explore(agent, envs, problem, 0.0, rng)
        if by_id:
            with torch.no_grad():
                z = agent.f(torch.as_tensor(problem, device=z.device))
        exe = execute(agent, envs, problem, instruction, z, 0.0, rng)
        return dict(exp=exp, z=z, info=info, exe=exe, pairs=pairs, distance=distance)

    def row(self, agent, repeats):
        row = {}
        for name, pairs in self.groups.items():
            trials = self.play(agent, pairs, repeats)
            returns = trials["exe"]["reward"].sum(1).double()
            row[name] = returns.mean().item()
            if name == "test_return":
                n = len(returns)
                row["test_return_se"] = 0.0 if self.exhaustive else returns.std().item() / n**0.5
                row["optimal_return"] = float(self.optimum)
                row["exploration_steps"] = trials["exp"]["length"].double().mean().item()
                for measure, value in trials["info"].items():
                    if measure not in ("problem", "instruction"):
                        row[f"exploration_{measure}"] = float(value.mean())
        trials = self.play(agent, self.known, repeats, by_id=True)
        row["return_with_id"] = trials["exe"]["reward"].sum(1).double().mean().item()
        return row


def train(args, run):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    device = device if args.device == "auto" else args.device
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    envs = make(args.env, num_envs=args.num_envs)
    envs.reset(seed=args.seed)
    space = envs.single_observation_space.spaces
    size = space, int(envs.single_action_space.n), len(envs.offers["test"])
    agent = Dream(*size, args).to(device)
    target = copy.deepcopy(agent)
    slow = [p for name, p in agent.named_parameters() if not name.startswith("f.")]
    optimizer = torch.optim.Adam(
        [{"params": slow}, {"params": agent.f.parameters(), "lr": 4 * args.learning_rate}],
        lr=args.learning_rate, fused=True,
    )
    replay = Replay(args.replay, device)
    evaluation = Evaluation(args)
    log = Log(run / "progress.csv")
    bar = tqdm(total=args.total_steps, unit="step", smoothing=0.05)
    steps = trials = updates = 0
    seconds, next_eval, sums, n_sums = 0.0, args.eval_every, {}, {}

    def note(name, value, weight=1):
        sums[name] = sums.get(name, 0) + value * weight
        n_sums[name] = n_sums.get(name, 0) + weight

    def anneal(start):
        done = max(0, trials - start) / args.epsilon_trials
        return max(args.epsilon_end, 1 - done * (1 - args.epsilon_end))

    try:
        while steps < args.total_steps:
            began = time.perf_counter()
            # EXPLORE
            problem = rng.choice(envs.problems["train"], args.num_envs)
            exp, z, info, distance = explore(agent, envs, problem, anneal(args.explore_after), rng)
            # RELABEL
            with torch.no_grad():
                mu = torch.as_tensor(problem, device=device)
                f = agent.f(mu)
                from_id = torch.as_tensor(rng.random(args.num_envs) < 0.5, device=device)
                noisy = f + args.noise * torch.randn_like(f)
                z = torch.where(from_id[:, None], noisy, z)
                left = distance[exp["length"], torch.arange(args.num_envs)]
            found = next((v for k, v in info.items() if k not in ("problem", "instruction")), None)
            informed = left[torch.as_tensor(found > 0, device=device)]
            note("exploration_reward", (distance[0] - left - args.cost * exp["length"]).mean().item())
            note("decoder_error", left.mean().item())
            note("decoder_error_informed", informed.sum().item(), 1)
            note("_informed", len(informed))
            note("train_exploration_steps", exp["length"].double().mean().item())
            # EXECUTE
            exe = execute(agent, envs, problem, None, z, anneal(args.learn_after), rng)
            steps += int(exp["length"].sum() + exe["length"].sum())
            trials += args.num_envs
            note("train_return", exe["reward"].sum(1).mean().item())
            stored = {"problem": mu, "from_id": from_id}
            stored |= {"exp_" + name: value for name, value in exp.items()}
            replay.add(stored | {"exe_" + name: value for name, value in exe.items()})
            # UPDATE
            for _ in range(args.updates if trials >= args.learn_after else 0):
                batch = replay.sample(args.batch)
                loss = losses(agent, target, replay.data, batch, args, trials >= args.explore_after)
                total = sum(loss.values()) + (args.beta - 1) * loss["bottleneck"]
                optimizer.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 10, foreach=True)
                optimizer.step()
                updates += 1
                if updates % args.target_every == 0:
                    target.load_state_dict(agent.state_dict())
                for name, value in loss.items():
                    note(name + "_loss", value.item())
            seconds += time.perf_counter() - began
            bar.update(min(steps, args.total_steps) - bar.n)
            # EVALUATE
            if steps >= next_eval or steps >= args.total_steps:
                next_eval += args.eval_every
                final = steps >= args.total_steps
                row = dict(env_steps=steps, seconds=seconds, trials=trials, updates=updates)
                row |= evaluation.row(agent, 84 if final else 17)
                with torch.no_grad():
                    f = agent.f(torch.as_tensor(envs.problems["train"], device=device))
                row["f_norm2"] = (f**2).sum(1).mean().item()
                row["prior_error"] = ((f - f.mean(0)) ** 2).sum(1).mean().item()
                names = ("exploration_reward", "decoder_error", "train_exploration_steps", "train_return",
                    "execution_loss", "exploration_loss", "decoder_loss")
                for name in names:
                    row[name] = sums.get(name, math.nan) / max(n_sums.get(name, 1), 1)
                row["decoder_error_informed"] = sums["decoder_error_informed"] / max(sums["_informed"], 1)
                sums.clear(); n_sums.clear()
                log.write(row)
                bar.set_postfix_str(f"return {row['test_return']:.2f}, exploration {row['exploration_steps']:.1f} steps")
    except KeyboardInterrupt:
        pass
    bar.close()
    torch.save(agent.state_dict(), run / "agent.pt")
    print(log.last)


if __name__ == "__main__":
    args = parse()
    train(args, open_run(args, "dream"))
