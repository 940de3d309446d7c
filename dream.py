"""DREAM: meta-reinforcement learning that learns to explore and to execute apart.

Liu, Raghunathan, Liang and Finn, Decoupling Exploration and Exploitation for
Meta-Reinforcement Learning without Sacrifices, ICML 2021, arXiv 2008.02790.

A trial is an exploration episode without reward in an unknown problem mu, then
an execution episode with an instruction i. Four parts learn:

    f(mu)            bottleneck    problem id -> z, what is worth knowing of mu
    pi_exec(a|s,i,z) execution     learns on z = f(mu) before exploring works
    g(tau)           decoder       exploration -> z, without the id
    pi_exp(a|tau)    exploration   rewarded for what it tells g about z

    python dream.py --env map      # return 0.80 of 0.80 in 5 minutes on a CPU
"""

import argparse
import copy
import csv
import dataclasses
import functools
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

import envs

# All that differs between tasks.
DEFAULTS = {
    "coupling": dict(total_steps=5_000, explore_after=500),
    "bus": dict(),
    "map": dict(),
    "distracting-bus": dict(total_steps=1_500_000, explore_after=30_000),
    "cooking": dict(total_steps=2_000_000, explore_after=30_000),
    "sign-nav": dict(
        total_steps=1_000_000, updates=16, batch=32, replay=8_000, cost=0.0,
        gamma=0.97, explore_after=4_000,
    ),
}


@dataclasses.dataclass
class Args:
    env: Literal[tuple(DEFAULTS)] = "map"
    """the task"""
    seed: int = 0
    """of all that is random"""
    total_steps: int = 600_000
    """environment steps of training, exploration and execution"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU, where there is one"""
    run_dir: Path | None = None
    """for the results; runs/<method>/<env>/<seed> if None"""
    overwrite: bool = False
    """replace what an earlier run has left there"""
    eval: Path | None = None
    """instead of training, evaluate the agent in this run directory"""
    eval_every: int = 20_000
    """environment steps between evaluations"""
    num_actions: int = 8
    """A, of coupling"""
    num_envs: int = 64
    """trials side by side"""
    updates: int = 4
    """gradient steps after num_envs trials"""
    batch: int = 128
    """trials in a gradient step"""
    replay: int = 16_000
    """trials in the replay"""
    learn_after: int = 500
    """trials before the first gradient step"""
    explore_after: int = 5_000
    """trials before the exploration policy learns too"""
    epsilon: float = 0.15
    """share of random actions, least: geometric over the copies, from 1"""
    learning_rate: float = 1e-3
    """of Adam; four times that for f"""
    target_every: int = 100
    """gradient steps between copies to the target network"""
    gamma: float = 0.99
    """discount"""
    lam: float = 0.7
    """lambda of the returns that Q learns"""
    hidden: int = 64
    """units in a layer"""
    z_size: int = 64
    """dimensions of z"""
    noise: float = 0.1
    """rho, standard deviation of z around f(mu)"""
    beta: float = 1e-3
    """weight of the bottleneck's |f(mu)|^2"""
    cost: float = 0.02
    """c, price of a step of exploration"""


# --- shared: networks -------------------------------------------------------
class Features(nn.Module):
    """What is sensed, (R, ...), -> (R, hidden)."""

    def __init__(self, space, hidden):
        super().__init__()
        if len(space.shape) == 3:  # frames
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 8, 4),  # (R, 3, 60, 80) -> (R, 16, 14, 19)
                nn.ReLU(),
                nn.Conv2d(16, 32, 4, 2),  # -> (R, 32, 6, 8)
                nn.Flatten(),
            )
            self.out = nn.Linear(32 * 6 * 8, hidden)
        else:  # tokens
            self.net = nn.EmbeddingBag(space.nvec.sum(), hidden, mode="sum")
            self.out = nn.Linear(hidden, hidden)
            first = torch.tensor([0, *space.nvec[:-1]]).cumsum(0)
            self.register_buffer("first", first)

    def forward(self, x):
        if x.dtype == torch.uint8:
            x = x.permute(0, 3, 1, 2) / 255 - 0.5
        else:
            x = x.long() + self.first
        return self.out(self.net(x).relu()).relu()


