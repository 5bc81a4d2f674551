"""The speed-up of a variant over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from intaglio.measure.timing.ratios import LEVEL, Speedup
from intaglio.statistics.seeds import mean_of_measured


def speedup_over_seeds(found: Sequence[Speedup]) -> Speedup:
    """Return the geometric mean of the speed-ups of several seeds; that of one seed as it is.

    Its interval is that of a mean over seeds, on a logarithmic scale: what differs between seeds counts by Student's t,
    and what is uncertain within each by the width of its own interval.
    """
    if len(found) == 1:
        return found[0]
    logs = np.log(np.array(found))
    errors = (logs[:, 2] - logs[:, 1]) / (2 * float(ndtri((1 + LEVEL) / 2)))
    mean = mean_of_measured(logs[:, 0], errors)
    return Speedup(*(math.exp(value) for value in (mean.value, *mean.interval(LEVEL))))
