"""Grade a submission: one group of tests a function, each in its own process.

    python course/grade.py DIR                  # prints a table
    python course/grade.py DIR --gradescope     # and writes results.json here

Of DIR only the script is used. Tests, and the scripts that it runs with, are
those of this repository. What the script prints is thrown away.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import tyro
from make import ROOT, get_assignment, read

SILENT = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
PYTEST = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"]
ENV = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@dataclass
class Args:
    dir: tyro.conf.Positional[Path]  # the submission
    script: str = "dream.py"  # dream.py, rl2.py or envs.py
    groups: tuple[str, ...] = ()  # groups of tests (none: all of them)
    seconds: float = 120.0  # time limit of a group
    gradescope: bool = False  # write results.json


def reason(child):
    """Why a test has failed, as pytest reports it, on at most 20 lines."""
    message = child.get("message", "").removeprefix("AssertionError: ")
    if child.tag == "error":  # not in a test: the last line of the traceback
        lines = [x[1:] for x in (child.text or "").splitlines() if x[:1] == "E"]
        message = (lines or [message])[-1]
    message = message.split("\nassert ")[0].strip() or "failed"
    return "\n".join(line[:300] for line in message.splitlines()[:20])


def run(folder, words, seconds, expected=()):
    """What pytest, called with these words, finds wrong, or "". Also if a test
    that is expected has not been run: the script has ended them."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [*PYTEST, f"--junitxml={report}", *words]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ENV
    process = subprocess.Popen(
        command, cwd=folder, env=env, start_new_session=True, **SILENT
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"no end within {seconds:g} seconds: is there an endless loop?"
    finally:
        with suppress(ProcessLookupError):  # it, and what it has started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    try:
        cases = [*ElementTree.parse(report).iter("testcase")]
    except (OSError, ElementTree.ParseError):
        return f"ended before its tests (status {process.returncode})"
    wrong = [child for case in cases for child in case]
    wrong = [x for x in wrong if x.tag in ("failure", "error", "skipped")]
    if wrong:
        return reason(wrong[0])
    done = {case.get("name", "").split("[")[0] for case in cases}
    whole = process.returncode == 0 and done.issuperset(expected)
    return "" if whole else "its tests were not run"


def grade(directory, script, names=(), seconds=120.0):
    """{group: (points, most points, what is wrong or "")}"""
    assignment = get_assignment(script)
    tests = Path(assignment.tests).name
    for name in names:
        if name not in assignment.points:
            raise ValueError(f"--groups: of {[*assignment.points]}, not {name}")
    points = {
        k: v for k, v in assignment.points.items() if k in names or not names
    }
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory")
    if not (directory / script).is_file():
        wrong = f"there is no {script} in the submission"
        return {name: (0, most, wrong) for name, most in points.items()}

    results, text = {}, read(assignment.tests)
    for name, most in {"": 0, **points}.items():  # first: is it imported?
        with TemporaryDirectory() as folder:
            folder = Path(folder)
            shutil.copy(ROOT / assignment.tests, folder)
            shutil.copy(ROOT / assignment.needs, folder)
            shutil.copy(directory / script, folder)
            words = ["-k", f"test_{name}"] if name else ["--collect-only"]
            known = re.findall(rf"^def (test_{name}\w*)", text, re.M)
            known = known if name else ()
            wrong = run(folder, [*words, tests], seconds, known)
        if name:
            results[name] = (0 if wrong else most, most, wrong)
        elif wrong:
            wrong = f"{script} is not imported: {wrong}"
            return {name: (0, most, wrong) for name, most in points.items()}
    return results


def gradescope(results, seconds):
    """The content of Gradescope's results.json."""
    tests = []
    for name, (score, most, wrong) in results.items():
        test = {"name": name, "score": score, "max_score": most}
        test["status"] = "failed" if wrong else "passed"
        tests.append(test | {"output": wrong or "all tests pass"})
    return {"execution_time": round(seconds), "tests": tests}


def main():
    args, began = tyro.cli(Args, description=__doc__), time.monotonic()
    try:
        results = grade(args.dir, args.script, args.groups, args.seconds)
        if args.gradescope:
            content = gradescope(results, time.monotonic() - began)
            Path("results.json").write_text(json.dumps(content, indent=1))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    score, most, _ = zip(*results.values())
    rows = [*results.items(), ("total", (sum(score), sum(most), ""))]
    for name, (score, most, wrong) in rows:
        first = wrong.split("\n")[0].rstrip(":")
        print(f"{name:20} {score:3}/{most:<3}  {first}".rstrip())


if __name__ == "__main__":
    main()
