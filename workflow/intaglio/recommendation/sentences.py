"""The recommendation of a task in sentences, for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.hardware import DEVICE_NAMES
from intaglio.measure.timing.ratios import is_measurable
from intaglio.metrics import named
from intaglio.recommendation.choose import OBJECTIVES, order, same_speed
from intaglio.recommendation.judge import FAILS, MEETS, UNDECIDED
from intaglio.recommendation.words import in_unit, three_digits, with_interval

_Row = Mapping[str, Any]


def recommendation_sentences(rows: Sequence[_Row]) -> list[str]:
    """Return what is recommended for a task and why, how sure that is, and what another choice gives up or gains.

    Plain text. The first sentence names the recommended variant, or says that there is none or that nothing can be told
    apart; it can stand alone. For a page on a study:

        for task in dict.fromkeys(row["task"] for row in rows):
            first, *rest = recommendation_sentences([row for row in rows if row["task"] == task])

    with the rows of recommendations.parquet (`read_summary(folder).rows["recommendations"]`). In these, `recommended`
    marks the row to show first; `verdict`, `drop`, `p99`, `size` and `backends` are meets, fails, undecided or null.

    Args:
        rows: the rows of one task, of all its models and variants.
    """
    chosen = next((row for row in rows if row["recommended"]), None)
    task = rows[0]["task"]
    if chosen is None:
        return [f"{task}: no variant is sure to meet every constraint ({rows[0]['constraints']}).", *_prospects(rows)]
    mine = [row for row in rows if row["model"] == chosen["model"]]
    of = f" of {chosen['model']}" if len({row["model"] for row in rows}) > 1 else ""
    first = f"{task}: {chosen['variant']}{of} is recommended: {chosen['reason']} ({chosen['constraints']})."
    return [first, *_figures(chosen), *_alternatives(mine, chosen), *_prospects(mine)]


def _figures(chosen: _Row) -> list[str]:
    """Return the figures of the recommended variant, with its loss on the test split."""
    found = []
    if chosen["latency_ms"] is not None:
        where = f"{chosen['backend']} on the {DEVICE_NAMES[chosen['device']]}"
        found.append(f"{three_digits(chosen['latency_ms'])} ms a call in {where}")
        faster = chosen["speedup"]
        if (
            faster is not None
            and chosen["variant"] != "float"
            and is_measurable(chosen["speedup_low"], chosen["speedup_high"])
        ):
            found[-1] += f" ({three_digits(faster)} times as fast as float)"
    if chosen["size_mb"] is not None:
        found.append(f"a file of {three_digits(chosen['size_mb'])} MB")
    sentences = [f"It takes {' and '.join(found)}."] if found else []
    if chosen["variant"] != "float" and chosen["difference_low"] is not None:
        loss = f"On the test split, which chose nothing, it is {with_interval(chosen, 'difference')} from float"
        sentences.append(f"{loss}: {_ON_TEST[chosen['drop_on_test']]}.")
    return sentences


_ON_TEST = {
    MEETS: "the loss stays within the limit there, too",
    UNDECIDED: "whether the loss stays within the limit there is undecided",
    FAILS: "the loss is beyond the limit there, so look at it again before it is deployed",
}


def _alternatives(rows: Sequence[_Row], chosen: _Row) -> list[str]:
    """Return what `float`, and the most accurate other variant that meets every constraint, would give up or gain."""
    others = [
        row for row in rows if row is not chosen and row["verdict"] == MEETS and row["validation_mean"] is not None
    ]
    plain = [row for row in others if row["variant"] == "float"]
    sign = -1 if named(chosen["primary_metric"]).higher_is_better else 1
    rest = sorted((row for row in others if row not in plain), key=lambda row: sign * row["validation_mean"])
    sentences = []
    for row in (*plain, *rest[:1]):
        changes = _changes(row, chosen)
        if changes:
            sentences.append(f"{row['variant']} in its place: {', '.join(changes)}.")
    return sentences


def _changes(row: _Row, chosen: _Row) -> list[str]:
    """Return how a variant differs from the recommended one."""
    found = []
    if row["validation_difference"] is not None and chosen["validation_difference"] is not None:
        gain = row["validation_difference"] - chosen["validation_difference"]
        found.append(f"{in_unit(row, gain)} on the validation split")
    of_speed = [] if same_speed(row, chosen) else [("paired_ms", "slower", "faster")]
    for column, more, less in (*of_speed, ("size_mb", "larger", "smaller")):
        if row[column] and chosen[column]:
            ratio = row[column] / chosen[column]
            if max(ratio, 1 / ratio) >= 1.02:
                found.append(f"{three_digits(max(ratio, 1 / ratio))} times {more if ratio > 1 else less}")
    return found


def _prospects(rows: Sequence[_Row]) -> list[str]:
    """Return sentences on the best variant of which nothing fails and something is undecided."""
    open_ones = [row for row in rows if row["verdict"] == UNDECIDED and row["objective_value"] is not None]
    if not open_ones:
        return []
    objective = OBJECTIVES[open_ones[0]["objective"]]
    best = min(open_ones, key=order)
    value = "" if best["objective"] == "accuracy" else f", {three_digits(best['objective_value'])} {objective.unit}"
    told = f"The {objective.best} of those that may meet every constraint is {best['variant']}{value}"
    needed = [f"{best[f'{name}_to_decide']:,} {of}" for name, of in _DECIDE if best.get(f"{name}_to_decide")]
    more = f" About {' or '.join(needed)} would decide its loss on the test split." if needed else ""
    tested = "" if best["difference_low"] is None else f", {with_interval(best, 'difference')} on the test split"
    return [f"{told}: {best['reason']}{tested}.{more}"]


_DECIDE = (("seeds", "seeds"), ("examples", "test examples"))
