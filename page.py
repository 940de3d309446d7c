"""The page of `python plot.py page`: trials to step through in a browser."""

import base64
import io
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image

import envs
from trials import FIGURES, Run, load_dream, play, told, write

TEMPLATE = Path(__file__).with_name("docs") / "page.html"
File = Annotated[
    Path | None, tyro.conf.arg(help="the file, or else in figures/")
]


def png(image):
    """A picture (H, W, 3) as a data URI."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f"data:image/png;base64,{data}"


def shown(step, pictures):
    """A step as the page has it: its pictures by their places in a list."""
    frame, seen = step["frame"], step["observation"]
    if seen.ndim == 3:  # what the agent sees; beside it, the view from above
        views = seen, frame[:, 4 * seen.shape[1] :]
        step = step | {"observation": None}
    else:
        views = (frame[::8, ::8],)  # all of it: it is drawn in blocks
    numbers = [pictures.setdefault(png(x), len(pictures)) for x in views]
    keys = "action", "return", "at", "observation"
    return {key: step[key] for key in keys} | {"pictures": numbers}


def principal_plane(f, g):
    """The projection of z (..., Z) to two principal components of f (P, Z).
    Where f has only one, as with two problems, g (N, Z) chooses the other."""
    center = f.mean(0)
    z = np.concatenate([f - center, 1e-3 * (g - center)])
    axes = np.linalg.svd(z, full_matrices=False)[2][:2]
    return lambda z: (z - center) @ axes.T


@torch.no_grad()
def page(run: Run, out: File = None):
    """Trials to step through in a browser: one HTML file. Up to four training
    problems and two held-out ones."""
    if out and out.is_file() and out.suffix != ".html":
        raise ValueError(f"--out {out}: it exists, and is no .html file")
    script, agent, args, name = load_dream(run)
    task, pictures, trials = envs.make(**vars(args.task)), {}, []
    train = task.problems["train"]
    new = np.setdiff1d(task.problems["test"], train)
    few = [*train[:: len(train) // 4 or 1][:4], *new[:: len(new) // 2 or 1][:2]]
    for problem in few:
        tau, episodes = play(script, agent, args, problem)
        g, error, reward = told(script, agent, args, tau)
        if problem in new:  # f(mu) has not been learned
            error = reward = None
        for title, steps in episodes.items():
            episodes[title] = [shown(step, pictures) for step in steps]
        one = {"problem": problem, "error": error, "reward": reward, "g": g}
        trials.append(one | {"episodes": episodes})
    f = agent.f(torch.tensor(train)).numpy()
    project = principal_plane(f, np.concatenate([one["g"] for one in trials]))
    for one in trials:
        one["g"] = project(one["g"])
    data = {"env": args.task.env, "setting": args.task.setting}
    data |= {"seed": args.run.seed, "step_penalty": args.dream.step_penalty}
    data |= {"problems": train, "f": project(f), "trials": trials}
    variance = f.var(0).sum()  # 0 of a single problem
    data["share"] = project(f).var(0).sum() / variance if variance else 1.0
    data["pictures"] = [*pictures]
    data = json.dumps(data, default=lambda x: x.tolist(), allow_nan=False)
    text = TEMPLATE.read_text().replace("DATA", data)
    write(out or FIGURES / f"page-{name}.html", text.encode())
