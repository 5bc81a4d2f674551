"""Time and peak memory of predicting a CSV file with a bundle, in its own program.

    python benchmarks/predict.py BUNDLE [--rows 1000000] [--form onnx] [--threads 2] [--check]

Rows are 2 to 12 words and a number. It needs what a bundle needs; the process's peak contains libraries and model.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import processes

# The goal: bytes of memory, whatever the number of rows.
LIMIT = 10**9
WORDS = ("film", "that", "is", "good", "or", "bad", "long", "short", "dull", "fine", "story", "actor", "scene")


def main() -> int:
    """Print what it took; with --check, fail where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder of a bundle for a single text")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--form", help="form of the model (by default the fastest)")
    parser.add_argument("--threads", type=int, help="number of threads (by default that of the cores)")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if memory exceeds {LIMIT / 1e9:.0f} GB")
    arguments = parser.parse_args()
    column = json.loads((arguments.bundle / "bundle.json").read_text())["text"][0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        draw = random.Random(0)
        with path.open("w") as file:
            file.write(f"number,{column}\n")
            for row in range(arguments.rows):
                file.write(f"{row},{' '.join(draw.choices(WORDS, k=draw.randint(2, 12)))} {row}\n")
        command = [sys.executable, str(arguments.bundle / "predict.py"), str(path)]
        for name in ("form", "threads"):
            if getattr(arguments, name) is not None:
                command += [f"--{name}", str(getattr(arguments, name))]
        seconds, _, peak = processes.run(command)
    print(f"{arguments.rows:,} rows in {seconds:.1f} s, {arguments.rows / seconds:,.0f} rows/s, {peak / 1e6:,.0f} MB")
    if arguments.check and peak > LIMIT:
        print(f"{peak / 1e9:.2f} GB of memory, the goal is {LIMIT / 1e9:.0f} GB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
