"""`python plot.py page`: its data are true, and a browser shows them.

Trials are played again from the actions of the page. The browser is Chromium,
spoken to over a pipe (its DevTools protocol), so that keys are pressed and the
mouse is clicked as by a person; where there is none, its tests are skipped.
"""

import base64
import io
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_equal
from PIL import Image
from test_plot import ENVIRON, ROOT, sign_nav_args, train

import dream
import envs
import plot

NAMES = "chromium", "chromium-browser", "google-chrome", "chrome"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
Page = namedtuple("Page", "path text data agent args")


def read_page(path, agent, args):
    text = path.read_text()
    data = re.search(r'<script [^>]*id="data">(.*?)</script>', text, re.S)[1]
    return Page(path, text, json.loads(data), agent, args)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """A function: the page of an agent of a task. All are hardly trained, but
    that of map, which is of a run and made by the command line."""
    folder, pages = tmp_path_factory.mktemp("pages"), {}

    def make(env):
        if env in pages:
            return pages[env]
        path = folder / f"{env}.html"
        if env == "map":
            run = train(folder / "run", env)
            _, agent, args, _ = plot.load(run)
            subprocess.run(
                [sys.executable, ROOT / "plot.py", "page", run, "--out", path],
                cwd=folder, env=ENVIRON, check=True,
            )  # fmt: skip
        else:
            args = sign_nav_args() if env == "sign-nav" else dream.Args()
            args.task.env = env
            torch.manual_seed(0)
            agent = dream.Dream(envs.make(**vars(args.task)), args)
            agent.f.weight.data *= 20
            with pytest.MonkeyPatch.context() as patch:
                loaded = dream, agent, args, "name"
                patch.setattr("page.load_dream", lambda run: loaded)
                plot.page(folder, path)
        pages[env] = read_page(path, agent, args)
        return pages[env]

    return make


def picture(page, number):
    start, data = page.data["pictures"][number].split(",")
    assert start == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def check(page, step, task, result):
    """Whether a step of the page is what the task is at."""
    batch, info = result[0], result[-1]
    views = [picture(page, number) for number in step["pictures"]]
    if page.data["env"] == "sign-nav":
        assert step["observation"] is None
        assert_equal(views[0], batch["observation"][0])
        assert_equal(views[1], task.picture(0)[:, 320:])
    else:
        assert_equal(step["observation"], batch["observation"][0])
        assert_equal(views[0].repeat(8, 0).repeat(8, 1), task.picture(0))
        assert len(views) == 1
    assert_allclose(step["at"], task.state[0, :2])
    if info["steps"][0] > 0 and task.goal[0] >= 0:
        assert_allclose(step["return"], info["return"][0])
    else:
        assert step["return"] is None


def replay(page, task, steps, start):
    """The steps of an episode, taken in the task: its batches and actions."""
    assert steps[0]["action"] == "start"
    check(page, steps[0], task, start)
    batches, actions = [start[0]], [len(task.actions)]
    names = [*map(str, task.actions)]
    for step in steps[1:]:
        assert not task.done[0]
        actions.append(names.index(step["action"]))
        result = task.step(np.array(actions[-1:]))
        check(page, step, task, result)
        batches.append(result[0])
    assert task.done[0]
    return batches, torch.tensor([actions])


def as_tau(batches, actions):
    """What the networks of DREAM read, (1, T + 1, ...)."""
    tau = {
        name: torch.tensor(np.stack([batch[name] for batch in batches], 1))
        for name in batches[0]
    }
    tau["prev_reward"] = tau.pop("reward")
    return tau | {"prev_action": actions}


PAGES = sorted((ROOT / "docs" / "pages").glob("*.html"))
TASKS = "map", "distracting-bus", "cooking", "coupling", "sign-nav"


# --- The data -----------------------------------------------------------------
def replay_trial(page, trial):
    """The exploration of a trial, all of which is played again."""
    env, problem = page.data["env"], np.array([trial["problem"]])
    (_, explored), *executed = trial["episodes"].items()
    task = envs.make(env)
    offered = task.offers["train"][problem[0], :-1]
    titles = [f"Execution: {task.names[i]}" for i in np.flatnonzero(offered)]
    assert [title for title, _ in executed] == titles != []
    for title, steps in executed:
        task.reset(seed=0)
        episode = replay(page, task, explored, task.explore(problem))
        instruction = task.names.index(title.removeprefix("Execution: "))
        replay(page, task, steps, task.execute(instruction))
    return episode


