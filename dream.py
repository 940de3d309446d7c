"""DREAM: meta-reinforcement learning that learns exploring and executing apart.

Liu, Raghunathan, Liang and Finn, Decoupling Exploration and Exploitation for
Meta-Reinforcement Learning without Sacrifices, ICML 2021, arXiv 2008.02790.

A trial is an exploration episode without reward in an unknown problem mu, then
an execution episode with an instruction i. Four parts learn:

    f(mu)             bottleneck   problem id -> z, what is worth knowing of mu
    pi_exec(a|s,i,z)  execution    on z = f(mu), before exploring works
    g(tau)            decoder      exploration -> z, without the id
    pi_exp(a|tau)     exploration  rewarded for what it tells g about z

    python dream.py --env map      # 0.80 of 0.80, 8 minutes on one CPU core
"""

import argparse
import copy
import csv
import dataclasses
import functools
import json
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

import envs  # noqa: F401 (registers the tasks)

# All that differs between tasks.
DEFAULTS = {
    "coupling": {"total_steps": 5_000, "explore_after": 500},
    "bus": {},
    "map": {},
    "distracting-bus": {"total_steps": 1_500_000, "explore_after": 20_000},
    "cooking": {"total_steps": 2_000_000, "explore_after": 20_000},
    "sign-nav": {
        "total_steps": 1_000_000, "updates": 16, "batch": 32, "replay": 8_000,
        "gamma": 0.97, "cost": 0.0, "explore_after": 4_000,
    },
}


@dataclasses.dataclass
class Args:
    env: Literal[tuple(DEFAULTS)] = "map"  # the task
    seed: int = 0  # of all that is random
    total_steps: int = 700_000  # of the environment, exploring and executing
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU, if any
    run_dir: Path | None = None  # None: runs/<method>/<env>/<seed>
    overwrite: bool = False  # replace what an earlier run has left there
    eval: Path | None = None  # do not train, evaluate the agent of this run
    eval_every: int = 20_000  # environment steps between evaluations
    num_actions: int = 8  # A, of coupling
    num_envs: int = 64  # trials side by side
    updates: int = 8  # gradient steps after num_envs trials
    batch: int = 64  # trials in a gradient step
    replay: int = 16_000  # trials in the replay
    explore_after: int = 5_000  # trials before pi_exp learns too
    epsilon: float = 0.15  # least random share; copies: geometric, from 1
    learning_rate: float = 1e-3  # of Adam; four times that for f
    target_every: int = 50  # gradient steps between target network copies
    gamma: float = 0.99  # discount
    lam: float = 0.9  # lambda of Watkins's Q(lambda)
    hidden: int = 64  # units in a layer, and dimensions of z
    noise: float = 0.1  # rho, standard deviation of z around f(mu)
    beta: float = 1e-3  # weight of the bottleneck's |f(mu)|^2
    cost: float = 0.02  # c, price of a step of exploration


# --- shared: networks -------------------------------------------------------
class Features(nn.Module):
    """What is sensed, (R, ...) -> (R, hidden)."""

    def __init__(self, space, hidden):
        super().__init__()
        if len(space.shape) == 3:  # frames (R, 60, 80, 3)
            first = nn.Conv2d(3, 16, 8, 4), nn.ReLU()  # -> (R, 16, 14, 19)
            second = nn.Conv2d(16, 32, 4, 2), nn.Flatten()  # -> (R, 32, 6, 8)
            self.net = nn.Sequential(*first, *second)
            self.out = nn.Linear(32 * 6 * 8, hidden)
        else:  # tokens (R, fields)
            first = torch.tensor([0, *space.nvec[:-1]]).cumsum(0)
            self.register_buffer("first", first)
            self.net = nn.EmbeddingBag(space.nvec.sum(), hidden, mode="sum")
            self.out = nn.Linear(hidden, hidden)

    def forward(self, x):
        if x.dtype == torch.uint8:
            x = x.permute(0, 3, 1, 2) / 255 - 0.5
        else:
            x = x.long() + self.first
        return self.out(self.net(x).relu()).relu()


