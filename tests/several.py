"""Trainings of several processes that a test can kill: a server process imports everything once, and forks them.

They are started as torchrun starts them; what they write to the screen goes to a file.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interrupted import served


class Trainings:
    """The server's end in the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *commands: Sequence[Any], interrupt: Callable[[list[int]], None] | None = None) -> list[int]:
        """Run a command line in each of as many processes; let `interrupt` do something to them, given their numbers.

        Returns:
            Their exit statuses, negative for a signal.
        """
        self._write({"commands": [[str(word) for word in command] for command in commands]})
        processes = self._read()
        if interrupt is not None:
            interrupt(processes)
        return self._read()

    def _write(self, request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _read(self) -> list[int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server of the trainings has died"
        found: list[int] = json.loads(line)
        return found


@contextmanager
def trainings(screen: Path) -> Iterator[Trainings]:
    """Start the server; what its trainings write to the screen goes to a file."""
    with served(__file__, screen) as process:
        yield Trainings(process)


def _serve() -> None:
    import intaglio.stages.run  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        commands = request["commands"]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(len(commands))}
        processes = [
            _fork(command, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if len(commands) > 1 else {})
            for rank, command in enumerate(commands)
        ]
        print(json.dumps(processes), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in processes]), flush=True)


def _fork(command: list[str], environment: dict[str, str]) -> int:
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ.update(environment)
        os.dup2(2, 1)
        status = 1
        try:
            from intaglio.cli import main

            status = main(command)
        except SystemExit as leave:
            status = int(leave.code or 0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        sys.stderr.flush()
        os._exit(status)
    return process


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


if __name__ == "__main__":
    _serve()