@pytest.mark.parametrize("env", TASKS)
def test_trials_are_true(page_of, env):
    page = page_of(env)
    agent, args = page.agent.requires_grad_(False), page.args
    assert page.data["env"] == env and page.data["seed"] == 0
    train = envs.make(env).problems["train"]
    assert page.data["problems"] == train.tolist()
    shown, read = [], []  # each g(tau_:t): in the page, and itself
    for trial in page.data["trials"]:
        episode = replay_trial(page, trial)
        # The agent would do this, and g and f say this of it.
        tau = as_tau(*episode)
        q, _ = agent.pi_exp(tau)
        assert q[0, :-1].argmax(1).equal(tau["prev_action"][0, 1:])
        g, f = agent.g(tau)[0], agent.f.weight[trial["problem"]]
        if trial["problem"] in train:
            error = ((f - g) ** 2).sum(1)
            assert_allclose(trial["error"], error, rtol=1e-4, atol=1e-6)
            reward = -np.diff(trial["error"]) - args.dream.step_penalty
            assert_allclose(trial["reward"], reward, atol=1e-6)
        else:
            assert trial["error"] is None and trial["reward"] is None
        shown.append(trial["g"])
        read.append(g)
    # Points stand where one linear map puts the z of f and of g.
    z = torch.cat([agent.f.weight[torch.tensor(train)], *read])
    center = z[: len(train)].mean(0)
    z, points = (z - center).numpy(), np.concatenate([page.data["f"], *shown])
    linear = np.linalg.lstsq(z, points, rcond=1e-6)[0]
    assert_allclose(z @ linear, points, atol=1e-4 * np.abs(points).max())
    # It keeps as much of the variance of f as two axes can.
    variance = np.linalg.svd(z[: len(train)])[1] ** 2
    kept = np.var(page.data["f"], 0).sum() * len(train)
    assert_allclose(kept, variance[:2].sum(), rtol=1e-3)
    assert_allclose(page.data["share"], kept / variance.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "env, seen, new",
    [("map", 4, 0), ("distracting-bus", 4, 2), ("sign-nav", 2, 0)],
)
def test_problems_shown(page_of, env, seen, new):
    page = page_of(env)
    problems = [trial["problem"] for trial in page.data["trials"]]
    known = [trial["reward"] is not None for trial in page.data["trials"]]
    assert len({*problems}) == seen + new
    assert known == [True] * seen + [False] * new
    held_out = envs.make(env).test_problems
    assert [p in held_out for p in problems] == [not k for k in known]


@pytest.mark.parametrize("env", TASKS)
def test_a_page_is_small_and_stands_alone(page_of, env):
    page = page_of(env)
    assert len({*page.data["pictures"]}) == len(page.data["pictures"])
    assert not re.search(r"http|<link|@import|url\(|fetch", page.text)
    size = page.path.stat().st_size
    if env == "sign-nav":  # if no two of its pictures were the same
        count = 2 * 2 * (1 + 3) * 13
        size *= count / len(page.data["pictures"])
    assert size <= 2_000_000


def test_a_single_problem_has_a_page(tmp_path, monkeypatch):
    args = dream.Args()
    args.task.env, args.task.num_actions = "coupling", 1
    agent = dream.Dream(envs.make(**vars(args.task)), args)
    loaded = dream, agent, args, ""
    monkeypatch.setattr("page.load_dream", lambda _: loaded)
    plot.page(tmp_path, tmp_path / "new" / "page.html")
    page = read_page(tmp_path / "new" / "page.html", agent, args)
    assert page.data["share"] == 1 and page.data["problems"] == [0]


def test_two_problems_have_a_plane():
    """Their f are on a line; g chooses what else is seen."""
    z = np.zeros((4, 64))
    z[0, 0], z[1, 0], z[2, 5], z[3, 5] = 1, 3, 2, -1
    project = plot.principal_plane(z[:2], z[2:])
    distances = np.linalg.norm(z[:, None] - z, axis=2)
    shown = np.linalg.norm(project(z)[:, None] - project(z), axis=2)
    assert_allclose(shown, distances, atol=1e-3)
    assert_allclose(project(z[:2])[:, 1], 0, atol=1e-3)


@pytest.mark.parametrize("path", PAGES)
def test_committed_pages(path):
    if path.stem == "sign-nav":
        sign_nav_args()
    assert path.stat().st_size <= 2_000_000
    page = read_page(path, None, None)
    assert page.data["env"] == path.stem and page.data["seed"] == 0
    for trial in page.data["trials"]:
        replay_trial(page, trial)


@pytest.mark.parametrize("out", [".", "file/page.html"])
def test_where_it_cannot_be_written(page_of, tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):  # one line and status 2, as in test_plot.py
        plot.page(page_of("map").path.with_name("run"), tmp_path / out)


