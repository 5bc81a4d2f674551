"""Fine-tuning jobs that a test can kill: a server process imports everything once and forks one job per line.

A job is a separate process, killed by a real signal; only the import of torch, which takes seconds, is shared.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Jobs:
    """The server's end in the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, job: dict[str, Any], interrupt: Callable[[int], None] | None = None) -> int:
        """Run `finetune(**job)`, let `interrupt` do something to its process, return its exit status.

        The status is negative for a signal, as subprocess has it.
        """
        self._write(job)
        pid = int(self._read())
        if interrupt is not None:
            interrupt(pid)
        return int(self._read())

    def _write(self, job: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server of the jobs has died"
        return line


@contextmanager
def jobs(log: Path) -> Iterator[Jobs]:
    """Start the server; the output of the jobs goes to `log`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
    try:
        yield Jobs(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def when(happened: Callable[[], bool], number: int, delay: float = 0.0) -> Callable[[int], None]:
    """Return what sends a signal `delay` seconds after something has happened, or not at all if the job is faster."""

    def interrupt(pid: int) -> None:
        while not happened():
            if not _alive(pid):
                return
            time.sleep(0.0005)
        time.sleep(delay)
        if _alive(pid):
            os.kill(pid, number)

    return interrupt


def _alive(pid: int) -> bool:
    # A job that has ended is reaped by the server; no other process takes its number so soon.
    return Path(f"/proc/{pid}").exists()


def _serve() -> None:
    from intaglio.errors import UserError
    from intaglio.study.options import FinetuneOptions
    from stage_runs import finetune

    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            job["options"] = FinetuneOptions(**job["options"])
            status = 0
            try:
                finetune(**{key: Path(value) if isinstance(value, str) else value for key, value in job.items()})
            except SystemExit as leave:
                status = int(leave.code or 0)
            except UserError as error:
                print(error, file=sys.stderr)
                status = 2
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                status = 1
            sys.stderr.flush()
            os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