class Memory(nn.Module):
    """Recurrent over observations and the actions before them.

    Rows (R, ...) are the steps of Packed episodes, `sizes` how many run at
    each t. Returns (R, 2 * hidden), and the state after the last t.
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
    """Dueling Q(tau_:t, i, z, .), (R, A); no z where z_size is 0."""

    def __init__(self, spaces, num_actions, hidden, z_size):
        super().__init__()
        self.memory = Memory(spaces, num_actions, hidden)
        self.instruction = Features(spaces["instruction"], hidden)
        first = nn.Linear(3 * hidden + z_size, 2 * hidden), nn.ReLU()
        second = nn.Linear(2 * hidden, 2 * hidden), nn.ReLU()
        self.body = nn.Sequential(*first, *second)
        self.value = nn.Linear(2 * hidden, 1)
        self.advantage = nn.Linear(2 * hidden, num_actions)

    def forward(self, observation, before, sizes, i, z, state=None):
        x, state = self.memory(observation, before, sizes, state)
        x = self.body(torch.cat([x, self.instruction(i), z], 1))
        a = self.advantage(x)
        return self.value(x) + a - a.mean(1, keepdim=True), state


# --- shared: Q-learning on replayed episodes --------------------------------
class Replay:
    """The latest trials, {name: (capacity, ...)}."""

    def __init__(self, capacity):
        self.capacity, self.data, self.count = capacity, {}, 0

    def add(self, trials):
        """Trials {name: (N, ...)}; the oldest give way."""
        n = len(trials["problem"])
        slots = torch.arange(self.count, self.count + n) % self.capacity
        for name, new in trials.items():
            if name not in self.data:
                self.data[name] = new.new_empty(self.capacity, *new.shape[1:])
            self.data[name][slots] = new
        self.count += n

    def sample(self, batch):
        """Indices (batch,) of uniform trials."""
        return torch.randint(min(self.count, self.capacity), (batch,))


class Packed:
    """Steps of episodes without padding: R rows (t, b), ordered by t.

    b is a place in `trials`, indices into the data {name: (N, ...)}. At each t
    the longest episodes come first, as PackedSequence wants it. With `ends`
    the observation after the last action has its row too. All indices stay on
    the CPU, so that nothing waits for a GPU.
    """

    def __init__(self, data, trials, prefix, ends=False):
        self.data, self.trials, self.prefix = data, trials, prefix
        self.length = data[prefix + "length"][trials]
        count, order = (self.length + ends).sort(descending=True, stable=True)
        running = torch.arange(int(count[0]))[:, None] < count  # (T, B)
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

    def last(self, padded):
        """(T, B, ...) -> (B, ...), what stands at t = length."""
        return padded[self.length, torch.arange(len(self.length))]


def lambda_returns(reward, value, trace, length, gamma):
    """G_t = r_t + gamma ((1 - l_t+1) v_t+1 + l_t+1 G_t+1), 0 after the end.

    reward, value, trace l and G are (T, B); v_t is that of observation t.
    """
    returns = torch.zeros_like(reward)
    after = torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        returns[t] = reward[t] + gamma * after * (t + 1 < length)
        after = torch.lerp(value[t], returns[t], trace[t])
    return returns


def q_loss(policy, target, steps, reward, z, args):
    """Squared error of double Q-learning with Watkins's Q(lambda).

    steps is Packed, reward (T, B), z (B, Z).
    """
    i = steps.data[steps.prefix + "instruction"][steps.trials[steps.b]]
    inputs = *steps.inputs(), i, z[steps.b]
    q, _ = policy(*inputs)
    action, best = steps.rows("action"), q.argmax(1)
    with torch.no_grad():
        target_q, _ = target(*inputs)
        value = steps.pad(target_q.gather(1, best[:, None])[:, 0])
        # What follows an action that is not greedy is no news of greedy play.
        trace = args.lam * steps.pad((action == best).float())
        length = steps.length.to(q.device)
        returns = lambda_returns(reward, value, trace, length, args.gamma)
    q = q.gather(1, action[:, None])[:, 0]
    return ((q - returns[steps.t, steps.b]) ** 2).mean()


def rollout(task, options, policy, z, epsilon, rng):
    """An epsilon-greedy episode in each of N copies, and its last info.

    The episodes are {name: (N, ...)}: observation and the action before it
    (T + 1 of each, "none" first), action and reward (T), instruction, length.
    """
    N, T, A = task.num_envs, task.max_steps, int(task.single_action_space.n)
    to = functools.partial(torch.as_tensor, device=z.device)
    batch, info = task.reset(options=options)
    seen, i = batch["observation"], to(batch["instruction"])
    kind = np.uint8 if seen.dtype == np.uint8 else np.int16
    observation = np.zeros((N, T + 1, *seen.shape[1:]), kind)
    observation[:, 0], length = seen, np.zeros(N, int)
    before, reward = np.full((N, T + 1), A), np.zeros((N, T), np.float32)
    done, state, sizes = np.zeros(N, bool), None, torch.tensor([N])
    for t in range(T):
        with torch.no_grad():
            now = to(observation[:, t]), to(before[:, t]), sizes
            q, state = policy(*now, i, z, state)
        greedy, random = q.argmax(1).cpu().numpy(), rng.integers(A, size=N)
        action = np.where(rng.random(N) < epsilon, random, greedy)
        length += ~done
        batch, reward[:, t], done, _, info = task.step(action)
        observation[:, t + 1], before[:, t + 1] = batch["observation"], action
        if done.all():
            break
    steps = {"observation": observation, "before": before, "reward": reward}
    steps = {name: to(value) for name, value in steps.items()}
    steps |= {"action": steps["before"][:, 1:], "instruction": i}
    return steps | {"length": torch.as_tensor(length)}, info


# --- end of shared ----------------------------------------------------------
class Decoder(nn.Module):
    """g(tau_:t), (R, Z), of every prefix."""

    def __init__(self, spaces, num_actions, hidden):
        super().__init__()
        self.memory = Memory(spaces, num_actions, hidden)
        self.out = nn.Linear(2 * hidden, hidden)

    def forward(self, *inputs):
        return self.out(self.memory(*inputs)[0])


class Dream(nn.Module):
    """f, g, pi_exec and pi_exp."""

    def __init__(self, task, args):
        super().__init__()
        spaces = task.single_observation_space.spaces
        sizes = spaces, int(task.single_action_space.n), args.hidden
        self.f = nn.Embedding(len(task.offers["test"]), args.hidden)
        # From near zero, z holds only what the execution loss puts there.
        nn.init.normal_(self.f.weight, std=0.02)
        self.g = Decoder(*sizes)
        self.execution = QNetwork(*sizes, z_size=args.hidden)
        self.exploration = QNetwork(*sizes, z_size=0)


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
    from_id = data["from_id"][trials][:, None]
    noisy = f + args.noise * torch.randn_like(f)
    z = torch.where(from_id, noisy, exp.last(exp.pad(g)))
    exe = Packed(data, trials, "exe_")
    reward = exe.pad(exe.rows("reward"))
    policies = agent.execution, target.execution
    loss["execution"] = q_loss(*policies, exe, reward, z, args)

    # Exploration: r_t = |f - g(tau_:t)|^2 - |f - g(tau_:t+1)|^2 - c, what a
    # step tells the decoder, by the f and g of now.
    if explore:
        distance = exp.pad(error.detach())
        reward = distance[:-1] - distance[1:] - args.cost
        exp = Packed(data, trials, "exp_")
        policies = agent.exploration, target.exploration
        loss["exploration"] = q_loss(*policies, exp, reward, f[:, :0], args)
    return loss


def trial(agent, task, problem, instruction, from_id, noise, epsilons, rng):
    """A trial in each copy, on z = f(mu) + noise where from_id, else g(tau).

    Returns the trials {name: (N, ...)} and what else is known of them: z,
    distance |f(mu) - g(tau_:t)|^2 (N, T + 1), 0 after the end, and the last
    info of exploration.
    """
    mu = torch.as_tensor(problem, device=agent.f.weight.device)
    with torch.no_grad():
        f = agent.f(mu)  # (N, Z)
    options = {"problem": problem, "instruction": "none"}
    policy, no_z = agent.exploration, f[:, :0]
    exp, info = rollout(task, options, policy, no_z, epsilons[0], rng)
    steps = Packed(exp, torch.arange(len(problem)), "", ends=True)
    with torch.no_grad():
        g = agent.g(*steps.inputs())
        distance = steps.pad(((f[steps.b] - g) ** 2).sum(1)).T
        noisy = f + noise * torch.randn_like(f) if noise else f
    from_id = torch.as_tensor(from_id, device=f.device)
    z = torch.where(from_id[:, None], noisy, steps.last(steps.pad(g)))
    options = {"problem": problem, "instruction": instruction}
    exe, _ = rollout(task, options, agent.execution, z, epsilons[1], rng)
    trials = {"problem": mu, "from_id": from_id}
    trials |= {"exp_" + name: value for name, value in exp.items()}
    trials |= {"exe_" + name: value for name, value in exe.items()}
    return trials, {"z": z, "distance": distance, "info": info}


def evaluate(agent, args, final=False):
    """A row of progress.csv, and the meta-test trials that it tells of.

    Those are greedy and know no id. What is not yet learned shows in a last
    group, on training problems: execution on z = f(mu), and the decoder after
    exploration at random in half of the steps.
    """
    task, rng = make(args, 1, "test"), np.random.default_rng(0)
    repeats = 1 if task.exhaustive else 84 if final else 17
    groups = task.groups() | {"return_with_id": task.pairs("train", "train")}
    row = {}
    for name, pairs in groups.items():
        by_id, pairs = name == "return_with_id", np.tile(pairs, (repeats, 1))
        from_id, epsilons = np.full(len(pairs), by_id), (0.5 * by_id, 0.0)
        copies = make(args, len(pairs), "test")
        copies.reset(seed=0)
        trials, more = trial(
            agent, copies, *pairs.T, from_id, 0.0, epsilons, rng
        )
        returns = trials["exe_reward"].sum(1, dtype=torch.float64).cpu()
        row[name], length = returns.mean().item(), trials["exp_length"]
        _, _, *found = more.pop("info").items()
        found = {k: torch.tensor(v) for k, v in found}
        if name == "test_return":
            tested = trials | more
            error = returns.std().item() / len(pairs) ** 0.5
            row["test_return_se"] = 0.0 if task.exhaustive else error
            row["optimal_return"] = task.optimal_return(*pairs.T).mean()
            row["exploration_steps"] = length.double().mean().item()
            row |= {k: v.double().mean().item() for k, v in found.items()}
    distance, f = more["distance"].cpu(), agent.f(trials["problem"]).detach()
    left = distance[torch.arange(len(length)), length]
    informed = left[next(iter(found.values())) > 0]
    reward = distance[:, 0] - left - args.cost * length
    row["exploration_reward"] = reward.mean().item()
    row["decoder_error"] = left.mean().item()
    row["decoder_error_informed"] = informed.mean().item()
    row["prior_error"] = ((f - f.mean(0)) ** 2).sum(1).mean().item()
    row["f_norm2"] = (f**2).sum(1).mean().item()
    return row, tested


# --- shared: command line and run directory ---------------------------------
LIMITS = {"seed": 0, "explore_after": 0, "noise": 0, "beta": 0, "cost": 0}
SHARES = "gamma", "lam", "epsilon"


def stop(message):
    """Bad input: one line, status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse():
    """The command line, over the defaults of its task."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("--env", choices=DEFAULTS, default=Args.env)
    env = scan.parse_known_args()[0].env
    args = tyro.cli(Args, default=Args(env=env, **DEFAULTS[env]))
    for name, value in vars(args).items():
        low = LIMITS.get(name, 1 if type(value) is int else 1e-12)
        low, high = (0, 1) if name in SHARES else (low, 10**12)
        if type(value) in (int, float) and not low <= value <= high:
            option = "--" + name.replace("_", "-")
            stop(f"{option}: from {low} to {high}, not {value}")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cuda" and not torch.cuda.is_available():
        stop("--device cuda: PyTorch finds no GPU; take cpu or auto")
    return args


@functools.cache
def cached(env, *args, **kwargs):
    return gymnasium.make_vec(f"imrl/{env}-v0", *args, **kwargs)


def make(args, num_envs, split):
    """The task, vectorised; the same one when asked again."""
    kwargs = {"num_actions": args.num_actions} if args.env == "coupling" else {}
    try:
        return cached(args.env, num_envs, split=split, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        stop(error)


def open_run(args, method):
    """Make the run directory, with config.json."""
    run = args.run_dir or Path("runs", method, args.env, str(args.seed))
    git = ["git", "-C", Path(__file__).resolve().parent, "rev-parse", "HEAD"]
    config = {"method": method, "commit": None} | vars(args)
    config = {k: v for k, v in config.items() if k not in ("run_dir", "eval")}
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout
        config["commit"] = commit.strip()
    except OSError:
        pass  # no git here
    try:
        run.mkdir(parents=True, exist_ok=True)
        if any(run.iterdir()) and not args.overwrite:
            stop(f"{run} is not empty; --overwrite replaces what is in it")
        for name in ("progress.csv", "agent.pt", "episodes.npz"):
            (run / name).unlink(missing_ok=True)
        (run / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    except OSError as error:
        stop(f"--run-dir: {run}: {error.strerror}")
    return run


def say(args, row):
    """The last line: the last row in words."""
    row = {k: float(v) for k, v in row.items()}
    print(
        f"{args.env}, seed {args.seed}: test return {row['test_return']:.3f} "
        f"(standard error {row['test_return_se']:.3f}, optimum "
        f"{row['optimal_return']:.3f}), exploration of "
        f"{row['exploration_steps']:.1f} steps, after {row['env_steps']:,.0f} "
        f"environment steps and {row['seconds'] / 60:.1f} minutes of training"
    )


# --- end of shared ----------------------------------------------------------
def save_trials(run):
    """--eval: many test trials of a saved agent, into its episodes.npz."""
    try:
        config = json.loads((run / "config.json").read_text())
        fields = [field.name for field in dataclasses.fields(Args)]
        args = Args(**{k: v for k, v in config.items() if k in fields})
        weights = torch.load(run / "agent.pt", "cpu", weights_only=True)
        last = [*csv.DictReader((run / "progress.csv").open())][-1]
    except (OSError, ValueError, IndexError) as error:
        stop(f"--eval: {run} holds no finished run: {error}")
    agent = Dream(make(args, 1, "test"), args)
    agent.load_state_dict(weights)
    row, trials = evaluate(agent, args, final=True)
    trials["gain"] = -trials["distance"].diff()  # the exploration reward + c
    new = ~np.isin(trials["problem"], make(args, 1, "test").problems["train"])
    trials["gain"][new] = np.nan  # an unseen problem has no f(mu)
    arrays = {name: value.numpy() for name, value in trials.items()}
    np.savez_compressed(run / "episodes.npz", **arrays)
    say(args, last | row)


def train(args, run):
    # An evaluation has its own random numbers, so that it changes nothing.
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    task = make(args, args.num_envs, "train")
    task.reset(seed=args.seed)
    agent = Dream(task, args).to(args.device)
    target = copy.deepcopy(agent)
    f, *others = agent.parameters()
    groups = [{"params": others}, {"params": f, "lr": 4 * args.learning_rate}]
    optimizer = torch.optim.Adam(groups, args.learning_rate, fused=True)
    replay = Replay(args.replay)
    spread = args.epsilon ** np.linspace(0, 1, args.num_envs)
    steps = trials = updates = next_evaluation = 0
    seconds, row, sums = 0.0, None, {}
    bar = tqdm(total=args.total_steps, unit=" steps")
    file = open(run / "progress.csv", "w", newline="")
    try:
        while steps < args.total_steps:
            began = time.perf_counter()
            # EXPLORE, then EXECUTE on the z of the id or of the exploration
            explore = trials >= args.explore_after
            epsilons = rng.permutation(spread) if explore else 1.0, spread
            problem = rng.choice(task.problems["train"], args.num_envs)
            from_id = rng.random(args.num_envs) < 0.5
            data, _ = trial(
                agent, task, problem, None, from_id, args.noise, epsilons, rng
            )
            replay.add(data)
            trials += args.num_envs
            steps += int(data["exp_length"].sum() + data["exe_length"].sum())

            # UPDATE
            for _ in range(args.updates):
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
                    sums[name] = sums.get(name, 0) + value.detach()
                    sums[name, "n"] = sums.get((name, "n"), 0) + 1
            if args.device == "cuda":
                torch.cuda.synchronize()
            seconds += time.perf_counter() - began
            bar.update(min(steps, args.total_steps) - bar.n)

            # EVALUATE
            final = steps >= args.total_steps
            if final or steps >= next_evaluation:
                next_evaluation = steps + args.eval_every
                row = {"env_steps": steps, "seconds": round(seconds, 2)}
                row |= {"trials": trials, "updates": updates}
                row |= evaluate(agent, args, final)[0]
                for name in ("execution", "exploration", "decoder"):
                    mean = sums.get(name, np.nan) / sums.get((name, "n"), 1)
                    row[name + "_loss"] = float(mean)
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
        pass  # what was logged is kept
    bar.close()
    file.close()
    torch.save(agent.state_dict(), run / "agent.pt")
    if row is not None:
        say(args, row)


if __name__ == "__main__":
    args = parse()
    if args.eval is not None:
        save_trials(args.eval)
    else:
        make(args, 1, "test")  # without OpenGL this stops, before a run is made
        train(args, open_run(args, "dream"))