# --- In a browser -------------------------------------------------------------
class Browser:
    """A tab of headless Chromium."""

    def __init__(self, profile):
        read, self.to = os.pipe()
        self.back, write = os.pipe()
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
            "--disable-background-networking", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(  # it reads from 3 and writes to 4
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "_", *command],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.numbers, self.session = itertools.count(1), {}
        self.unread, self.events = b"", []
        target = self.call("Target.createTarget", url="about:blank")
        self.session = self.call(
            "Target.attachToTarget", flatten=True, **target
        )
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self.call("Browser.close")
        self.process.wait(30)
        os.close(self.to)
        os.close(self.back)

    def call(self, method, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        os.write(self.to, json.dumps(message | self.session).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self):
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.back], [], [], 60)
            data = os.read(self.back, 1 << 20) if ready else b""
            assert data, "Chromium says nothing"
            self.unread += data
        message, self.unread = self.unread.split(b"\0", 1)
        return json.loads(message)

    def js(self, code):
        result = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, path, place="", width=1280, height=800, scheme="light"):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.events = []
        self.call("Page.navigate", url=f"file://{path}#{place}")
        end = time.monotonic() + 60
        while not self.js("document.querySelector('#views img') !== null"):
            assert time.monotonic() < end, self.events
            time.sleep(0.05)

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code,
            )  # fmt: skip

    def click(self, selector, share=0.5):
        """Click into an element, at a share of its width."""
        box = self.js(
            "(({x, y, width, height}) => [x, y, width, height])(document."
            f"querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        x, y = box[0] + share * box[2], box[1] + box[3] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, x=x, y=y, button="left", clickCount=1,
            )  # fmt: skip

    def complaints(self):
        """What is wrong by its console, and what it has asked the network."""
        self.js("0")  # thus all that came before has been read
        found = []
        for event in self.events:
            kind, what = event["method"], event["params"]
            url = what.get("request", {}).get("url", "data:")
            if kind in ("Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(what)
            elif kind == "Runtime.consoleAPICalled":
                found.append(what)
            elif not url.startswith(("file:", "data:", "about:")):
                found.append(url)
        return found


RIGHT, LEFT, END, HOME = (
    ("ArrowRight", 39), ("ArrowLeft", 37), ("End", 35), ("Home", 36),
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no Chromium; on Debian: apt-get install chromium")
    tab = Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


def words(x, digits=3):
    text = f"{x:z.{digits}f}"
    return text.replace("-", "−")


def looks(browser, page, number, episode, t):
    """Compare what is on the screen with the data, at a step of a trial."""
    trial = page.data["trials"][number]
    title, steps = [*trial["episodes"].items()][episode]
    step, last = steps[t], len(steps) - 1
    shown = browser.js("""({
        pictures: [...document.querySelectorAll("#views img")].map(x => x.src),
        state: document.getElementById("state").innerText,
        slider: document.getElementById("step").value,
        count: document.getElementById("count").innerText,
        pressed: [...document.querySelectorAll("[aria-pressed=true]")].map(
            x => x.getAttribute("aria-label")),
        bars: [...document.querySelectorAll(".bar")].map(
            x => [+x.getAttribute("height"), +x.getAttribute("opacity")]),
        line: document.querySelectorAll("#error circle").length,
        hash: location.hash,
    })""")
    assert shown["pictures"] == [
        page.data["pictures"][k] for k in step["pictures"]
    ]
    assert shown["state"].startswith(f"{title}, step {t} of {last}")
    assert shown["slider"] == str(t) and shown["count"] == f"{t} / {last}"
    assert shown["pressed"] == [title]
    assert shown["hash"] == f"#{number}.{episode}.{t}"
    if t:
        assert f"Action: {step['action']}" in shown["state"]
    if step["return"] is not None:
        assert f"Return so far: {words(step['return'], 2)}" in shown["state"]
    reward = trial["reward"]
    if reward is None:
        assert shown["bars"] == [] and shown["line"] == 0
        return
    if t and not episode:
        told = f"Exploration reward: {words(reward[t - 1])}"
        assert told in shown["state"]
    # Bar by bar: those of what is known are full, and all are to scale.
    known = len(reward) if episode else t
    height, opacity = np.transpose(shown["bars"])
    assert (opacity == 1).tolist() == [i < known for i in range(len(reward))]
    scale = height.max() / np.abs(reward).max()
    assert_allclose(height, scale * np.abs(reward), atol=1e-3)
    assert shown["line"] == len(reward) + 1


@pytest.mark.parametrize("env", TASKS)
def test_keys_go_through_a_trial(browser, page_of, env):
    page = page_of(env)
    browser.open(page.path)
    assert browser.js("document.title") == f"DREAM on {env}, seed 0"
    episodes = [*page.data["trials"][0]["episodes"].values()][:3]
    way = [
        (i, t) for i, steps in enumerate(episodes) for t in range(len(steps))
    ]
    looks(browser, page, 0, 0, 0)
    for key, places in ((RIGHT, way[1:]), (LEFT, way[-2::-1])):
        for episode, t in places:
            browser.press(*key)
            looks(browser, page, 0, episode, t)
    browser.press(*LEFT)  # it stays at the start
    looks(browser, page, 0, 0, 0)
    episodes = [*page.data["trials"][0]["episodes"].values()]
    end = len(episodes) - 1, len(episodes[-1]) - 1
    browser.open(page.path, "0.{}.{}".format(*end))
    browser.press(*RIGHT)  # and at the end
    looks(browser, page, 0, *end)
    assert browser.complaints() == []


@pytest.mark.parametrize("env", ["distracting-bus", "sign-nav"])
def test_slider_buttons_and_problems(browser, page_of, env):
    page = page_of(env)
    browser.open(page.path, "1.1.1")
    looks(browser, page, 1, 1, 1)
    last = len([*page.data["trials"][1]["episodes"].values()][1]) - 1
    browser.click("#step", 0.995)
    looks(browser, page, 1, 1, last)
    browser.click("#step", 0.005)
    looks(browser, page, 1, 1, 0)
    browser.press(*END)  # the slider has the focus
    looks(browser, page, 1, 1, last)
    browser.press(*HOME)
    browser.press(*RIGHT)  # one step, not two
    looks(browser, page, 1, 1, 1)
    browser.click("#next")
    looks(browser, page, 1, 1, 2)
    browser.click("#back")
    looks(browser, page, 1, 1, 1)
    browser.click("#episodes button:last-child")
    episodes = len(page.data["trials"][1]["episodes"])
    looks(browser, page, 1, episodes - 1, 0)
    browser.click('#reward rect[data-t="2"]')
    looks(browser, page, 1, 0, 2)

    number = len(page.data["trials"]) - 1  # not seen in training, if any is
    browser.js(f"""(select => {{
        select.value = {number};
        select.dispatchEvent(new Event("change"));
    }})(document.getElementById("trial"))""")
    looks(browser, page, number, 0, 0)
    assert browser.complaints() == []


def test_it_plays_by_itself(browser, page_of):
    page = page_of("coupling")
    browser.open(page.path)
    browser.click("#play")
    end = time.monotonic() + 30
    while browser.js("document.getElementById('play').innerText") != "Play":
        assert time.monotonic() < end
        time.sleep(0.1)
    looks(browser, page, 0, 1, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("env", TASKS)
def test_it_is_legible(browser, page_of, env, width, scheme):
    page, height = page_of(env), 800 if width == 1280 else 844
    number = len(page.data["trials"]) - 1
    for place in ("0.0.1", f"{number}.1.1"):
        browser.open(page.path, place, width, height, scheme)
        assert browser.js("document.documentElement.scrollWidth") <= width
        # Words are large enough and inside; labels of steps do not overlap.
        texts = browser.js("""
            [...document.querySelectorAll("h1, h2, p, button, select, text")]
            .map(x => [x.textContent, parseFloat(getComputedStyle(x).fontSize),
              x.getBoundingClientRect().left, x.getBoundingClientRect().right])
        """)
        for text, size, left, right in texts:
            assert size >= 12 and left >= 0 and right <= width, text
        numbers = browser.js("""
            [...document.querySelectorAll("#error text[text-anchor=middle]")]
            .map(x => x.getBoundingClientRect()).filter(x => x.width)
            .map(x => [x.left, x.right])
        """)
        for (_, right), (left, _) in itertools.pairwise(numbers):
            assert right + 2 < left
        apart = browser.js("""
            [...document.querySelectorAll("#reward rect[data-t]")]
            .map(x => x.getBoundingClientRect().width)
        """)
        assert min(apart, default=99) >= 12
        pictures = browser.js("""
            [...document.querySelectorAll("#views img")].map(x =>
              [x.alt, x.getBoundingClientRect().width, x.naturalWidth])
        """)
        for alt, wide, natural in pictures:
            assert alt and natural and wide >= 110
        # Ink and paper differ, by the contrast of WCAG.
        colors = browser.js("""
            [getComputedStyle(document.body).color,
             getComputedStyle(document.body).backgroundColor]
        """)
        light = [sum(map(int, re.findall(r"\d+", x)[:3])) / 765 for x in colors]
        assert (light[0] < light[1]) == (scheme == "light")
        assert abs(light[0] - light[1]) > 0.6
        names = browser.js("""
            [...document.querySelectorAll("[role=img], button, input, select")]
            .map(x => x.getAttribute("aria-label") || x.innerText)
        """)
        assert all(names)
    assert browser.complaints() == []
