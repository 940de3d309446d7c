#!/usr/bin/env bash
# Gradescope, once, when it builds the image: Python 3.11 or newer, and packages.
set -euo pipefail
apt-get install -y python3.11-venv || apt-get install -y python3-venv
python=$(command -v python3.11 || command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
"$python" -m venv /autograder/venv
cd /autograder/source
grep -E '^(gymnasium|numpy|pytest|torch|tqdm|tyro)==' requirements.txt > needed.txt
# PyTorch for the CPU only
/autograder/venv/bin/pip install -r needed.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu
