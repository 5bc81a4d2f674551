"""What a training notes in its work folder while it runs, for those who watch it: a line of JSON at each log.

It is no result: the history of a finished training is in its checkpoint, and a resumed one begins at its last
checkpoint, so lines of lost steps may be followed by others of the same steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

JOURNAL = "history.jsonl"


@dataclass(frozen=True)
class Entry:
    """A moment of a training.

    Attributes:
        at: seconds since the epoch.
        step: optimizer steps that are done.
        steps: optimizer steps of the whole training.
        values: by name, such as loss and validation_accuracy; none where an attempt begins.
    """

    at: float
    step: int
    steps: int
    values: dict[str, float] = field(default_factory=dict)


def note(work: Path, step: int, steps: int, values: Mapping[str, float]) -> None:
    """Append an entry to the journal of a training; one that cannot be written is left out."""
    with suppress(OSError), (work / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(Entry(time.time(), step, steps, dict(values)))) + "\n")


def noted(work: Path) -> list[Entry]:
    """Return the entries of a journal, in the order of time; none if there is no journal."""
    try:
        lines = (work / JOURNAL).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        # A killed process may leave a part of a line.
        with suppress(ValueError, TypeError):
            found.append(Entry(**json.loads(line)))
    return found


def time_left(entries: Sequence[Entry]) -> float | None:
    """Return the time that the rest of a training takes, at the pace of its last attempt; None if nothing tells it."""
    begins = [place for place, entry in enumerate(entries) if not entry.values]
    attempt = entries[begins[-1] :] if begins else entries
    if len(attempt) < 2 or attempt[-1].step <= attempt[0].step:
        return None
    first, last = attempt[0], attempt[-1]
    return (last.at - first.at) / (last.step - first.step) * (last.steps - last.step)
