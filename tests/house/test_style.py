"""`make lint` is clean."""

from __future__ import annotations

import subprocess
import sys


def test_the_linter_has_nothing_to_say(root):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
