"""Problems and instructions in attributes, words and pictures; what is told."""

from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium.error import DependencyNotInstalled

import descriptions
import dream
import envs
import import_
import rl2
import varibad

torch.set_num_threads(1)  # bit-identical, and fast where cores are shared
GRID = ["coupling", "bus", "map", "distracting-bus", "cooking"]
FORMS = ["attributes", "words", "picture"]
LEFT, UP, RIGHT, DOWN, RIDE, PICK = 0, 1, 2, 3, 4, 4


def said(env, what, form, **options):
    said, _ = getattr(descriptions, what)(envs.make(env, **options), form)
    return said


def text(words):
    return " ".join(descriptions.WORDS[i] for i in words if i)


def goes_to(task, x, y):
    """(N, 2): where a ride from (4, 4) by way of x, y leads in each copy."""
    x_moves = [RIGHT if x > 4 else LEFT] * abs(x - 4)
    y_moves = [UP if y > 4 else DOWN] * abs(y - 4)
    for action in (*x_moves, *y_moves, RIDE):
        batch, *_ = task.step(np.full(task.num_envs, action))
    return batch["observation"][:, :2]


# ------------------------------------------------------- they say the truth
STOPS = {
    "north": (4, 5), "east": (5, 4), "south": (4, 3), "west": (3, 4),
    "northeast": (5, 5), "southeast": (5, 3), "southwest": (3, 3),
    "northwest": (3, 5), "lower left": (0, 1), "upper left": (0, 7),
    "lower right": (8, 1), "upper right": (8, 7), "left": (0, 4),
    "bottom": (4, 0), "right": (8, 4), "top": (4, 8),
}  # fmt: skip


@pytest.mark.parametrize("env", ["bus", "map", "distracting-bus"])
def test_words_of_a_city_are_where_its_buses_go(env):
    sentences = [text(x) for x in said(env, "problem_id", "words")]
    routes = [sentence.split(" , ") for sentence in sentences]
    task, mu = envs.make(env, len(routes)), np.arange(len(routes))
    for k in range(8 if env == "distracting-bus" else 4):
        names = {facts[k].split()[1] for facts in routes}
        assert len(names) == 1  # the same bus in each sentence
        task.explore(mu)
        ends = goes_to(task, *STOPS[names.pop()])
        for facts, end in zip(routes, ends):
            start, name = facts[k].split(" bus goes to the ")
            assert start.startswith("the ") and STOPS[name] == tuple(end)
    assert {len(facts) for facts in routes} == {k + 1}


@pytest.mark.parametrize("env", ["map", "distracting-bus"])
def test_pictures_of_a_city_join_stops_by_their_color(env):
    pictures = said(env, "problem_id", "picture")
    task, mu = envs.make(env, len(pictures)), np.arange(len(pictures))
    colors = pictures[:, ::-3, 1::3].swapaxes(1, 2)  # of cells (n, x, y, 3)
    white = (colors == 255).all(3).sum((1, 2))
    assert (white == 81 - (16 if env == "distracting-bus" else 8)).all()
    for name in [*STOPS][: 8 if env == "distracting-bus" else 4]:
        task.explore(mu)
        x, y = goes_to(task, *STOPS[name]).T
        ends = colors[mu, x, y]
        assert (ends == colors[:, *STOPS[name]]).all()
        # No other two stops have that color.
        same = (colors == ends[:, None, None]).all(3)
        assert (same.sum((1, 2)) == 2).all()


@pytest.mark.parametrize("form", ["words", "picture"])
def test_what_is_in_the_fridges(form):
    food = ["tomato", "onion", "carrot", "mushroom"]
    kitchens = said("cooking", "problem_id", form)
    task = envs.make("cooking", 64)
    paint = {}
    for y, name in enumerate(["lower", "middle", "upper"]):
        task.explore(np.arange(64))
        task.step(np.full(64, RIGHT))
        task.step(np.full(64, [DOWN, LEFT, UP][y]))
        if y == 1:
            task.step(np.full(64, RIGHT))
        batch, *_ = task.step(np.full(64, PICK))
        held = batch["observation"][:, 3]
        if form == "words":
            facts = [text(x).split(" , ")[y] for x in kitchens]
            assert facts == [f"the {name} fridge holds {food[x]}" for x in held]
        else:
            for kitchen, x in zip(kitchens[:, -2 - 3 * y, 7], held):
                assert paint.setdefault(x, tuple(kitchen)) == tuple(kitchen)
    assert len({*paint.values()}) == (4 if form == "picture" else 0)


