"""Strata of examples: groups whose shares splits preserve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Integers = NDArray[np.int64]
# Number of strata of a regression task, and the least number of examples of each.
GROUPS, _LEAST = 10, 10


def of_classes(targets: NDArray[Any]) -> _Integers:
    """Return the classes themselves, [examples]."""
    return np.asarray(targets, dtype=np.int64)


def of_label_sets(targets: NDArray[Any]) -> _Integers:
    """Return for every example the rarest of its labels; the number of labels for an example without any.

    Chance alone spreads frequent labels well; a rare label has to be dealt out, and an example belongs to the stratum
    of the label that needs it most. Sets of labels are no strata: most of them occur once or twice.

    Args:
        targets: 1 or 0, [examples, labels].
    """
    targets = np.asarray(targets)
    frequencies = targets.sum(0)
    rarest = np.where(targets > 0, frequencies, len(targets) + 1).argmin(1)
    chosen: _Integers = np.where(targets.any(1), rarest, targets.shape[1]).astype(np.int64)
    return chosen


def of_values(targets: NDArray[Any]) -> _Integers:
    """Return for every example which of ten equal groups it is in, from the lowest values to the highest."""
    examples = len(targets)
    groups = min(GROUPS, max(1, examples // _LEAST))
    places = np.empty(examples, dtype=np.int64)
    places[np.argsort(targets, kind="stable")] = np.arange(examples)
    return places * groups // max(examples, 1)
