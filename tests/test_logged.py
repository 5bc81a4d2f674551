"""The output of a command and its children goes to the screen and to its log."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from intaglio.logged import logged
with logged(Path(sys.argv[1])):
    print("printed")
    print("warned", file=sys.stderr)
    subprocess.run(["echo", "a child"])
    # It outlives us and holds what we print to, as multiprocessing's resource tracker does.
    subprocess.Popen(["sleep", "30"])
    print("x" * 200_000)
    print("last")
print("after")
"""


def test_all_is_in_the_log_and_on_the_screen_and_nobody_waits_for_children(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "job.log"
    start = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, str(log)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1] / "workflow", stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    # Not to its end: the child that sleeps holds the screen, too.
    screen = "".join(process.stderr.readline() for _ in range(5))
    assert process.wait() == 0
    assert time.monotonic() - start < 20
    expected = ["printed", "warned", "a child", "x" * 200_000, "last"]
    assert sorted(log.read_text().splitlines()) == sorted(expected)
    assert sorted(screen.splitlines()) == sorted(expected)
