"""Write a handout: a script whose functions the students have to write.

    python course/make.py OUT                        # section 3 of dream.py
    python course/make.py OUT --blank exploration_reward trial
    python course/make.py OUT --script rl2.py        # the second assignment
    python course/make.py OUT --script envs.py       # a task of one's own

OUT then has the script with "YOUR CODE HERE", its tests, the script that it
runs with, a README.md with the equations, and requirements.txt.
"""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

ROOT = Path(__file__).resolve().parent.parent
TODO = 'raise NotImplementedError("YOUR CODE HERE")\n'
PACKAGES = "gymnasium numpy pytest torch tqdm tyro".split()


class Assignment(NamedTuple):
    points: dict  # of each group of tests, those named test_<group>...
    tests: str
    needs: str  # the script that it runs with
    page: str = ""  # has the code that is written at the end of the script


ASSIGNMENTS = {
    "dream.py": Assignment(
        {
            "bottleneck": 10, "decoding_error": 15, "exploration_reward": 15,
            "lambda_returns": 15, "losses": 25, "trial": 20,
        },
        tests="tests/test_method.py", needs="envs.py",
    ),
    "rl2.py": Assignment(
        {
            "join": 20, "lambda_returns": 15, "q_losses": 30, "losses": 5,
            "remember": 15, "trial": 15,
        },
        tests="tests/test_method_rl2.py", needs="envs.py",
    ),
    "envs.py": Assignment(
        {"rules": 30, "hidden": 20, "found": 20, "learned": 30},
        tests="course/test_own_task.py", needs="dream.py",
        page="docs/your_own_task.md",
    ),
}  # fmt: skip


@dataclass
class Args:
    out: tyro.conf.Positional[Path]  # a directory, new or empty
    script: str = "dream.py"  # dream.py, rl2.py or envs.py
    blank: tuple[str, ...] = ()  # functions to be written (none: all of them)


def get_assignment(script):
    if script not in ASSIGNMENTS:
        raise ValueError(f"--script: one of {[*ASSIGNMENTS]}, not {script}")
    return ASSIGNMENTS[script]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def find(source, names):
    """The functions of these names (none: all), in their order."""
    nodes = [*ast.walk(ast.parse(source))]
    nodes = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    nodes = [node for node in nodes if not names or node.name in names]
    return sorted(nodes, key=lambda node: node.lineno)


def blank(source, names):
    """The source, in which only the docstring of these functions is left."""
    lines = source.splitlines(keepends=True)
    for node in reversed(find(source, names)):
        docstring = node.body[0]
        rest = slice(docstring.end_lineno, node.end_lineno)
        lines[rest] = [" " * docstring.col_offset + TODO]
    return "".join(lines)


def code_of(page):
    """The Python code of a page."""
    return "".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S))


def describe(node, assignment):
    """What a function gets and returns, and the command of its tests."""
    head = f"def {node.name}({ast.unparse(node.args)}):"
    points = assignment.points[node.name]
    tests = f"{Path(assignment.tests).name} -k test_{node.name}"
    return (
        f"### {node.name}\n\n```\n{head}\n\n{ast.get_docstring(node)}\n```\n\n"
        f"{points} points: `python -m pytest {tests}`\n\n"
    )


def handout(script, names=()):
    """{name: content} of the files of a handout. Raises ValueError."""
    assignment = get_assignment(script)
    source, page = read(script), assignment.page and read(assignment.page)
    code = code_of(page)
    known = [node.name for node in find(code, ())] or [*assignment.points]
    for name in names:
        if name not in known:
            raise ValueError(f"--blank: of {known}, not {name}")
    names = names or known
    if page:
        source = f"{source}\n\n{blank(code, names)}"
        functions = page.replace(code, blank(code, names))
    else:
        functions = [describe(node, assignment) for node in find(source, names)]
        functions = "".join(functions)
        source = blank(source, names)
    text = read(f"course/handout_{Path(script).stem}.md")
    lines = read("requirements.txt").splitlines(keepends=True)
    return {
        script: source,
        assignment.needs: read(assignment.needs),
        Path(assignment.tests).name: read(assignment.tests),
        "README.md": text.replace("FUNCTIONS\n", functions),
        "requirements.txt": "".join(
            line for line in lines if line.split("==")[0] in PACKAGES
        ),
    }


def main():
    args = tyro.cli(Args, description=__doc__)
    try:
        files = handout(args.script, args.blank)
        args.out.mkdir(parents=True, exist_ok=True)
        if any(args.out.iterdir()):
            raise ValueError(f"{args.out} is not empty: nothing was written")
        for name, content in files.items():
            (args.out / name).write_text(content, encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    print(f"{args.out}: {', '.join(files)}")


if __name__ == "__main__":
    main()
