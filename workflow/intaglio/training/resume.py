"""Checkpoints within a training, in a folder that outlives a killed job, so that the job goes on where it was.

The folder (`work`) belongs to one job and is keyed by the job's content, so whatever lies there is of the same job.
It holds `progress-STEP` (the Trainer's checkpoint: model, optimizer, schedule, random states), `best-STEP` (the
weights of the best evaluation) and, after an error, `failure.json`. The first two are artifacts: renamed into place
when they are whole and on the disk, so a job killed while it saves leaves the checkpoint before. Two are kept.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from intaglio import store
from intaglio.errors import UserError

log = logging.getLogger(__name__)

KEPT = 2
FAILURE = "failure.json"
# What SLURM sends before it takes a job's node: SIGTERM by default, SIGUSR1 where --signal asks for it.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_STATUS = 128 + signal.SIGTERM


class Preempted(SystemExit):
    """The job was asked to leave and has saved its progress: exit status 143, as of a process that SIGTERM ended."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


class Leaving(Exception):  # noqa: N818  (no error)
    """The job was asked to leave in the middle of an evaluation."""


class Stop:
    """Whether the job was asked to leave."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal = signal.Signals(number).name


@contextmanager
def listening() -> Iterator[Stop]:
    """Yield what tells whether SIGTERM or SIGUSR1 came in the meantime; they do not end the process meanwhile.

    Outside the main thread, where Python cannot listen, nothing is changed.
    """
    stop, before = Stop(), {}
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, stop._ask)
    except ValueError:
        log.debug("not in the main thread: signals are left alone")
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interval(TrainerCallback):  # type: ignore[misc]
    """Ask for a checkpoint every so many minutes, and for one and the end where the job is asked to leave."""

    def __init__(self, minutes: float, stop: Stop) -> None:
        self.seconds = 60 * minutes
        self.stop = stop
        self._last = time.monotonic()

    def on_step_end(self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save when it is time."""
        if self.stop:
            # The evaluation that may be due would cost the time that is left; the resumed job makes up for it.
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self._last >= self.seconds:
            control.should_save = True

    def on_prediction_step(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Break off an evaluation: it may last longer than the job is given."""
        if self.stop:
            raise Leaving

    def on_save(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Begin the interval again."""
        self._last = time.monotonic()


@contextmanager
def durable(path: Path, kind: str, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield a folder to fill; on leaving it becomes the artifact `path`, on the disk before anything else happens."""
    with store.new_artifact(path, kind, about) as draft:
        yield draft
        for file in draft.rglob("*"):
            _sync(file)
    for place in (path / store.MANIFEST, path, path.parent):
        _sync(place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def best_folder(work: Path, step: int) -> Path:
    """Return where the weights of the best evaluation, that of `step`, lie."""
    return work / f"best-{step}"


@contextmanager
def new_progress(work: Path, step: int, best_step: int) -> Iterator[Path]:
    """Yield a folder for the Trainer's checkpoint of `step`; on leaving it counts, and those too many are removed.

    Args:
        work: the job's folder.
        step: optimizer steps done.
        best_step: step of the best evaluation so far, whose weights this checkpoint needs; 0 if there was none.
    """
    with durable(work / f"progress-{step}", "progress", {"best_step": best_step}) as draft:
        yield draft
    progress = _by_step(work, "progress")
    for old in progress[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    needed = {best_step} | {_best_step(folder) for folder in progress[-KEPT:]}
    for weights in _by_step(work, "best"):
        if _step(weights) not in needed:
            shutil.rmtree(weights, ignore_errors=True)


def latest_checkpoint(work: Path) -> Path | None:
    """Return the Trainer's last whole checkpoint, None for a fresh start; what is damaged or half written goes."""
    for draft in work.glob(".*.part"):
        shutil.rmtree(draft, ignore_errors=True)
    for folder in reversed(_by_step(work, "progress")):
        try:
            best_step = _best_step(folder)
            if best_step:
                store.open_artifact(best_folder(work, best_step), "weights")
        except (UserError, OSError, ValueError, LookupError) as error:
            log.warning("%s is skipped: %s", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return folder / f"checkpoint-{_step(folder)}"
    return None


def _best_step(progress: Path) -> int:
    return int(store.open_artifact(progress, "progress")["best_step"])


def _step(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def _by_step(work: Path, kind: str) -> list[Path]:
    return sorted((path for path in work.glob(f"{kind}-*") if path.name.rsplit("-", 1)[1].isdigit()), key=_step)


def record_failure(work: Path, error: BaseException | str) -> None:
    """Leave what went wrong in the job's folder, where the summary finds it."""
    with store.new_file(work / FAILURE) as draft:
        draft.write_text(json.dumps({"error": " ".join(str(error).split())}) + "\n")


def clear_failure(work: Path) -> None:
    """Forget an error of an earlier attempt."""
    (work / FAILURE).unlink(missing_ok=True)