class Memory(nn.Module):
    """Recurrent over observations and the actions before them.

    Rows (R, ...) are the steps of Packed episodes, `sizes` how many run at
    each t. Returns (R, 2 * hidden) and the state after the last t.
    """

    def __init__(self, spaces, num_actions, hidden):
        super().__init__()
        self.features = Features(spaces["observation"], hidden)
        self.before = nn.Embedding(num_actions + 1, hidden)
        self.lstm = nn.LSTM(hidden, hidden)

    def forward(self, observation, before, sizes, state=None):
        features = self.features(observation)
        x = PackedSequence(features + self.before(before), sizes)
        x, state = self.lstm(x, state)
        return torch.cat([x.data, features], 1), state


class QNetwork(nn.Module):
    """Dueling Q(tau_:t, i, z, .), (R, A); without z where z_size is 0."""

    def __init__(self, spaces, num_actions, hidden, z_size=0):
        super().__init__()
        self.memory = Memory(spaces, num_actions, hidden)
        self.instruction = Features(spaces["instruction"], hidden)
        self.body = nn.Sequential(
            nn.Linear(3 * hidden + z_size, 2 * hidden),
            nn.ReLU(),
            nn.Linear(2 * hidden, 2 * hidden),
            nn.ReLU(),
        )
        self.value = nn.Linear(2 * hidden, 1)
        self.advantage = nn.Linear(2 * hidden, num_actions)

    def forward(self, observation, before, sizes, i, z=None, state=None):
        x, state = self.memory(observation, before, sizes, state)
        x = [x, self.instruction(i)] + ([] if z is None else [z])
        x = self.body(torch.cat(x, 1))
        advantage = self.advantage(x)
        mean = advantage.mean(1, keepdim=True)
        return self.value(x) + advantage - mean, state


# --- shared: Q-learning on replayed episodes --------------------------------
class Replay:
    """The latest trials, {name: (capacity, ...)}."""

    def __init__(self, capacity):
        self.capacity, self.data, self.count = capacity, {}, 0

    def add(self, trials):
        """Trials {name: (N, ...)}; the oldest give way."""
        n = len(trials["problem"])
        slots = torch.arange(self.count, self.count + n) % self.capacity
        for name, value in trials.items():
            if name not in self.data:
                shape = self.capacity, *value.shape[1:]
                self.data[name] = value.new_empty(shape)
            self.data[name][slots] = value
        self.count += n

    def sample(self, batch):
        """Indices (batch,) of uniform trials."""
        return torch.randint(min(self.count, self.capacity), (batch,))


class Packed:
    """Steps of episodes without padding: R rows (t, b), ordered by t.

    b is a place in `trials`, indices into the data {name: (N, ...)}. At each t
    the longest episodes come first, as PackedSequence wants it. With `ends`
    the observation after the last action has its row too. Indices stay on the
    CPU, so that nothing waits for a GPU.
    """

    def __init__(self, data, trials, prefix, ends=False):
        self.data, self.trials, self.prefix = data, trials, prefix
        self.length = data[prefix + "length"][trials]
        count, order = (self.length + ends).sort(descending=True, stable=True)
        running = torch.arange(int(count[0]))[:, None] < count
        self.sizes = running.sum(1)
        self.t, column = running.nonzero(as_tuple=True)
        self.b = order[column]

    def rows(self, name):
        """What is stored for each step, (N, T, ...) -> (R, ...)."""
        return self.data[self.prefix + name][self.trials[self.b], self.t]

    def inputs(self):
        """What a Memory takes."""
        return self.rows("observation"), self.rows("before"), self.sizes

    def pad(self, rows):
        """(R, ...) -> (T, B, ...), zero where an episode is over."""
        shape = len(self.sizes), len(self.trials), *rows.shape[1:]
        return rows.new_zeros(shape).index_put((self.t, self.b), rows)

    def last(self, rows):
        """(R, ...) -> (B, ...), what stands at the end, t = length."""
        end = self.t == self.length[self.b]
        shape = len(self.trials), *rows.shape[1:]
        return rows.new_zeros(shape).index_put((self.b[end],), rows[end])


