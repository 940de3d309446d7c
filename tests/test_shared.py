"""What the method scripts share is the same to the letter."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = "dream.py", "rl2.py"


def shared(script):
    """{title of a marked block: its lines}."""
    text = (ROOT / script).read_text()
    pattern = r"# --- shared: (.*?) -+\n(.*?)# --- end of shared -"
    return dict(re.findall(pattern, text, flags=re.DOTALL))


@pytest.mark.parametrize("script", SCRIPTS)
def test_shared_blocks_are_equal(script):
    blocks = shared("dream.py")
    assert len(blocks) == 2 and all(blocks.values())
    assert shared(script) == blocks
