"""What a command takes: its time, its processor time and its memory.

A process begins with its parent's largest memory (Linux keeps it through `exec`), and a benchmark may be larger than
what it measures. So the command is started by a small process, which is this file as a program:

    python benchmarks/processes.py FIGURES COMMAND...
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple


class Used(NamedTuple):
    """What a command has taken.

    Attributes:
        seconds: from its start to its end.
        processor: seconds of processor time, of it and of the processes that it waited for.
        peak: largest resident memory of one of them, in bytes.
    """

    seconds: float
    processor: float
    peak: int


def run(
    command: Sequence[str | Path],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    printed: IO[str] | None = None,
) -> Used:
    """Run a command to its end; return what it took.

    Args:
        command: a program and its arguments.
        folder: where it runs; by default here.
        environment: its variables; by default those of this process.
        printed: where its output goes, errors too; by default where this process's goes.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    words = [str(word) for word in command]
    with tempfile.NamedTemporaryFile("r") as figures:
        small = [sys.executable, "-S", __file__, figures.name, *words]
        errors = subprocess.STDOUT if printed else None
        done = subprocess.run(small, cwd=folder, env=environment, stdout=printed, stderr=errors, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, words)
        return Used(*json.loads(figures.read()))


def _start(figures: str, command: Sequence[str]) -> int:
    """Run a command and write what it took; return its exit status."""
    began = time.monotonic()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    Path(figures).write_text(json.dumps(Used(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_start(sys.argv[1], sys.argv[2:]))