def lambda_returns(reward, value, length, gamma, lam):
    """G_t = r_t + gamma ((1 - lam) v_t+1 + lam G_t+1), all zero at the end.

    reward, value and G are (T, B), value[t] that of observation t.
    """
    returns = torch.zeros_like(reward)
    after = torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        returns[t] = reward[t] + gamma * after * (t + 1 < length)
        after = (1 - lam) * value[t] + lam * returns[t]
    return returns


def q_loss(policy, target, steps, reward, z, args):
    """Squared error of Q to the lambda-returns of double Q-learning.

    steps is Packed, reward (T, B), z (B, Z) or None.
    """
    i = steps.data[steps.prefix + "instruction"][steps.trials[steps.b]]
    inputs = *steps.inputs(), i, None if z is None else z[steps.b]
    q, _ = policy(*inputs)
    with torch.no_grad():
        target_q, _ = target(*inputs)
        value = steps.pad(target_q.gather(1, q.argmax(1, keepdim=True))[:, 0])
        length = steps.length.to(q.device)
        returns = lambda_returns(reward, value, length, args.gamma, args.lam)
    q = q.gather(1, steps.rows("action")[:, None])[:, 0]
    return ((q - returns[steps.t, steps.b]) ** 2).mean()


def rollout(task, options, policy, z, epsilon, rng):
    """An epsilon-greedy episode in each of N copies, and its last info.

    The episodes are {name: (N, ...)}: observation and the action before it
    (T + 1 of each, "none" first), action and reward (T), instruction, length.
    """
    N, T, A = task.num_envs, task.max_steps, int(task.single_action_space.n)
    to = functools.partial(torch.as_tensor, device=next(policy.parameters()).device)
    batch, info = task.reset(options=options)
    seen, i = batch["observation"], to(batch["instruction"])
    kind = np.uint8 if seen.dtype == np.uint8 else np.int16
    observation = np.zeros((N, T + 1, *seen.shape[1:]), kind)
    action, reward = np.full((N, T + 1), A), np.zeros((N, T), np.float32)
    length, done = np.zeros(N, int), np.zeros(N, bool)
    state, sizes = None, torch.tensor([N])
    for t in range(T):
        observation[:, t] = seen
        with torch.no_grad():
            now = to(observation[:, t]), to(action[:, t]), sizes
            q, state = policy(*now, i, z, state)
        greedy, random = q.argmax(1).cpu().numpy(), rng.integers(A, size=N)
        chosen = np.where(rng.random(N) < epsilon, random, greedy)
        length += ~done
        action[:, t + 1] = chosen
        batch, reward[:, t], done, _, info = task.step(chosen)
        seen = batch["observation"]
        observation[:, t + 1] = seen
        if done.all():
            break
    episodes = dict(observation=observation, before=action, reward=reward)
    episodes["action"] = action[:, 1:]
    episodes = {name: to(value) for name, value in episodes.items()}
    return episodes | {"instruction": i, "length": torch.as_tensor(length)}, info


# --- end of shared ----------------------------------------------------------
class Decoder(nn.Module):
    """g(tau_:t), (R, Z), of every prefix."""

    def __init__(self, spaces, num_actions, hidden, z_size):
        super().__init__()
        self.memory = Memory(spaces, num_actions, hidden)
        self.out = nn.Linear(2 * hidden, z_size)

    def forward(self, *inputs):
        return self.out(self.memory(*inputs)[0])


class Dream(nn.Module):
    """f, g, pi_exec and pi_exp."""

    def __init__(self, task, args):
        super().__init__()
        spaces = task.single_observation_space.spaces
        sizes = spaces, int(task.single_action_space.n), args.hidden
        self.f = nn.Embedding(len(task.offers["test"]), args.z_size)
        # From near zero, z holds only what the execution loss puts there.
        nn.init.normal_(self.f.weight, std=0.02)
        self.g = Decoder(*sizes, args.z_size)
        self.execution = QNetwork(*sizes, args.z_size)
        self.exploration = QNetwork(*sizes)


