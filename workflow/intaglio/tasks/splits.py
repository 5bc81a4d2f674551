"""Stratified, reproducible splits: which rows train, choose and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from sklearn.model_selection import train_test_split

from intaglio.errors import UserError
from intaglio.tasks.examples import Examples

# From the targets of examples to what splits keep the shares of.
Strata = Callable[[Sequence[int]], Sequence[int]]


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

    Where rounding leaves a label out, examples are exchanged: the part gets `least` of every label and the rest `keep`,
    as far as there are so many. A label with a single example stays in the rest.

    Args:
        examples: what to split.
        size: share of the part (a float) or its number of examples (an int).
        seed: of the draw.
        labels: names of the labels, for messages.
        name: what the part is, for messages.
        strata: whose shares are kept.
        least: examples of a label that the part needs.
        keep: examples of a label that the rest needs, for the splits that follow.

    Returns:
        The rest and the part.

    Raises:
        UserError: too few examples of a label, or too small a part, to hold every label on both sides.
    """
    of_row = strata(examples.labels)
    counts = Counter(of_row)
    common = [row for row, stratum in enumerate(of_row) if counts[stratum] > 1]
    single = [row for row, stratum in enumerate(of_row) if counts[stratum] == 1]
    if single and len({of_row[row] for row in common}) < 2:
        raise UserError(
            f"{name}: a single example of label {labels[of_row[single[0]]]!r} is left to split, where {least + keep} "
            "are needed, one for each split; give more (or raise `max_train`), or drop the label"
        )
    try:
        rest, part = train_test_split(
            common, test_size=size, stratify=[of_row[row] for row in common], random_state=seed
        )
    except ValueError as error:
        raise UserError(
            f"{name}: {size} of {len(examples)} examples cannot hold every label ({error}); it needs "
            f"{len(counts)} at least, one of each"
        ) from error
    _exchange(rest, part, of_row, least, keep)
    return examples.take(sorted([*rest, *single])), examples.take(sorted(part))


def _exchange(rest: list[int], part: list[int], of_row: Sequence[int], least: int, keep: int) -> None:
    """Move rows of labels that one side lacks to it, for as many of its most frequent label."""
    for stratum, count in sorted(Counter(of_row).items()):
        if count < 2:
            continue
        of_part = min(least, count - 1)
        _fill(part, rest, stratum, of_part, of_row)
        _fill(rest, part, stratum, min(keep, count - of_part), of_row)


def _fill(side: list[int], other: list[int], stratum: int, wanted: int, of_row: Sequence[int]) -> None:
    """Bring a side to so many rows of a label; neither side changes its size."""
    counts = Counter(of_row[row] for row in side)
    for _ in range(wanted - counts[stratum]):
        most = max(sorted(counts), key=counts.__getitem__)
        if most == stratum or counts[most] < 2:
            return
        here = next(at for at, row in enumerate(side) if of_row[row] == most)
        there = next(at for at, row in enumerate(other) if of_row[row] == stratum)
        side[here], other[there] = other[there], side[here]
        counts[most] -= 1
        counts[stratum] += 1


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
    """Return a stratified sample of so many examples, or all where they are no more than that."""
    if count is None or len(examples) <= count:
        return examples
    if len(examples) - count < len(set(strata(examples.labels))):
        # scikit-learn wants every label among what is left out, too; so near to all, any few will do.
        return examples.take(range(count))
    return split_off(examples, count, seed, labels, name, strata=strata, least=least, keep=0)[1]
