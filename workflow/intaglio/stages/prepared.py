"""What a stage prepares, for `run_stage` to train and to save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.training.job import Learner
from intaglio.training.train import TrainingResult


@dataclass(frozen=True)
class Prepared:
    """What a stage has made ready.

    Attributes:
        learner: the model, its tokenizer and how it is trained.
        save: writes the finished model into a folder.
        facts: called when training is over: checks what came out, and returns what training.json keeps of it beside
            the training itself.
        result: of a stage that does not train.
    """

    learner: Learner
    save: Callable[[Path], object]
    facts: Callable[[], dict[str, Any]] = dict
    result: TrainingResult | None = None
