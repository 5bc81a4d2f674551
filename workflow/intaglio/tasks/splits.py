"""Stratified, reproducible splits: which rows train, choose and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sklearn.model_selection import train_test_split

from intaglio.errors import UserError
from intaglio.tasks.examples import Examples


def cut(
    examples: Examples, size: float | int, seed: int, labels: Sequence[str], name: str
) -> tuple[Examples, Examples]:
    """Cut a part off, with the same share of every label; both keep the order of the rows.

    Args:
        examples: what to cut.
        size: share of the part (a float) or its number of examples (an int).
        seed: of the draw.
        labels: names of the labels, for messages.
        name: what the part is, for messages.

    Returns:
        The rest and the part.

    Raises:
        UserError: too few examples of a label, or too small a part, to hold every label on both sides.
    """
    rare = [label for label, count in Counter(examples.labels).items() if count < 2]
    if rare:
        raise UserError(
            f"{name}: label {labels[rare[0]]!r} has a single example, which cannot be split; give more"
            " (or raise `max_train`), or drop the label"
        )
    try:
        rest, part = train_test_split(range(len(examples)), test_size=size, stratify=examples.labels, random_state=seed)
    except ValueError as error:
        raise UserError(f"{name}: {size} of {len(examples)} examples cannot hold every label ({error})") from error
    return examples.take(sorted(rest)), examples.take(sorted(part))


def at_most(examples: Examples, count: int | None, seed: int, labels: Sequence[str], name: str) -> Examples:
    """Return a stratified sample of so many examples, or all where they are no more than that."""
    if count is None or len(examples) <= count:
        return examples
    if len(examples) - count < len(set(examples.labels)):
        # scikit-learn wants every label among what is left out, too; so near to all, any few will do.
        return examples.take(range(count))
    return cut(examples, count, seed, labels, name)[1]
