"""What importing costs: ornstein beyond torch, and the answer to `ornstein --help`.

python benchmarks/imports.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from interleaved import measure, report, written

WHAT = {
    "python alone": ["-c", "pass"],
    "import torch": ["-c", "import torch, numpy"],
    "import torch, load a model's code": ["-c", "import torch, numpy, ornstein; ornstein.load, ornstein.Plan"],
    "import ornstein": ["-c", "import ornstein"],
    "ornstein --help": ["-m", "ornstein", "--help"],
    "ornstein methods": ["-m", "ornstein", "methods"],
}  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()

    def start(arguments: list[str]):
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    seconds = measure(
        {name: start(arguments) for name, arguments in WHAT.items()}, a.repeats, warm=1, clock=time.perf_counter
    )
    written(a.json, [report("starting up", seconds, "import torch", {"ornstein --help": 1.0, "import ornstein": 1.0})])


if __name__ == "__main__":
    main()
