"""Trains with copies of a method's script in which a few lines differ."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def changed(method, changes):
    """The text of its script; changes: {what stands there once: instead}."""
    text = (ROOT / f"{method}.py").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, f"{method}.py has changed: {old}"
        text = text.replace(old, new)
    return text


def run(method, changes, words):
    """The exit status of the changed script, given these words."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, f"{method}.py")
        script.write_text(changed(method, changes))
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, script, *words]
        return subprocess.run(command, env=environment).returncode
