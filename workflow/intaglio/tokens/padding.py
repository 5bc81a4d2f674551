"""The padding that batches need, and what another order of the examples saves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def padding_share(lengths: NDArray[np.int64], order: NDArray[np.int64], batch_size: int) -> float:
    """Return the share of tokens that are padding, where each batch is padded to its longest example.

    Args:
        lengths: number of tokens of each example.
        order: examples in the order in which batches take them.
        batch_size: number of examples of a batch; the last one may have fewer.
    """
    ordered = lengths[order]
    starts = np.arange(0, len(ordered), batch_size)
    sizes = np.diff(np.append(starts, len(ordered)))
    return float(1 - ordered.sum() / (np.maximum.reduceat(ordered, starts) * sizes).sum())


def padding_saved(lengths: NDArray[np.int64], order: NDArray[np.int64], batch_size: int) -> float:
    """Return the share of the tokens of a random order, padding included, that an order saves; see `padding_share`."""
    shares = (padding_share(lengths, one, batch_size) for one in (random_order(len(lengths)), order))
    at_random, ordered = (1 / (1 - share) for share in shares)
    return 1 - ordered / at_random


def random_order(examples: int) -> NDArray[np.int64]:
    """Return a random order of examples, always the same: int64 [examples]."""
    return np.random.default_rng(0).permutation(examples)
