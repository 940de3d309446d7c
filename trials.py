"""Trials of a saved agent, of any method, and what they show: for `plot.py`.

script, agent, args, name = load(Path("runs/dream/map/0"))
tau_exp, episodes = play(script, agent, args)  # {title: steps}
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

import envs

METHODS = {"dream": "DREAM", "rl2": "RL²", "varibad": "VariBAD"}
METHODS |= {"import": "IMPORT"}
FIGURES = Path("figures")
Run = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(help="folder with an agent.pt")
]


def write(path, data):
    """Bytes to a file: whole, or not at all, as they are written beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    print(path)


def load(run):
    """The script of a run's method, its agent, its arguments, and a name."""
    try:
        method = json.loads((run / "config.json").read_text())["method"]
        if method not in METHODS:
            raise ValueError(f"method {method}, not one of {[*METHODS]}")
        script = importlib.import_module(method.replace("import", "import_"))
        agent, args, _ = script.load_agent(run)
    except Exception as error:  # whatever is wrong with the files
        raise ValueError(f"{run}: {type(error).__name__}: {error}") from error
    task, folder = args.task.name(), run.resolve().parent.name
    if folder.startswith(f"{task}-"):  # with a suffix, as sweep.py has them
        task = folder
    name = f"{method}-{task}-{args.run.seed}"
    return script, agent, args, name


def load_dream(run):
    """What `load` returns, of a run of DREAM."""
    script, agent, args, name = load(run)
    if script.__name__ != "dream":
        raise ValueError(f"{run} is {name}: only DREAM has these rewards")
    return script, agent, args, name


def trial(script, agent, args, task, mu, instructions):
    """What the method's trial returns, greedy and without mu."""
    takes = inspect.signature(script.trial).parameters
    knows_mu = [torch.zeros(len(mu), dtype=torch.bool)] * ("knows_mu" in takes)
    torch.manual_seed(0)
    task.reset(seed=0)
    return script.trial(agent, args, task, mu, instructions, *knows_mu, (0, 0))


class Recorder:
    """One copy of a task that keeps what its episodes show, {title: steps}."""

    def __init__(self, task):
        self.task, self.episodes = task, {}

    def __getattr__(self, name):
        return getattr(self.task, name)

    def explore(self, *args):
        self.steps = self.episodes["Exploration"] = []
        return self._keep("start", self.task.explore(*args))

    def execute(self, instruction):
        title = f"Execution: {self.names[instruction[0]]}"
        self.steps = self.episodes[title] = []
        return self._keep("start", self.task.execute(instruction))

    def step(self, actions):
        waits, action = self.task.done[0], str(self.actions[actions[0]])
        result = self.task.step(actions)
        return result if waits else self._keep(action, result)

    def _keep(self, action, result):
        t, total = result[-1]["steps"][0], result[-1]["return"][0]
        words = f"{t}: {action}" if t > 0 else action
        pays = t > 0 and self.goal[0] >= 0
        words += f"\nreturn {total:z.2f}" if pays else "\n "
        step = {"action": action, "words": words, "at": self.state[0, :2]}
        step["return"] = total if pays else None
        step["observation"] = result[0]["observation"][0]
        self.steps.append(step | {"frame": self.render()[0]})
        return result


def play(script, agent, args, problem=None):
    """tau_exp and {title: steps} in a problem (None: of training), with each
    instruction in a trial of its own, after the same exploration."""
    task = Recorder(envs.make(num_envs=1, **vars(args.task)))
    pairs = task.pairs("train", "train")
    mu = pairs[len(pairs) // 2, :1] if problem is None else np.array([problem])
    asked = np.argwhere(task.offers["train"][mu[0], :-1])  # (I, 1)
    first = asked[0] if args.task.setting == "online" else None
    for instruction in asked:
        tau, _, _ = trial(script, agent, args, task, mu, [first, instruction])
    return tau, task.episodes


@torch.no_grad()
def told(script, agent, args, tau):
    """g(tau_:t) of each prefix, (T + 1, Z), its |f(mu) - g(tau_:t)|^2 and the
    exploration reward of each step, (T,), in an exploration of T steps."""
    g, T, c = agent.g(tau), tau["length"], args.dream.step_penalty
    error = script.decoding_error(agent.f(tau["mu"]), g, T)
    reward = script.exploration_reward(error, T, c)
    g, error, reward = g[0], error[0], reward[0]
    return g[: T + 1].numpy(), error[: T + 1].numpy(), reward[:T].numpy()
