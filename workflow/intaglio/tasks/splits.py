"""Stratified, reproducible splits into training, validation and test examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from sklearn.model_selection import train_test_split

from intaglio.errors import UserError
from intaglio.tasks.examples import Examples

# Maps the targets of examples to strata, whose shares splits preserve.
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
    """Exchange rows so that each side has the labels that it lacks, against rows of its most frequent label."""
    for stratum, count in sorted(Counter(of_row).items()):
        if count < 2:
            continue
        of_part = min(least, count - 1)
        _fill(part, rest, stratum, of_part, of_row)
        _fill(rest, part, stratum, min(keep, count - of_part), of_row)


def _fill(side: list[int], other: list[int], stratum: int, wanted: int, of_row: Sequence[int]) -> None:
    """Exchange rows until a side has `wanted` of a label; the sizes of both sides stay the same."""
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
    """Return a stratified sample of at most this many examples; all of them if there are not more."""
    if count is None or len(examples) <= count:
        return examples
    if len(examples) - count < len(set(strata(examples.labels))):
        # scikit-learn needs every label among the examples left out, too; if only a few are left out, any will do.
        return examples.take(range(count))
    return split_off(examples, count, seed, labels, name, strata=strata, least=least, keep=0)[1]
