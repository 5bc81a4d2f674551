"""What a stage prepares for `run_stage`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.training.job import Learner
from intaglio.training.train import TrainingResult


@dataclass(frozen=True)
class Prepared:
    """The prepared part of a stage.

    Attributes:
        training: what to train; for a stage that does not train, its result.
        save: writes the finished model into a folder.
        facts: called after training; checks the result, and returns what training.json contains in addition to the
            training itself.
    """

    training: Learner | TrainingResult
    save: Callable[[Path], object]
    facts: Callable[[], dict[str, Any]] = dict