def losses(agent, target, data, trials, args, explore=True):
    """{name: scalar} of what a batch of replayed trials teaches."""
    f = agent.f(data["problem"][trials])  # (B, Z)
    exp = Packed(data, trials, "exp_", ends=True)
    g = agent.g(*exp.inputs())  # (R, Z), of the prefixes t = 0 ... length

    # Decoder: -log q(z | tau_:t) for the z that the bottleneck keeps.
    error = ((f.detach()[exp.b] - g) ** 2).sum(1)
    loss = {"decoder": error.mean()}

    # Bottleneck: KL(F(z | mu) || N(0, rho^2 I)), but for a constant factor.
    loss["bottleneck"] = args.beta * (f**2).sum(1).mean()

    # Execution: on z ~ F(z | mu) or z = g(tau), drawn once for each trial.
    noisy = f + args.noise * torch.randn_like(f)
    z = torch.where(data["from_id"][trials][:, None], noisy, exp.last(g))
    exe = Packed(data, trials, "exe_")
    reward, policies = exe.pad(exe.rows("reward")), (agent.execution, target.execution)
    loss["execution"] = q_loss(*policies, exe, reward, z, args)

    # Exploration: r_t = |f - g(tau_:t)|^2 - |f - g(tau_:t+1)|^2 - c, what a
    # step tells the decoder, by the f and g of now.
    if explore:
        distance = exp.pad(error.detach())
        reward = distance[:-1] - distance[1:] - args.cost
        exp, policies = Packed(data, trials, "exp_"), (agent.exploration, target.exploration)
        loss["exploration"] = q_loss(*policies, exp, reward, None, args)
    return loss


def trial(agent, task, problem, instruction, from_id, noise, epsilons, rng):
    """A trial in each copy, on z = f(mu) + noise where from_id, else g(tau).

    Returns the trials {name: (N, ...)}, |f(mu) - g(tau_:t)|^2 as (T + 1, N),
    zero after the end, and the last info of exploration.
    """
    device = agent.f.weight.device
    options = {"problem": problem, "instruction": "none"}
    exp, info = rollout(task, options, agent.exploration, None, epsilons[0], rng)
    steps = Packed(exp, torch.arange(len(problem)), "", ends=True)
    mu, from_id = torch.as_tensor(problem), torch.as_tensor(from_id)
    mu, from_id = mu.to(device), from_id.to(device)
    with torch.no_grad():
        f, g = agent.f(mu), agent.g(*steps.inputs())
        distance = steps.pad(((f[steps.b] - g) ** 2).sum(1))
        noisy = f + noise * torch.randn_like(f) if noise else f
        z = torch.where(from_id[:, None], noisy, steps.last(g))
    options["instruction"] = instruction
    options = {"problem": problem, "instruction": instruction}
    exe, _ = rollout(task, options, agent.execution, z, epsilons[1], rng)
    trials = {"problem": mu, "from_id": from_id, "z": z}
    trials |= {"exp_" + name: value for name, value in exp.items()}
    trials |= {"exe_" + name: value for name, value in exe.items()}
    return trials, distance, info


