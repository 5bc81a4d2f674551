"""Checkpoints within a training, in a folder that outlives a killed job, so that the job can be resumed.

The folder (`work`) belongs to one job and is named by the job's key, so all that it contains is of the same job. It
holds `progress-STEP` (the Trainer's checkpoint: model, optimizer, schedule, random states), `best-STEP` (the weights of
the best evaluation), after an error `failure.json`, and the name of the process that works in it (`ownership`). The
first two are artifacts: they are renamed into place when
they are complete and on the disk, so a job killed while saving leaves the checkpoint before. Two are kept.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from intaglio import ranks, store
from intaglio.allocation import StopRequest
from intaglio.errors import UserError, first_line
from intaglio.ownership import assert_owned

log = logging.getLogger(__name__)

KEPT = 2
FAILURE = "failure.json"


class EvaluationInterrupted(Exception):  # noqa: N818  (no error)
    """The job has to end during an evaluation."""


class PeriodicSave(TrainerCallback):  # type: ignore[misc]
    """Request a checkpoint at an interval of some minutes, and a last one if the job is asked to end."""

    def __init__(self, minutes: float, stop: StopRequest) -> None:
        self.seconds = 60 * minutes
        self.stop = stop
        self._last = time.monotonic()

    def on_step_end(self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Request a checkpoint if it is due."""
        if self.stop:
            # A due evaluation would cost the remaining time; the resumed job makes up for it.
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True
        elif ranks.any_of(time.monotonic() - self._last >= self.seconds):
            control.should_save = True

    def on_prediction_step(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Abort an evaluation, which may take longer than the remaining time."""
        if self.stop:
            raise EvaluationInterrupted

    def on_save(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Restart the interval."""
        self._last = time.monotonic()


@contextmanager
def durable(path: Path, kind: str, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield a folder to fill; on leaving, it becomes the artifact `path` and is flushed to the disk.

    Raises:
        TakenOver: another process goes on with the job whose folder `path` is in.
    """
    with store.new_artifact(path, kind, about) as draft:
        yield draft
        for file in draft.rglob("*"):
            _sync(file)
        assert_owned(path.parent)
    for place in (path / store.MANIFEST, path, path.parent):
        _sync(place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def best_folder(work: Path, step: int) -> Path:
    """Return the folder for the weights of the best evaluation, that of `step`."""
    return work / f"best-{step}"


@contextmanager
def new_progress(work: Path, step: int, best_step: int) -> Iterator[Path]:
    """Yield a folder for the Trainer's checkpoint of `step`; on leaving, it counts and surplus checkpoints are removed.

    Args:
        work: the job's folder.
        step: number of optimizer steps done.
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
    """Return the Trainer's last complete checkpoint, or None; damaged or partial ones are removed."""
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


@contextmanager
def whole(checkpoint: str | None) -> Iterator[None]:
    """Within this context, a training is resumed from a checkpoint; the Trainer goes on without what is not there.

    Raises:
        UserError: a file of the checkpoint is missing, damaged, or holds other things than tensors and numbers.
    """
    try:
        yield
    except UnpicklingError as error:
        raise UserError(f"{checkpoint}: no state of a training ({first_line(error)}); delete the folder") from error
    if checkpoint is None:
        return
    folder = Path(checkpoint)
    store.open_artifact(folder.parent, "progress")
    for name in ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth"):
        if not any(folder.glob(name)):
            raise UserError(f"{folder}: no {name}, so the training cannot be resumed; delete the folder and run again")


def saved_ranks(checkpoint: str) -> int:
    """Return the number of processes that saved a checkpoint; each has a random state in it."""
    return len(list(Path(checkpoint).glob("rng_state*.pth")))


def _best_step(progress: Path) -> int:
    return int(store.open_artifact(progress, "progress")["best_step"])


def _step(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def _by_step(work: Path, kind: str) -> list[Path]:
    return sorted((path for path in work.glob(f"{kind}-*") if path.name.rsplit("-", 1)[1].isdigit()), key=_step)


def record_failure(work: Path, error: BaseException | str) -> None:
    """Record an error in the job's folder, for the summary."""
    with store.new_file(work / FAILURE) as draft:
        draft.write_text(json.dumps({"error": " ".join(str(error).split())}) + "\n")


def clear_failure(work: Path) -> None:
    """Remove the record of an earlier attempt's error."""
    (work / FAILURE).unlink(missing_ok=True)
