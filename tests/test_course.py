"""Handouts, and grading: mistakes of students fail the tests of their own
function, and no other."""

import ast
import json
import re
import sys
from inspect import signature
from types import ModuleType

import grade
import make
import pytest
import test_method
import test_method_rl2
import test_own_task
import torch

torch.set_num_threads(1)
SCRIPTS = {"dream.py": test_method, "rl2.py": test_method_rl2}
SCRIPTS_TO_BLANK = pytest.mark.parametrize("script", SCRIPTS)


# --- The tests of a script, in this process -----------------------------------
def group_of(test, groups):
    """The groups to which a test belongs."""
    return [name for name in groups if test.startswith(f"test_{name}")]


def load(script, source):
    name = script.removesuffix(".py")
    module = ModuleType(name)
    module.__file__ = script
    exec(compile(source, script, "exec"), vars(module))
    return name, module


def cases(test):
    """The keyword arguments of each case of a parametrized test."""
    for mark in getattr(test, "pytestmark", []):
        name, values = mark.args
        return [{name: value} for value in values]
    return [{}]


def failing(tests, script, source, without=()):
    """The groups of which some test fails for this source of the script."""
    name, module = load(script, source)
    groups, failed = make.ASSIGNMENTS[script].points, set()
    for test in [x for x in vars(tests) if x.startswith("test_")]:
        (group,) = group_of(test, groups)
        function = getattr(tests, test)
        for given in [] if group in without else cases(function):
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(tests, name, module)
                if "monkeypatch" in signature(function).parameters:
                    given["monkeypatch"] = monkeypatch
                try:
                    function(**given)
                except Exception:
                    failed.add(group)
    return failed


# --- Handouts -----------------------------------------------------------------
@SCRIPTS_TO_BLANK
def test_every_function_of_section_3_has_points_and_tests(script):
    source = make.read(script)
    section = source.split("# --- 3. ")[1].split("# --- 4. ")[0]
    names = [node.name for node in make.find("# " + section, ())]
    points = make.ASSIGNMENTS[script].points
    assert names == [*points] and sum(points.values()) == 100
    tests = [x for x in vars(SCRIPTS[script]) if x.startswith("test_")]
    of_tests = [group_of(test, points) for test in tests]
    assert all(len(groups) == 1 for groups in of_tests)
    assert {group for (group,) in of_tests} == {*points}


@SCRIPTS_TO_BLANK
def test_the_solution_passes_all(script):
    assert failing(SCRIPTS[script], script, make.read(script)) == set()


@pytest.mark.parametrize(
    "script, names",
    [
        ("dream.py", ()),
        ("dream.py", ("exploration_reward", "trial")),
        ("dream.py", ("losses",)),
        ("rl2.py", ()),
        ("rl2.py", ("q_losses", "remember")),
    ],
)
def test_a_handout_fails_exactly_what_is_blank(script, names):
    files = make.handout(script, names)
    names = names or (*make.ASSIGNMENTS[script].points,)
    blank, source = files[script], make.read(script)
    assert failing(SCRIPTS[script], script, blank) == {*names}
    # All but the bodies is as it was, to the byte.
    parts = [
        re.escape(part) for part in re.split(f" *{re.escape(make.TODO)}", blank)
    ]
    assert len(parts) == len(names) + 1
    assert re.fullmatch(".+?\n".join(parts), source, re.S)
    docstrings = [ast.get_docstring(x) for x in make.find(source, names)]
    assert docstrings == [
        ast.get_docstring(node) for node in make.find(blank, names)
    ]
    for name, docstring in zip(names, docstrings):
        assert docstring in files["README.md"]
        assert f"-k test_{name}`" in files["README.md"]
    assert "FUNCTIONS" not in files["README.md"]


