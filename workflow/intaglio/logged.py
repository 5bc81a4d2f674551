"""Copying of a command's output to a log file, in addition to the screen.

A shell's `| tee` cannot be used: when SLURM signals the processes of a job, the shell and tee end immediately, and the
command that is still saving its progress is killed with them.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """Within this context, the output of this process and its children is also written to `path`."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    screen, kept = os.dup(2), (os.dup(1), os.dup(2))
    (source, sink), (over, end) = os.pipe(), os.pipe()
    with path.open("wb", buffering=0) as file:
        copier = threading.Thread(target=_copy, args=(source, over, file, screen), daemon=True)
        copier.start()
        for descriptor in (1, 2):
            os.dup2(sink, descriptor)
        os.close(sink)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, before in zip((1, 2), kept, strict=True):
                os.dup2(before, descriptor)
                os.close(before)
            os.close(end)
            copier.join()
    for descriptor in (source, over, screen):
        os.close(descriptor)


def _copy(source: int, over: int, file: IO[bytes], screen: int) -> None:
    """Copy from `source` to a file and to the screen, until the other end of `over` is closed and nothing is left.

    The end of `source` is not awaited: children that outlive the work keep it open, such as multiprocessing's tracker.
    """
    while True:
        ready, _, _ = select.select([source, over], [], [])
        chunk = os.read(source, 65536) if source in ready else b""
        if not chunk:
            return
        file.write(chunk)
        os.write(screen, chunk)
