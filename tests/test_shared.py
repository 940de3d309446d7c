"""What the method scripts share is the same to the letter."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
END_TO_END = "rl2.py", "import_.py", "varibad.py"


def shared(script):
    """{title of a marked block: its lines}."""
    text = (ROOT / script).read_text()
    pattern = r"# --- shared: (.*?) -+\n(.*?)# --- end of shared -"
    return dict(re.findall(pattern, text, flags=re.DOTALL))


@pytest.mark.parametrize("script", END_TO_END)
def test_shared_blocks_are_equal(script):
    blocks, whole = shared("dream.py"), shared("rl2.py")
    assert len(blocks) == 2 and len(whole) == 3 and all(whole.values())
    assert shared(script) == blocks | whole