def call(module, words, monkeypatch, capsys):
    """Status and output of a command line."""
    monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
    status = 0
    try:
        module.main()
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize("script", make.ASSIGNMENTS)
def test_make_writes_what_a_student_needs(
    script, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "new" / "handout"
    words = [out, "--script", script]
    assert call(make, words, monkeypatch, capsys)[0] == 0
    files = {path.name: path.read_text() for path in out.iterdir()}
    assert files == make.handout(script)
    assert {script, "envs.py", "README.md", "requirements.txt"} <= {*files}
    assert any(name.startswith("test_") for name in files)
    lines = files["requirements.txt"].splitlines()
    assert {line.split("==")[0] for line in lines} == {*make.PACKAGES}


@pytest.mark.parametrize(
    "words, says",
    [
        (["full"], "full is not empty"),
        (["full/file"], "exists"),
        (["full/file/below"], "Not a directory"),
        (["new", "--blank", "trail"], "'trial'], not trail"),
        (["new", "--blank", "trial", "act"], "not act"),
        (["new", "--script", "ppo.py"], "not ppo.py"),
        (["new", "--script", "envs.py", "--blank", "step"], "not step"),
    ],
)
def test_errors_of_make(words, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    status, out, error = call(make, words, monkeypatch, capsys)
    assert status == 2 and out == "" and error.count("\n") == 1
    assert error.startswith("error: ") and says in error
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]
    assert (tmp_path / "full" / "file").read_text() == "kept"


# --- Mistakes: (instead of, one writes) ---------------------------------------
LAMBDA_RETURNS = [
    ("trace[:, t])", "trace[:, t - 1])"),
    ("value[:, t], returns[:, t]", "returns[:, t], value[:, t]"),
    ("+ gamma[:, t] * after", "+ after"),
    ("+ gamma[:, t] * after", "- gamma[:, t] * after"),
    ("reward[:, t] + gamma[:, t] * after",
     "gamma[:, t] * (reward[:, t] + after)"),
    ("gamma[:, t]", "gamma[:, t - 1]"),
    ("gamma[:, t]", "gamma.roll(-1, 1)[:, t]"),
    ("gamma[:, t]", "gamma[:1, t]"),
    ("torch.as_tensor(gamma).expand_as(reward)",
     "torch.full_like(reward, gamma)"),  # only for a number
    ("    gamma = torch.as_tensor(gamma).expand_as(reward)\n", ""),
    ("reversed(range(reward.shape[1]))", "range(reward.shape[1])"),
    ("range(reward.shape[1])", "range(reward.shape[1] - 1)"),
    ("torch.zeros_like(reward[:, 0])", "value[:, -1]"),
    ("torch.zeros_like(reward), ", "reward, "),
]  # fmt: skip
OF_DREAM = {
    "bottleneck": [
        ("rho * torch", "rho**2 * torch"),
        ("randn_like", "rand_like"),
        ("randn_like(f)", "randn_like(f[:1])"),
        ("f + rho", "f.detach() + rho"),
        ("f + rho * torch.randn_like(f)", "f"),
        ("(f**2)", "(z**2)"),
        ("(f**2)", "(f.detach() ** 2)"),
        ("(f**2).sum(1)", "(f**2).mean(1)"),
        ("(f**2).sum(1)", "f.abs().sum(1)"),
        ("(f**2).sum(1)", "(f**2).sum(1).sqrt()"),
    ],
    "decoding_error": [
        ("return error * valid", "return error[:, 1:] * valid"),
        ("g.shape[1])", "g.shape[1])[:, 1:]"),  # the empty prefix left out
        ("length + 1, g", "length, g"),
        (" * valid(length + 1, g.shape[1])", ""),
        ("f[:, None] - g", "f[:, None] + g"),
        ("(f[:, None] - g)", "(f[:, None] - g.detach())"),
        (".sum(2)", ".mean(2)"),
        (".sum(2)", ".sum(2).sqrt()"),
    ],
    "exploration_reward": [
        ("error[:, :-1] - error[:, 1:]", "error[:, 1:] - error[:, :-1]"),
        ("- c", "+ c"),
        (" - c", ""),
        ("error[:, :-1]", "error[:, :1]"),  # counted from the beginning
        ("reward.detach()", "reward"),
        (" * valid(length, reward.shape[1])", ""),
        ("valid(length,", "valid(length - 1,"),
        ("valid(length,", "valid(length + 1,"),
        ("reward.detach() * valid(length, reward.shape[1])",
         "(reward.detach() + c) * valid(length, reward.shape[1]) - c"),
    ],
    "lambda_returns": LAMBDA_RETURNS,
    "losses": [
        ("f.detach()", "f"),  # g's loss teaches f
        ("args.dream.bottleneck_coef * kl", "kl"),
        ("error.sum(1)", "error[:, 1:].sum(1)"),
        ("(length + 1.0).mean()", "length.float().mean()"),
        (" / (length + 1.0).mean()", " / (length + 1.0)"),
        ("torch.where(knows_mu,", "torch.where(~knows_mu,"),
        ("(knows_mu, z,", "(knows_mu, z.detach(),"),
        ("at_end(g, length)", "at_end(g.detach(), length)"),
        ("at_end(g, length)", "g[:, -1]"),
        ("at_end(g, length)", "at_end(g, length - 1)"),
        ("target.pi_exec", "agent.pi_exec"),
        ("tau_exp, reward, args)", "tau_exp, reward, args, z)"),
        ("target.pi_exp, tau_exp", "target.pi_exp, tau_exec"),
        ("    if explore:", "    if True:"),
        ("reward = exploration_reward", "exploration_reward"),
        ("torch.where(knows_mu, z,", "torch.where(knows_mu, f,"),
    ],
    "trial": [
        ("at_end(agent.g(tau_exp), tau_exp[\"length\"])",
         "at_end(agent.g(tau_exp), tau_exp[\"length\"])\n"
         "    z_explored, _ = bottleneck(z_explored, 0.25)"),  # noise on g
        ("tau_exp[\"length\"])", "tau_exp[\"length\"] - 1)"),
        ("at_end(agent.g(tau_exp), tau_exp[\"length\"])",
         "agent.g(tau_exp)[:, -1]"),
        ("z, z_explored)", "z_explored, z)"),
        ("    z = torch.where", "    torch.where"),  # tests know the problem
        ("args.dream.bottleneck_std", "0.0"),
        ("@torch.no_grad()\n", ""),
        ("epsilons[1]", "epsilons[0]"),
        ("epsilons[1], sticky", "epsilons[1]"),
        ("in instructions[1:]", "in instructions"),
        ("task.execute(instruction)", "task.explore(mu, instruction)"),
        ("[], [info]", "[], []"),
        ("act(agent.pi_exp, task", "act(agent.pi_exec, task"),
        (" | {\"knows_mu\": knows_mu}", ""),
        ("z=z", "z=bottleneck(z, args.dream.bottleneck_std)[0]"),
    ],
}  # fmt: skip
OF_RL2 = {
    "join": [
        ("+ 1 + tau_exec", "+ tau_exec"),
        ("length.max() + 1", "length.max()"),
        ("length.max() + 1", "2 * T + 2"),
        ("t <= explored", "t < explored"),
        ("t - explored + T", "t - explored + T + 1"),
        ("torch.where(t <= explored, t, t - explored + T)", "t.repeat(B, 1)"),
        (".clamp(max=2 * T + 1)", ""),
        (".clamp(max=2 * T + 1)", ".clamp(max=2 * T)"),
        ("(2 * T + 2) * torch.arange(B)[:, None]",
         "torch.zeros(B, 1, dtype=torch.long)"),
        ("\"explored\": tau_exp", "\"explored\": tau_exec"),
        ("(*READ, \"reward\")", "READ"),
        ("[tau_exp[name], tau_exec[name]]", "[tau_exec[name], tau_exp[name]]"),
        ("(x, (0, 1))", "(x, (1, 0))"),
    ],
    "lambda_returns": LAMBDA_RETURNS,
    "q_losses": [
        # Discounted while it explores, or from there to execution
        ("torch.where(t <= explored, 1.0, args.q_learning.gamma)",
         "args.q_learning.gamma"),
        ("t <= explored", "t < explored"),
        ("1.0, args.q_learning.gamma", "args.q_learning.gamma, 1.0"),
        # Exploration is paid by what execution seems to be worth, or not at all
        ("    trace = torch.where(t == explored, 1.0, trace)\n", ""),
        ("torch.where(t == explored, 1.0, trace)",
         "torch.where(t == explored, args.q_learning.q_lambda, trace)"),
        ("t == explored", "t == explored + 1"),
        ("tau[\"reward\"][:, :-1], value, trace",
         "tau[\"reward\"][:, :-1], value * (t != explored), "
         "trace * (t != explored)"),
        ("tau[\"reward\"][:, :-1]", "tau[\"reward\"][:, :-1] * (t > explored)"),
        ("tau[\"reward\"][:, :-1]", "tau[\"reward\"][:, 1:]"),
        # The step between is learned from, or is an error
        ("t > explored", "t >= explored"),
        ("t < explored", "t <= explored"),
        (".clamp(max=q.shape[2] - 1)", ""),
        # Padding counts
        ("counts & (t > explored)", "t > explored"),
        ("[..., 0] * counts", "[..., 0]"),
        # Which Q, of which action
        ("greedy = q.argmax", "greedy = target_q.argmax"),
        ("value = target_q.gather", "value = q.gather"),
        ("greedy[..., None]", "action.clamp(max=1)[..., None]"),  # SARSA
        ("(q.gather(2, taken)", "(target_q.gather(2, taken)"),
        ("target_q[:, :-1]", "target_q[:, 1:]"),
        ("tau[\"prev_action\"][:, 1:]", "tau[\"prev_action\"][:, :-1]"),
        # Traces
        ("(action == greedy) | (not args.q_learning.cut_traces)",
         "torch.ones_like(counts)"),
        (" | (not args.q_learning.cut_traces)", ""),
        ("(not args.q_learning.cut_traces)", "args.q_learning.cut_traces"),
        ("action == greedy", "action != greedy"),
        ("args.q_learning.q_lambda * keep", "1.0 * keep"),
        # The mean
        ("returns) ** 2", "returns).abs()"),
        ("(error * x).sum(1)", "(error * x).mean(1)"),
        ("x.sum(1).float().mean()", "x.sum(1)"),
        ("x.sum(1).float().mean()", "counts.sum(1).float().mean()"),
        ("x.sum(1).float().mean()", "(t < explored).sum(1).float().mean()"),
        ("\"execution\": counts & (t > explored), \"exploration\":",
         "\"exploration\": counts & (t > explored), \"execution\":"),
    ],
    "losses": [
        ("target(tau)", "agent(tau)"),
        ("torch.no_grad()", "torch.enable_grad()"),
        ("q_losses(q, target_q", "q_losses(target_q, q"),
        ("q_losses(q, target_q, tau,", "q_losses(q, target_q, tau_exec,"),
        ("agent(tau)", "agent(tau_exec)"),
        ("join(tau_exp, tau_exec)", "join(tau_exec, tau_exp)"),
    ],
    "remember": [
        (".max() + 1", ".max()"),
        ("t <= tau", "t < tau"),
        ("for name in READ}, state)", "for name in READ}, None)"),
        ("torch.where(more, x, old)", "x"),
        ("t : t + 1", "t:"),
    ],
    "trial": [
        ("tau, state)\n        tau", "tau, None)\n        tau"),
        ("agent.memory, tau, ", "agent.memory, tau_exp, "),
        (", carried=state", ""),
        ("epsilons[1]", "epsilons[0]"),
        ("epsilons[1], sticky", "epsilons[1]"),
        ("in instructions[1:]", "in instructions"),
        ("        infos.append(info)\n", ""),
    ],
}  # fmt: skip
MISTAKES = {"dream.py": OF_DREAM, "rl2.py": OF_RL2}


def mistaken(source, function, right, wrong):
    """The source with one mistake in this function."""
    (node,) = make.find(source, [function])
    lines = source.splitlines(keepends=True)
    first = min([node, *node.decorator_list], key=lambda x: x.lineno).lineno
    body = "".join(lines[first - 1 : node.end_lineno])
    begins = body.index('"""', body.index('"""') + 3)
    at = body.find(right, 0 if right[0] == "@" else begins)
    assert at >= 0, f"{function} does not have {right}"
    body = body[:at] + wrong + body[at + len(right) :]
    return "".join([*lines[: first - 1], body, *lines[node.end_lineno :]])


@pytest.mark.parametrize(
    "script, function",
    [(script, name) for script in MISTAKES for name in MISTAKES[script]],
)
def test_a_mistake_fails_its_own_function_alone(script, function):
    source, mistakes = make.read(script), MISTAKES[script][function]
    assert len({*mistakes}) >= 4
    for right, wrong in mistakes:
        changed = mistaken(source, function, right, wrong)
        failed = failing(SCRIPTS[script], script, changed)
        assert failed == {function}, f"{wrong} instead of {right}"


@SCRIPTS_TO_BLANK
def test_every_function_has_mistakes(script):
    assert [*MISTAKES[script]] == [*make.ASSIGNMENTS[script].points]


# --- A task of one's own ------------------------------------------------------
def own_envs(right="", wrong=""):
    page = make.code_of(make.read("docs/your_own_task.md"))
    assert right in page
    return make.read("envs.py") + "\n\n" + page.replace(right, wrong, 1)


def test_a_task_of_one_s_own_is_learned(tmp_path):
    """The whole page, as it stands: DREAM learns it in some seconds."""
    (tmp_path / "envs.py").write_text(own_envs())
    for name in "dream.py", "course/test_own_task.py":
        (tmp_path / name.split("/")[-1]).write_text(make.read(name))
    assert grade.run(tmp_path, ["test_own_task.py"], 300) == ""


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
@pytest.mark.parametrize(
    "right, wrong, group",
    [
        ("", "", None),
        ("        return state\n", "        return state + 1\n", "rules"),
        ("return inside[:, None],", "state[:] = 0; return inside[:, None],",
         "rules"),
        ("return [action", "return 2 * [action", "rules"),
        ("(len(explores), 1), 3)", "(len(explores), 1), 4)", "rules"),
        ("        return state\n",
         "        return np.where(state < 3, state, mu[:, None] % 2)\n",
         "hidden"),
        ("right = inside == goal", "right = action == goal", "hidden"),
        ("1.0, -0.5)", "0.2, 0.0)", "hidden"),
        ("        return state\n", "        return 0 * state\n", "found"),
        ("return inside[:, None],", "return 0 * inside[:, None],", "found"),
    ],
)  # fmt: skip
def test_what_a_bad_task_fails(right, wrong, group):
    source = own_envs(right, wrong)
    failed = failing(test_own_task, "envs.py", source, without=["learned"])
    assert failed == ({group} if group else set())


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_the_skeleton_of_a_task_fails_all():
    source = make.handout("envs.py")["envs.py"]
    assert source.startswith(make.read("envs.py"))
    assert "1.0, -0.5" not in str(make.handout("envs.py").values())
    tests = make.ASSIGNMENTS["envs.py"].points
    with pytest.MonkeyPatch.context() as monkeypatch:
        learns = test_own_task.test_learned_by_dream
        monkeypatch.setattr(
            test_own_task, "test_learned_by_dream", lambda: learns(None)
        )
        assert failing(test_own_task, "envs.py", source) == {*tests}


# --- Grading ------------------------------------------------------------------
TESTS = """
import toy


def test_one():
    assert toy.one() == 1, "one must be 1"


def test_two():
    assert toy.two() == 2, "two must be 2"
"""
RIGHT = "def one():\n    return 1\n\n\ndef two():\n    return 2\n"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A submission, graded by two tests that do without PyTorch."""
    (tmp_path / "test_toy.py").write_text(TESTS)
    (tmp_path / "envs.py").write_text("")
    assignment = make.Assignment(
        {"one": 3, "two": 4},
        tests=str(tmp_path / "test_toy.py"),
        needs=str(tmp_path / "envs.py"),
    )
    monkeypatch.setitem(make.ASSIGNMENTS, "toy.py", assignment)
    directory = tmp_path / "submission"
    directory.mkdir()
    return directory


ALL = "toy.py is not imported: "
SLEEP = "__import__('time').sleep(99)"


@pytest.mark.parametrize(
    "changes, one, two",
    [
        ({}, "", ""),
        ({"return 2": "return 3"}, "", "two must be 2"),
        ({"return 2": "raise KeyError('x')"}, "", "KeyError: 'x'"),
        ({"return 2": "__import__('pytest').skip('?')"}, "", "?"),
        ({"return 2": "__import__('os')._exit(0)"}, "",
         "ended before its tests (status 0)"),
        ({"return 2": "__import__('sys').exit(0)"}, "", "SystemExit: 0"),
        ({"return 2": "__import__('pytest').exit('', 0)"}, "",
         "its tests were not run"),
        ({"return 2": "print(10**7 * 'x'); return 2"}, "", ""),
        ({"return 2": "raise ValueError(10**7 * 'x')"}, "",
         "ValueError: " + 288 * "x"),
        ({"return 2": SLEEP}, "",
         "no end within 6 seconds: is there an endless loop?"),
        ({"return 2": "return 2 2"}, ALL + "SyntaxError: invalid syntax", None),
        ({"def one": "import nothing\ndef one"},
         ALL + "ModuleNotFoundError: No module named 'nothing'", None),
        ({"def one": SLEEP + "\ndef one"},
         ALL + "no end within 6 seconds: is there an endless loop?", None),
        ({"def one": "__import__('os')._exit(0)\ndef one"},
         ALL + "ended before its tests (status 0)", None),
        ({RIGHT: "\0"}, ALL, None),
        ({RIGHT: None}, "there is no toy.py in the submission", None),
    ],
)  # fmt: skip
def test_a_bad_submission_gets_a_clear_line(changes, one, two, toy):
    source = RIGHT
    for right, wrong in changes.items():
        source = source.replace(right, wrong) if wrong else ""
    if source:
        (toy / "toy.py").write_text(source)
    # What a student has changed beside it is not used.
    (toy / "test_toy.py").write_text("def test_one_two():\n    pass\n")
    seconds = 6.0 if SLEEP in source else 60.0
    results = grade.grade(toy, "toy.py", seconds=seconds)
    wrong = [wrong.split("\n")[0] for *_, wrong in results.values()]
    expected = [one, one if two is None else two]
    assert wrong == expected or one == ALL and wrong[0].startswith(ALL)
    points = [
        (0 if wrong else most, most) for wrong, most in zip(wrong, (3, 4))
    ]
    assert [score[:2] for score in results.values()] == points
    assert all(len(wrong) < 1000 for *_, wrong in results.values())


def test_a_table_and_gradescope_s_results(toy, monkeypatch, capsys):
    (toy / "toy.py").write_text(RIGHT.replace("return 1", "return 7"))
    monkeypatch.chdir(toy)
    words = [toy, "--script", "toy.py", "--gradescope"]
    status, out, _ = call(grade, words, monkeypatch, capsys)
    assert status == 0 and [line.split() for line in out.splitlines()] == [
        ["one", "0/3", "one", "must", "be", "1"],
        ["two", "4/4"],
        ["total", "4/7"],
    ]
    results = json.loads((toy / "results.json").read_text())
    assert results["execution_time"] >= 0
    assert results["tests"] == [
        {"name": "one", "score": 0, "max_score": 3, "status": "failed",
         "output": "one must be 1"},
        {"name": "two", "score": 4, "max_score": 4, "status": "passed",
         "output": "all tests pass"},
    ]  # fmt: skip


def test_a_handout_is_graded(tmp_path):
    """By the command's own way, as a whole, of one function."""
    for name, content in make.handout("dream.py", ("bottleneck",)).items():
        (tmp_path / name).write_text(content)
    (tmp_path / "envs.py").write_text("an error")
    names = ["bottleneck", "exploration_reward"]
    assert grade.grade(tmp_path, "dream.py", names) == {
        "bottleneck": (0, 10, "NotImplementedError: YOUR CODE HERE"),
        "exploration_reward": (15, 15, ""),
    }


@pytest.mark.parametrize(
    "words, says",
    [
        (["missing"], "missing is not a directory"),
        ([".", "--script", "ppo.py"], "not ppo.py"),
        ([".", "--groups", "trail"], "'trial'], not trail"),
    ],
)
def test_errors_of_grade(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, error = call(grade, words, monkeypatch, capsys)
    assert status == 2 and out == "" and error.count("\n") == 1
    assert error.startswith("error: ") and says in error