def evaluate(agent, args, repeats):
    """A row of progress.csv, and the meta-test trials that it tells of.

    Meta-test trials are greedy. Exploration as in training, on training
    problems, and execution on z = f(mu) then tell what has not been learned.
    """
    rng, task = np.random.default_rng(0), make(args, 1, "test")
    repeats = 1 if task.exhaustive else repeats
    row, kept = {}, None
    for name, pairs in task.groups().items():
        pairs = np.tile(pairs, (repeats, 1))
        test = make(args, len(pairs), "test")
        test.reset(seed=1)
        trials, distance, info = trial(agent, test, *pairs.T, pairs[:, 0] < 0, 0, (0, 0), rng)
        returns = trials["exe_reward"].sum(1).double()
        row[name] = returns.mean().item()
        if kept is None:
            kept = trials | {"distance": distance.T}
            error = returns.std().item() / len(pairs) ** 0.5
            row["test_return_se"] = 0.0 if task.exhaustive else error
            row["optimal_return"] = test.optimal_return(*pairs.T).mean()
            row["exploration_steps"] = trials["exp_length"].double().mean().item()
            del info["problem"], info["instruction"]
            row |= {name: value.mean() for name, value in info.items()}
    known = np.tile(task.pairs("train", "train"), (repeats, 1))
    train = make(args, len(known), "test")
    train.reset(seed=2)
    trials, distance, info = trial(agent, train, *known.T, known[:, 0] >= 0, 0, (0.5, 0), rng)
    row["return_with_id"] = trials["exe_reward"].sum(1).double().mean().item()
    length = trials["exp_length"].to(distance.device)
    left = distance.gather(0, length[None])[0]
    reward = distance[0] - left - args.cost * length
    row["exploration_reward"] = reward.mean().item()
    row["decoder_error"] = left.mean().item()
    found = [*info.values()][2] > 0
    row["decoder_error_informed"] = left.cpu()[torch.as_tensor(found)].mean().item()
    f = agent.f(trials["problem"]).detach()
    row["prior_error"] = ((f - f.mean(0)) ** 2).sum(1).mean().item()
    row["f_norm2"] = (f**2).sum(1).mean().item()
    return row, kept


# --- shared: command line and run directory ---------------------------------
MAY_BE_ZERO = "seed learn_after explore_after cost noise beta"
SHARES = "gamma lam epsilon"  # from 0 to 1


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
    for name, value in vars(args).items():
        if type(value) in (int, float):
            share, whole = name in SHARES.split(), type(value) is int
            zero = share or name in MAY_BE_ZERO.split()
            allowed = "0 or more" if zero else "1 or more" if whole else "above 0"
            allowed = "0 to 1" if share else allowed
            fits = value >= 0 if zero else value >= 1 if whole else value > 0
            if not fits or value > (1 if share else sys.maxsize):
                stop(f"--{name.replace('_', '-')}: {allowed}, not {value}")
    if args.device == "cuda" and not torch.cuda.is_available():
        stop("--device cuda: PyTorch sees no GPU here; take cpu or auto")
    return args


@functools.cache
def _make(env, num_envs, split, **kwargs):
    return gymnasium.make_vec(f"imrl/{env}-v0", num_envs, split=split, **kwargs)


