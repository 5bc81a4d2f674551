"""Time and peak memory of preparing a CSV file: Intaglio's `data` job, beside datasets' load_dataset and map.

    python benchmarks/prepare.py [--lines 10000 --lines 100000] [--json FILE] [--check]

Both read short lines of a text and a label, check the texts, turn labels into numbers and write them. Intaglio's also
names the line of every fault, splits test and validation off with the same share of every label, and counts test texts
that are in the training data. Each runs in a process of its own, whose peak contains its libraries.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import processes
from record import write_record

ROOT = Path(__file__).resolve().parents[1]
LINES = (10_000, 100_000, 1_000_000, 10_000_000)
# The goal: bytes of memory at the largest number of lines.
LIMIT = 2 * 10**9
LABELS = ("ham", "spam")
WORDS = "a film that is as good or bad long short dull fine story actor scene song was and the very of"


@dataclass(frozen=True)
class Row:
    """One program on one file.

    Attributes:
        lines: lines of the file, without the header.
        bytes: size of the file.
        seconds: of the whole process.
        processor: seconds of processor time, which other processes disturb less.
        peak: largest resident memory of the process, in bytes.
    """

    lines: int
    bytes: int
    program: str
    seconds: float
    processor: float
    peak: int


def write_lines(path: Path, lines: int) -> None:
    """Write a CSV file of short lines: 2 to 12 words and a number, which makes each differ."""
    draw, vocabulary = random.Random(0), WORDS.split()
    with path.open("w") as file:
        file.write("text,label\n")
        for line in range(lines):
            words = " ".join(draw.choices(vocabulary, k=draw.randint(2, 12)))
            file.write(f"{words} {line},{LABELS[line % 3 == 0]}\n")


def with_intaglio(path: Path, folder: Path) -> None:
    """Prepare a file as the `data` job does."""
    from intaglio.study.task import Task
    from intaglio.tasks.prepare import prepare_data

    source = {"kind": "files", "train": str(path)}
    task = {"source": source, "text": ["text"], "label": "label", "labels": list(LABELS)}
    prepare_data(Task.model_validate(task), None, folder / "data")


def with_datasets(path: Path, folder: Path) -> None:
    """Prepare a file with datasets, its cache in the folder."""
    import datasets

    datasets.disable_progress_bars()

    def checked(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if not all(text.strip() for text in batch["text"]):
            raise ValueError("an empty text")
        return {"text": batch["text"], "label": [LABELS.index(label.strip()) for label in batch["label"]]}

    data = datasets.load_dataset("csv", data_files=str(path), cache_dir=str(folder), split="train")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))})
    data.map(checked, batched=True, features=features)


PROGRAMS = {"intaglio": with_intaglio, "datasets": with_datasets}


def measure(program: str, path: Path, lines: int) -> Row:
    """Run a program in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, __file__, "--run", program, str(path), folder]
        paths = os.pathsep.join(filter(None, [str(ROOT / "workflow"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
        used = processes.run(command, environment=environment)
    return Row(lines, path.stat().st_size, program, *used)


def missed(rows: Sequence[Row]) -> list[str]:
    """Return where Intaglio needs more memory than the goal."""
    return [
        f"{row.lines:,} lines need {row.peak / 1e9:.2f} GB, the goal is {LIMIT / 1e9:.0f} GB"
        for row in rows
        if row.program == "intaglio" and row.peak > LIMIT
    ]


def main() -> int:
    """Print the table; with --check, fail where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, action="append", help="default: 10^4 to 10^7")
    parser.add_argument("--only", choices=PROGRAMS, action="append", help="only this program")
    parser.add_argument("--json", type=Path, help="write all figures and the machine to this file, or into this folder")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if memory exceeds {LIMIT / 1e9:.0f} GB")
    parser.add_argument("--run", nargs=3, metavar=("PROGRAM", "FILE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        program, path, folder = arguments.run
        PROGRAMS[program](Path(path), Path(folder))
        return 0
    rows = []
    print(f"{'lines':>12}{'file':>12}  {'program':12}{'time':>10}{'processor':>12}{'memory':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for lines in arguments.lines or LINES:
            path = Path(folder) / "lines.csv"
            write_lines(path, lines)
            for program in arguments.only or PROGRAMS:
                row = measure(program, path, lines)
                rows.append(row)
                size, memory = f"{row.bytes / 1e6:.1f} MB", f"{row.peak / 1e6:,.0f} MB"
                print(
                    f"{lines:>12,}{size:>12}  {program:12}{row.seconds:>8.1f} s{row.processor:>10.1f} s{memory:>12}",
                    flush=True,
                )
    if arguments.json:
        write_record(arguments.json, "prepare", "cpu", {"rows": [asdict(row) for row in rows]})
    sentences = missed(rows) if arguments.check else []
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return bool(sentences)


if __name__ == "__main__":
    sys.exit(main())