def test_words_of_coupling_are_the_action_that_pays():
    sentences = said("coupling", "problem_id", "words", num_actions=12)
    for p, words in enumerate(sentences):
        task = envs.make("coupling", num_actions=12)
        task.explore([p])
        task.execute()
        first, *digits, last = text(words).split()
        assert (first, last) == ("action", "pays")
        action = int("".join(digits))
        assert task.step([action])[1] == [1]


def test_instructions_in_words():
    cities = [text(x) for x in said("map", "instruction", "words")]
    corners = "lower left", "upper right", "upper left", "lower right"
    assert cities == [*(f"go to the {x}" for x in corners), ""]
    assert envs.make("map").names == ["(0, 0)", "(8, 8)", "(0, 8)", "(8, 0)"]
    meals = [text(x) for x in said("cooking", "instruction", "words")]
    food = ["tomato", "onion", "carrot", "mushroom"]
    pairs = [f"first {a} , then {b}" for a in food for b in food]
    assert meals == [*pairs, ""]


def test_instructions_in_pictures():
    cities = said("bus", "instruction", "picture")
    assert cities.shape == (5, 27, 27, 3) and not cities[4].any()
    for city, (x, y) in zip(cities, [(0, 0), (8, 8), (0, 8), (8, 0)]):
        marked = np.argwhere((city[::-3, 1::3] != 255).any(2))
        assert marked.tolist() == [[y, x]]  # and nothing of the buses
    kitchens = said("cooking", "problem_id", "picture")
    paint = [tuple(kitchens[21 * x, -2, 7]) for x in range(4)]
    meals = said("cooking", "instruction", "picture")
    for k, meal in enumerate(meals[:-1]):
        shown = [tuple(meal[-2, 1]), tuple(meal[-5, 1])]
        assert shown == [paint[k // 4], paint[k % 4]]


@pytest.mark.parametrize(
    "env, setting",
    [(env, "imrl") for env in GRID]
    + [(env, "standard") for env in GRID if env != "cooking"],
)
def test_no_two_are_the_same(env, setting):
    things = [said(env, "problem_id", form, setting=setting) for form in FORMS]
    assert len({len(x) for x in things}) == 1
    if setting == "imrl":
        things += [said(env, "instruction", form) for form in FORMS[1:]]
    for x in things:
        rows = np.unique(x.reshape(len(x), -1), axis=0)
        assert len(rows) == len(x)


def test_the_goal_of_a_standard_problem():
    words = said("map", "problem_id", "words", setting="standard")
    picture = said("map", "problem_id", "picture", setting="standard")
    cities = said("map", "problem_id", "words")
    corners = [(0, 0), (8, 8), (0, 8), (8, 0)]
    names = ["lower left", "upper right", "upper left", "lower right"]
    yellow = picture[0, -2, 1]  # (0, 0) is the goal of problem 0
    for p in range(96):
        city, goal = text(words[p]).rsplit(" , ", 1)
        assert city == text(cities[p // 4])
        assert goal == f"the goal is the {names[p % 4]}"
        x, y = corners[p % 4]
        assert (picture[p, -3 * y - 2, 3 * x + 1] == yellow).all()


def test_attributes_have_values_of_their_own():
    said_ = said("distracting-bus", "problem_id", "attributes")
    values = [{*column} for column in said_.T]
    assert [len(x) for x in values] == [4] * 8
    assert len(set.union(*values)) == 32
    # The first four say where the useful buses go, the others the useless ones.
    assert len(np.unique(said_[:, :4], axis=0)) == 24
    assert (said_[::24, :4] == said_[23::24, :4]).all()


def test_the_vocabulary_is_closed_and_used():
    used = set()
    for env in GRID:
        for what in "problem_id", "instruction":
            used |= {*said(env, what, "words").flat}
    used |= {*said("bus", "problem_id", "words", setting="standard").flat}
    more = {"setting": "standard", "num_actions": 31}
    used |= {*said("coupling", "problem_id", "words", **more).flat}
    words = {descriptions.WORDS[i] for i in used}
    of_signs = {"sign", "says", "fetch", "ball", "block", "key", "blue", "red"}
    assert words == {*descriptions.WORDS} - of_signs


def test_signs_and_objects():
    try:
        task = envs.make("sign-nav")
    except DependencyNotInstalled as error:
        pytest.skip(str(error))
    blue, red = said("sign-nav", "problem_id", "picture")
    words = said("sign-nav", "problem_id", "words")
    assert [text(x) for x in words] == [
        "the sign says blue",
        "the sign says red",
    ]
    assert blue.shape == (60, 80, 3) and (blue != red).any()
    signs = task.world.draw([0, 1], [descriptions.AboutSignNav.sign] * 2)
    assert (blue == signs[0]).all() and (red == signs[1]).all()
    objects = said("sign-nav", "instruction", "picture")
    assert not objects[3].any()
    assert (objects == objects[..., :1]).all()  # grey: no color is named
    words = [text(x) for x in said("sign-nav", "instruction", "words")]
    assert words == ["fetch the ball", "fetch the block", "fetch the key", ""]
    for i, (x, z, heading) in enumerate(descriptions.AboutSignNav.objects):
        ahead = np.array([np.cos(heading), -np.sin(heading)])
        to = task.places[i] - [x, z]  # the blue one
        distance = np.hypot(*to)
        assert 1 < distance < 2 and to @ ahead > 0.99 * distance
        seen = task.world.draw([1], [(x, z, heading)])[0].mean(2)
        assert (objects[i, ..., 0] == seen.astype(int)).all()


def test_the_order_in_which_facts_are_said_matters_little():
    """All fridges of the 64 kitchens show in what is read of their sentences,
    the last one said as well as the first."""
    task = envs.make("cooking", problem_id="words")
    torch.manual_seed(0)
    z = task.reader("problem_id", 64, std=1.0)(torch.arange(64)).detach()
    z -= z.mean(0)
    for k in range(3):
        held = torch.as_tensor(task.fridges[:, k])
        means = torch.stack([z[held == what].mean(0) for what in range(4)])
        assert (means**2).sum() / 4 > 0.15 * (z**2).sum() / 64


# ----------------------------------------------------- what a trial shows
@pytest.mark.parametrize("form", ["words", "picture"])
def test_an_instruction_is_given_by_the_number_of_its_description(form):
    task = envs.make("cooking", 9, instruction=form)
    assert task.single_observation_space["instruction"].nvec.tolist() == [17]
    batch, _ = task.explore()
    assert (batch["instruction"] == 16).all()
    batch, info = task.execute()
    assert (batch["instruction"][:, 0] == info["instruction"]).all()
    assert len({*info["instruction"]}) > 1


@pytest.mark.parametrize("form", FORMS)
def test_how_problems_are_described_changes_no_trial(form):
    trials = []
    for options in {}, {"problem_id": form}:
        task = envs.make("distracting-bus", 6, **options)
        task.reset(seed=3)
        seen = [task.explore()]
        seen += [task.step(np.full(6, RIGHT)), task.execute()]
        trials.append([x for batch, *_ in seen for x in batch.values()])
    for x, y in zip(*trials):
        assert (x == y).all()


def test_descriptions_never_reach_meta_test():
    args = dream.Args()
    args.q_learning.hidden_size = 8
    vars(args.task).update(env="map", problem_id="words")
    torch.manual_seed(0)
    agent, rows = dream.Dream(envs.make(**vars(args.task)), args), []
    for _ in range(2):
        rows.append(dream.evaluate(agent, args))
        agent.f.said = agent.f.said.flip(0)
        torch.nn.init.normal_(agent.f.last.weight)
    with_id = {"return_with_id", "prior_error", "decoder_error"}
    with_id.add("return_with_id_unseen")
    assert {x for x in rows[0] if rows[0][x] != rows[1][x]} <= with_id
    assert rows[0]["decoder_error"] != rows[1]["decoder_error"]


@pytest.mark.parametrize("env, K", [("distracting-bus", 4), ("cooking", 3)])
def test_what_is_told_is_true_and_nothing_else(env, K):
    n, plain = 4000, envs.make(env)
    task = envs.make(env, n, told=K - 1, split="test")
    space = task.single_observation_space["observation"]
    own = len(plain.single_observation_space["observation"].nvec)
    assert len(space.nvec) == own + K
    assert (space.nvec[own:] == 5).all()  # four values, and "not told"
    task.reset(seed=0)
    batch, info = task.explore()
    told = batch["observation"][:, own:]
    truth = plain.attributes[info["problem"], :K]
    assert ((told == truth) | (told == 4)).all()
    count = (told < 4).sum(1)
    share = np.bincount(count) / n  # 0 to K - 1, each as often
    assert len(share) == K and (abs(share - 1 / K) < 0.03).all()
    which = (told < 4)[count == 1].mean(0)  # each attribute as often
    assert (abs(which - 1 / K) < 0.05).all()
    assert batch["observation"][0] in space

    # All of the trial shows the same, the next one other things.
    batch, *_ = task.step(np.full(n, RIGHT))
    assert (batch["observation"][:, own:] == told).all()
    batch, _ = task.execute()
    assert (batch["observation"][:, own:] == told).all()
    batch, _ = task.explore(info["problem"])
    assert (batch["observation"][:, own:] != told).any()


def test_what_is_told_of_a_standard_problem():
    task = envs.make("map", 500, told=4, setting="standard")
    batch, info = task.explore()
    told = batch["observation"][:, -4:]
    truth = task.attributes[info["problem"] // 4]
    assert ((told == truth) | (told == 4)).all() and (told < 4).any(0).all()


def test_a_test_tells_each_number_of_attributes():
    counts = []

    def play(task, problems, instructions):
        batch, info = task.explore(problems)
        counts[:] = [(batch["observation"][:, -3:] < 4).sum(1)]
        infos = [info | {"steps": 10 - counts[0]}]
        for instruction in instructions[1:]:
            _, info = task.execute(instruction)
            infos.append(info | {"return": counts[0] / 10})
        return infos

    row = envs.meta_test(play, "cooking", "imrl", told=2)
    assert np.bincount(counts[0]).tolist() == [len(counts[0]) // 3] * 3
    assert row["test_return"] == pytest.approx(0.1)
    assert row["test_return_se"] > 0  # which are told is drawn
    for n in range(3):
        assert row[f"test_return_told_{n}"] == pytest.approx(n / 10)
        assert row[f"exploration_steps_told_{n}"] == 10 - n
    assert "test_return_told_3" not in row
    row = envs.meta_test(play, "map", "imrl")
    assert not any("told" in name for name in row)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"told": 5}, "told: one of .0, 1, 2, 3, 4., not 5"),
        ({"told": -1}, "told: one of .*, not -1"),
        ({"problem_id": "song"}, "problem_id: one of .* not 'song'"),
        ({"instruction": "attributes"}, "instruction: one of .*'attributes'"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(ValueError, match=said):
        envs.make("map", **options)


# ------------------------------------------------------------------ reading
def reader(form, env="distracting-bus", what="problem_id", hidden=16):
    torch.manual_seed(0)
    task = envs.make(env, **{what: form})
    return task.reader(what, hidden, 0.02), task


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_begins_near_zero(form):
    read, task = reader(form, hidden=64)
    f = read(torch.arange(576)).detach()
    assert f.shape == (576, 64)
    parts = 8 if form == "attributes" else 1
    assert f.std() == pytest.approx(0.02 * parts**0.5, rel=0.2)
    if form != "attributes":  # what is common to all is taken away
        known = torch.as_tensor(task.problems["train"])
        assert f[known].mean(0).norm() < 0.1 * f[known].norm(dim=1).mean()


def test_attributes_add_up():
    read, task = reader("attributes")
    assert read.said.shape == (576, 8)
    rows = read.embedding.weight[read.said[[5, 7, 5]]]
    assert torch.equal(read(torch.tensor([5, 7, 5])), rows.sum(1))


@pytest.mark.parametrize("form", ["words", "picture"])
def test_held_out_descriptions_teach_nothing(form):
    """What is read in a known one does not depend on any other."""
    read, task = reader(form)
    known = torch.as_tensor(task.problems["train"])
    before = read(known)
    held_out = torch.as_tensor(np.setdiff1d(np.arange(576), known))
    read.said[held_out] = read.said[0].clone()
    assert torch.equal(read(known), before)
    some = known[[9, 7, 9]]  # nor on what it is read with
    assert torch.allclose(read(some), before[[9, 7, 9]], atol=1e-6)


@pytest.mark.parametrize("form", ["words", "picture"])
def test_held_out_instructions_teach_nothing(form):
    read, _ = reader(form, "cooking", "instruction")
    numbers = torch.tensor([[3], [5], [16]])
    before = read(numbers)
    read.said[[1, 11]] = read.said[0].clone()  # the held-out pairs
    assert torch.equal(read(numbers), before)
    read.said[4] = read.said[0].clone()
    assert not torch.equal(read(numbers), before)


def test_words_are_read_in_their_order():
    """Cities have the same words; only their order tells them apart."""
    read, _ = reader("words", "bus")
    assert len({tuple(sorted(x.tolist())) for x in read.said}) == 1
    f = read(torch.arange(24)).detach()
    gaps = torch.cdist(f, f) + torch.eye(24)
    assert gaps.min() > 0.1 * f.norm(dim=1).mean()


@pytest.mark.parametrize("form, parts", [("words", 5), ("picture", 1)])
def test_the_parts_of_an_instruction(form, parts):
    read, _ = reader(form, "cooking", "instruction")
    numbers = torch.tensor([[3, 11, 3], [0, 16, 11]])[..., None]
    x = read(numbers)
    assert x.shape == (2, 3, parts, 16)
    assert torch.equal(x[0, 0], x[0, 2]) and torch.equal(x[0, 1], x[1, 2])
    assert not torch.allclose(x[0, 0], x[0, 1], atol=1e-3)


@pytest.mark.parametrize("form", ["words", "picture"])
def test_what_is_read_is_the_direction_in_which_a_problem_differs(form):
    """From the mean of those seen in training, whatever the others asked."""
    f, task = reader(form, "cooking")
    known = [f.encode(torch.tensor([k])) for k in task.problems["train"]]
    mean, mu = sum(known)[0, 0] / len(known), torch.tensor([3, 0, 3])
    x = torch.stack([f.encode(k[None])[0, 0] for k in mu]) - mean
    x = x / (x**2).sum(1, keepdim=True).sqrt()
    assert torch.allclose(f(mu), x @ f.last.weight.T, atol=1e-6)


@pytest.mark.parametrize("form", ["words", "picture"])
def test_an_instruction_is_what_its_description_says(form):
    """Of two numbers with one description, Q-values are the same."""
    torch.manual_seed(0)
    head = dream.QHead(8, envs.make("cooking", instruction=form), 16)
    head.instruction.said[3] = head.instruction.said[11].clone()
    numbers = torch.tensor([3, 11, 5])[:, None, None].expand(3, 4, 1)
    q = head(torch.randn(1, 1, 8).expand(3, 4, 8), numbers)
    assert q.shape == (3, 4, 7)
    assert torch.allclose(q[0], q[1], atol=1e-6)
    assert (q[0] - q[2]).abs().max() > 1e-4


# ----------------------------------------------------------------- training
def run(module, *words):
    with mock.patch("sys.argv", [module.__name__, *map(str, words)]):
        module.main()


@pytest.mark.parametrize(
    "form, other", [("words", "picture"), ("picture", "words")]
)
def test_coupling_is_learned_from_descriptions(form, other, tmp_path):
    words = "--env", "coupling", "--problem-id", form, "--total-steps", 5000
    run(dream, *words, "--instruction", other, "--run-dir", tmp_path)
    _, _, row = dream.load_agent(tmp_path)
    assert row["test_return"] == 1 and row["return_with_id_unseen"] > 0.9


@pytest.mark.parametrize(
    "form, times",
    [("one-hot", 4), ("attributes", 4), ("words", 1), ("picture", 1)],
)
def test_f_learns_faster_where_it_is_embeddings(form, times, tmp_path):
    words = "--env", "coupling", "--total-steps", 1, "--run-dir", tmp_path
    with mock.patch("torch.optim.AdamW", wraps=torch.optim.AdamW) as made:
        run(dream, *words, "--problem-id", form)
    (groups, rate), _ = made.call_args
    _, f = groups
    assert f["lr"] == times * rate and f["weight_decay"] == 0


def test_import_reads_them_too(tmp_path):
    words = "--env", "coupling", "--total-steps", 5000
    run(import_, *words, "--problem-id", "attributes", "--run-dir", tmp_path)
    assert import_.load_agent(tmp_path)[2]["test_return"] == 1


@pytest.mark.parametrize("module", [rl2, varibad])
def test_who_reads_no_id_says_so(module, tmp_path, capsys):
    words = "--env", "map", "--problem-id", "words", "--run-dir", tmp_path
    with pytest.raises(SystemExit) as stopped:
        run(module, *words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().split("\n") == [
        "error: --problem-id: this method does not read the id"
    ]


def test_names_of_runs():
    task = dream.TaskArgs(env="map")
    assert task.name() == "map"
    task = dream.TaskArgs("coupling", "imrl-rewards", 16, "words")
    assert task.name() == "coupling-16-imrl-rewards-problem-id-words"
    task = dream.TaskArgs("map", instruction="picture", told=2)
    assert task.name() == "map-instruction-picture-told-2"
