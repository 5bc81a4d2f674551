"""Jobs that a test can kill: a server process imports everything once and forks one job per line.

A job is a separate process, killed by a real signal; only the import of torch, which takes seconds, is shared.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


# Graphs of models, by checkpoint; in the server.
_GRAPHS: dict[Path, Any] = {}


class Jobs:
    """The server's end in the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, job: dict[str, Any], interrupt: Callable[[int], None] | None = None) -> int:
        """Run a job, let `interrupt` do something to its process, return its exit status.

        A job is the arguments of `finetune`, `command`: those of the command line, or `shell`: a line of shell.

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
def served(program: str, log: Path, before: Sequence[object] = ()) -> Iterator[subprocess.Popen[str]]:
    """Start a program of these tests that reads requests and answers, after the words of `before`; it logs to `log`."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with log.open("a") as errors:
        process = subprocess.Popen(
            [*map(str, before), sys.executable, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


@contextmanager
def jobs(log: Path, before: Sequence[object] = ()) -> Iterator[Jobs]:
    """Start the server, after the words of `before`; the output of the jobs goes to `log`."""
    with served(__file__, log, before) as process:
        yield Jobs(process)


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


def after(seconds: float, number: int) -> Callable[[int], None]:
    """Return what sends a signal after some seconds, or not at all if the job is faster."""

    def interrupt(pid: int) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and _alive(pid):
            time.sleep(min(0.002, max(0.0, end - time.monotonic())))
        if _alive(pid):
            os.kill(pid, number)

    return interrupt


def _serve() -> None:
    import onnxruntime  # noqa: F401

    import intaglio.export.export
    import intaglio.measure.backends.onnx_runtime
    import intaglio.measure.profile
    import intaglio.stages.run  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        verb, *given = job.get("command", [""])
        if verb == "profile":
            _share_forkserver()
        if verb == "int8":
            _share_graph(Path(given[given.index("--parent") + 1]))
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            status = 1
            try:
                status = _run(job)
            except SystemExit as leave:
                status = int(leave.code or 0)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            sys.stderr.flush()
            os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(job: dict[str, Any]) -> int:
    from intaglio.cli import main
    from intaglio.errors import UserError
    from intaglio.study.options import FinetuneOptions
    from stage_runs import finetune

    if "shell" in job:
        return subprocess.call(["sh", "-c", job["shell"]], stdout=subprocess.DEVNULL)
    if "command" in job:
        return main(job["command"])
    job["options"] = FinetuneOptions(**job["options"])
    try:
        finetune(**{key: Path(value) if isinstance(value, str) else value for key, value in job.items()})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _share_graph(checkpoint: Path) -> None:
    """Express a model as a graph once for all jobs: it takes longer than all the rest, and leaves nothing behind."""
    from intaglio.checkpoint import Checkpoint
    from intaglio.onnx.float_graph import float_graph, graph_inputs
    from intaglio.stages import int8

    if checkpoint not in _GRAPHS:
        opened = Checkpoint(checkpoint)
        _GRAPHS[checkpoint] = float_graph(checkpoint, opened.load(), graph_inputs(opened.tokenizer))
        int8.float_graph = lambda checkpoint, *_: _GRAPHS[checkpoint]


def _share_forkserver() -> None:
    """Start the process from which those that measure memory are forked, once for all jobs: it imports torch."""
    from multiprocessing import forkserver, resource_tracker

    from intaglio.measure.server import start

    start()
    resource_tracker.ensure_running()
    # A job would ask for its state, and it is no child of the job.
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]


if __name__ == "__main__":
    _serve()