def make(args, num_envs, split):
    """The task, vectorised; each is made only once."""
    kwargs = {"num_actions": args.num_actions} if args.env == "coupling" else {}
    try:
        return _make(args.env, num_envs, split, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        stop(error)


def open_run(args, method):
    """Make the run directory with its config.json."""
    run = args.run_dir or Path("runs", method, args.env, str(args.seed))
    here, quiet = Path(__file__).resolve().parent, subprocess.DEVNULL
    git = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        commit = ""
    config = {"method": method, "commit": commit, **vars(args)}
    for name in ("run_dir", "overwrite", "eval"):
        del config[name]
    try:
        run.mkdir(parents=True, exist_ok=True)
        if any(run.iterdir()) and not args.overwrite:
            stop(f"{run} is not empty; --overwrite replaces what is there")
        for name in ("agent.pt", "episodes.npz", "progress.csv"):
            (run / name).unlink(missing_ok=True)
        (run / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    except OSError as error:
        stop(f"--run-dir {run}: {error.strerror}")
    return run


def say(args, row):
    """The last line: the final row in words."""
    if row is None:
        print(f"{args.env}, seed {args.seed}: stopped before the first evaluation")
        return
    print(
        f"{args.env}, seed {args.seed}: test return {row['test_return']:.3f} "
        f"(standard error {row['test_return_se']:.3f}; optimum "
        f"{row['optimal_return']:.3f}) after {row['env_steps']:,} environment "
        f"steps and {row['seconds'] / 60:.1f} minutes of training; "
        f"exploration takes {row['exploration_steps']:.1f} steps"
    )


# --- end of shared ----------------------------------------------------------
def save_trials(args, device):
    """--eval: many test trials of a saved agent, to episodes.npz."""
    run = args.eval
    try:
        config = json.loads((run / "config.json").read_text())
        config = {k: v for k, v in config.items() if k not in ("method", "commit")}
        args = Args(**config)
        weights = torch.load(run / "agent.pt", device, weights_only=True)
    except (OSError, ValueError) as error:
        stop(f"--eval {run}: no finished run of dream.py ({error})")
    agent = Dream(make(args, 1, "test"), args).to(device)
    agent.load_state_dict(weights)
    row, trials = evaluate(agent, args, 84)
    gain = trials["distance"][:, :-1] - trials["distance"][:, 1:]
    trials["exp_gain"] = gain  # r_t + c
    trials = {name: value.cpu().numpy() for name, value in trials.items()}
    np.savez_compressed(run / "episodes.npz", **trials)
    with open(run / "progress.csv") as file:
        last = [*csv.DictReader(file)][-1]
    row |= {name: float(last[name]) for name in ("env_steps", "seconds")}
    row["env_steps"] = int(row["env_steps"])
    say(args, row)


def train(args, run, device):
    # Evaluation has its own random numbers, so that it changes nothing here.
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    task = make(args, args.num_envs, "train")
    task.reset(seed=args.seed)
    agent = Dream(task, args).to(device)
    target = copy.deepcopy(agent)
    f = [*agent.f.parameters()]
    others = [p for p in agent.parameters() if p is not f[0]]
    groups = [{"params": others}, {"params": f, "lr": 4 * args.learning_rate}]
    optimizer = torch.optim.Adam(groups, args.learning_rate, fused=True)
    replay = Replay(args.replay)
    bar = tqdm(total=args.total_steps, unit=" steps")
    steps = trials = updates = evaluations = 0
    seconds, row, sums = 0.0, None, {}
    file = open(run / "progress.csv", "w", newline="")

    spread = args.epsilon ** np.linspace(0, 1, args.num_envs)
    try:
        while steps < args.total_steps:
            began = time.perf_counter()
            # EXPLORE, then EXECUTE on what is known from the id or was found
            problem = rng.choice(task.problems["train"], args.num_envs)
            from_id = rng.random(args.num_envs) < 0.5
            explore = trials >= args.explore_after
            epsilons = rng.permutation(spread) if explore else 1, rng.permutation(spread)
            data, _, _ = trial(
                agent, task, problem, None, from_id, args.noise, epsilons, rng
            )
            replay.add(data)
            trials += args.num_envs
            steps += int(data["exp_length"].sum() + data["exe_length"].sum())

            # UPDATE
            for _ in range(args.updates if trials > args.learn_after else 0):
                batch = replay.sample(args.batch)
                loss = losses(agent, target, replay.data, batch, args, explore)
                optimizer.zero_grad()
                sum(loss.values()).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 10.0, foreach=True)
                optimizer.step()
                updates += 1
                if updates % args.target_every == 0:
                    target.load_state_dict(agent.state_dict())
                for name, value in loss.items():
                    sums.setdefault(name, []).append(value.detach())
            if device == "cuda":
                torch.cuda.synchronize()
            seconds += time.perf_counter() - began
            bar.update(min(steps, args.total_steps) - bar.n)

            # EVALUATE
            over = steps >= args.total_steps
            if over or steps >= args.eval_every * (evaluations + 1):
                evaluations = steps // args.eval_every
                counts = dict(env_steps=steps, seconds=seconds, trials=trials, updates=updates)
                found, _ = evaluate(agent, args, 84 if over else 17)
                row = counts | found
                for name in ("execution", "exploration", "decoder"):
                    some = sums.get(name)
                    row[name + "_loss"] = torch.stack(some).mean().item() if some else math.nan
                sums.clear()
                writer = csv.DictWriter(file, row)
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                bar.set_postfix_str(
                    f"return {row['test_return']:.2f}, "
                    f"exploration {row['exploration_steps']:.1f} steps"
                )
    except KeyboardInterrupt:
        pass
    bar.close()
    file.close()
    torch.save(agent.state_dict(), run / "agent.pt")
    say(args, row)


if __name__ == "__main__":
    args = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    device = device if args.device == "auto" else args.device
    if args.eval is not None:
        save_trials(args, device)
    else:
        make(args, 1, "test")
        train(args, open_run(args, "dream"), device)
