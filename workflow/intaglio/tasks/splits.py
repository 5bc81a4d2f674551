"""Reproducible splits into training, validation and test examples: stratified, by group, or by time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from intaglio.errors import UserError
from intaglio.tasks.examples import Examples

_Integers = NDArray[np.int64]
# Maps the targets of examples to strata, whose shares splits preserve.
Strata = Callable[[Any], Any]
# Groups are dealt to at most so many folds. A part takes as many as exceed its share by no more than this factor.
_FOLDS, _EXCESS = 20, 0.1


def split_off(
    examples: Examples,
    size: float | int,
    seed: int,
    labels: Sequence[str],
    name: str,
    *,
    strata: Strata,
    least: int = 1,
    keep: int = 1,
) -> tuple[Examples, Examples]:
    """Split off a part with the same share of every label; both keep the order of the rows.

    If rounding leaves a label out, examples are exchanged: the part gets at least `least` examples of every label and
    the rest `keep`, if there are enough. A label with a single example stays in the rest.

    Args:
        examples: the examples to split.
        size: share of the part (float) or its number of examples (int).
        seed: of the draw.
        labels: names of the labels, for messages.
        name: name of the part, for messages.
        strata: maps labels to the strata whose shares are preserved.
        least: number of examples of each label that the part needs.
        keep: number of examples of each label that the rest needs for further splits.

    Returns:
        The rest and the part.

    Raises:
        UserError: a label has too few examples, or the part is too small, for both sides to have every label.
    """
    found, of_row, counts = np.unique(strata(examples.targets), return_inverse=True, return_counts=True)
    single = np.flatnonzero(counts[of_row] == 1)
    if len(single) and np.count_nonzero(counts > 1) < 2:
        raise UserError(
            f"{name}: a single example of label {labels[found[of_row[single[0]]]]!r} is left to split, where"
            f" {least + keep} are needed, one for each split; give more (or raise `max_train`), or drop the label"
        )
    common = np.flatnonzero(counts[of_row] > 1)
    try:
        rest, part = train_test_split(common, test_size=size, stratify=of_row[common], random_state=seed)
    except ValueError as error:
        raise UserError(
            f"{name}: {size} of {len(examples)} examples cannot hold every label ({error}); it needs "
            f"{len(counts)} at least, one of each"
        ) from error
    _exchange(rest, part, of_row, least, keep)
    return examples.take(np.sort(np.concatenate([rest, single]))), examples.take(np.sort(part))


def _exchange(rest: _Integers, part: _Integers, of_row: _Integers, least: int, keep: int) -> None:
    """Exchange rows so that each side has the labels that it lacks, against rows of its most frequent label."""
    for stratum, count in enumerate(np.bincount(of_row)):
        if count < 2:
            continue
        of_part = min(least, count - 1)
        _fill(part, rest, stratum, of_part, of_row)
        _fill(rest, part, stratum, min(keep, count - of_part), of_row)


def _fill(side: _Integers, other: _Integers, stratum: int, wanted: int, of_row: _Integers) -> None:
    """Exchange rows until a side has `wanted` of a label; the sizes of both sides stay the same."""
    counts = np.bincount(of_row[side], minlength=stratum + 1)
    for _ in range(wanted - counts[stratum]):
        most = int(counts.argmax())
        if most == stratum or counts[most] < 2:
            return
        here, there = np.flatnonzero(of_row[side] == most)[0], np.flatnonzero(of_row[other] == stratum)[0]
        side[here], other[there] = other[there], side[here]
        counts[most] -= 1
        counts[stratum] += 1


def split_groups(
    examples: Examples, share: float, seed: int, name: str, *, strata: Strata
) -> tuple[Examples, Examples]:
    """Split off a part of about this share, with about the same share of every label; no group is on both sides.

    Args:
        examples: the examples to split; their keys are the groups.
        share: share of the part.
        seed: of the draw.
        name: name of the part, for messages.
        strata: maps targets to the strata whose shares are preserved.

    Returns:
        The rest and the part.

    Raises:
        UserError: there are too few groups, or they are too large.
    """
    assert examples.keys is not None, "read with the column of groups"
    of_row = strata(examples.targets)
    folds = min(_FOLDS, len(np.unique(examples.keys)), np.unique(of_row, return_counts=True)[1].max())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label is rarer than there are folds
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed) if folds > 1 else None
        dealt = [fold for _, fold in splitter.split(of_row, of_row, examples.keys)] if splitter else []
    wanted, part = share * len(examples), np.empty(0, np.int64)
    for fold in dealt:
        if len(part) + len(fold) <= (1 + _EXCESS) * wanted:
            part = np.concatenate([part, fold])
    if not len(part):
        part = min(dealt, key=len, default=part)
    if not 0 < len(part) < 2 * wanted:
        raise UserError(f"{name}: no groups make about {share:.0%} of {len(examples)} examples; check `split_by`")
    return examples.take(np.setdiff1d(np.arange(len(examples)), part)), examples.take(np.sort(part))


def split_latest(examples: Examples, share: float, name: str) -> tuple[Examples, Examples]:
    """Split off about this share of the examples: those with the latest times. Equal times stay on one side.

    Args:
        examples: the examples to split; their keys are the times.
        share: share of the part.
        name: name of the part, for messages.

    Returns:
        The rest and the part.

    Raises:
        UserError: all examples have the same time.
    """
    assert examples.keys is not None, "read with the column of times"
    times = examples.keys
    bound = np.sort(times)[-max(1, round(share * len(times)))]
    sides = [side for side in (times >= bound, times > bound) if 0 < side.sum() < len(side)]
    if not sides:
        raise UserError(f"{name}: all {len(times)} examples have the same time; check `split_by_time`")
    part = min(sides, key=lambda side: abs(side.mean() - share))
    return examples.take(np.flatnonzero(~part)), examples.take(np.flatnonzero(part))


def at_most(
    examples: Examples,
    count: int | None,
    seed: int,
    labels: Sequence[str],
    name: str,
    *,
    strata: Strata,
    least: int = 1,
) -> Examples:
    """Return a stratified sample of at most this many examples; all of them if there are not more."""
    if count is None or len(examples) <= count:
        return examples
    if len(examples) - count < len(np.unique(strata(examples.targets))):
        # scikit-learn needs every label among the examples left out, too; if only a few are left out, any will do.
        return examples.take(np.arange(count))
    return split_off(examples, count, seed, labels, name, strata=strata, least=least, keep=0)[1]
