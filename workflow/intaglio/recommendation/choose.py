"""The choice of at most one variant for each task, on the validation split's values, and the reason for every row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.metrics import named
from intaglio.recommendation.judge import FAILS, MEETS, UNDECIDED, VERDICTS
from intaglio.recommendation.words import listed, three_digits, with_interval

_Row = Mapping[str, Any]
# Sizes and times of training that differ by less than this share are taken for the same.
_SAME = 0.01
_ENDS = ("low", "high")


@dataclass(frozen=True)
class Objective:
    """What a recommended variant is best in.

    Attributes:
        column: of recommendations.parquet.
        unit: of its values.
        best: what the best variant is.
        better, worse: what others are.
    """

    column: str
    unit: str
    best: str
    better: str
    worse: str


OBJECTIVES: Mapping[str, Objective] = {
    "latency": Objective("latency_ms", "ms a call", "fastest", "faster", "slower"),
    "size": Objective("size_mb", "MB", "smallest", "smaller", "larger"),
    "memory": Objective("memory_mb", "MB of memory", "least in memory", "less in memory", "more in memory"),
    "accuracy": Objective("validation_mean", "", "best on the validation split", "better", "worse"),
    "training": Objective("train_seconds", "s of training", "cheapest to train", "cheaper to train", "longer to train"),
}


def recommend(rows: Sequence[dict[str, Any]], models: Collection[tuple[str, str]]) -> None:
    """Mark the recommended variant of each task, and give the reason in every row.

    Among the variants that meet every constraint, the best in the objective is recommended. Of those that cannot be
    told apart from it, `float` is taken, else the best on the validation split (the fastest, for accuracy).

    Args:
        rows: of `judge.judged_rows`, of all tasks and models.
        models: the task and the model that was chosen for it.
    """
    for task, model in dict.fromkeys((row["task"], row["model"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["model"]) == (task, model)]
        for row in mine:
            row["objective_value"] = row[OBJECTIVES[row["objective"]].column]
        if (task, model) in models:
            _recommend(mine)
            continue
        other = next((name for of, name in models if of == task), None)
        for row in mine:
            row["reason"] = f"{other} is the better model on the validation split" if other else "no finished run"


def _recommend(rows: Sequence[dict[str, Any]]) -> None:
    eligible = [row for row in rows if row["verdict"] == MEETS and row["objective_value"] is not None]
    best = min(eligible, key=order, default=None)
    chosen = None if best is None else _among_equals([row for row in eligible if _is_as_good(row, best)])
    for row in rows:
        row["recommended"] = row is chosen
        if row["verdict"] != MEETS:
            row["reason"] = f"{row['verdict']}: {'; '.join(_obstacles(row))}"
        elif row is chosen:
            row["reason"] = _why(row, eligible)
        elif row["objective_value"] is None:
            row["reason"] = f"meets every constraint; its {row['objective']} is not known"
        elif chosen is not None:
            row["reason"] = f"meets every constraint; {_beside(row, chosen)}"


def order(row: _Row) -> float:
    """Return what is least for the row that is best in the objective; its value is known."""
    value: float = row["paired_ms" if row["objective"] == "latency" else "objective_value"]
    return -value if row["objective"] == "accuracy" and named(row["primary_metric"]).higher_is_better else value


def same_speed(row: _Row, other: _Row) -> bool | None:
    """Return whether the intervals of two speed-ups over float overlap; None if one is not known."""
    ends = [each[f"speedup_{end}"] for each in (row, other) for end in _ENDS]
    return None if None in ends else bool(ends[0] <= ends[3] and ends[2] <= ends[1])


def _is_as_good(row: _Row, best: _Row) -> bool:
    """Return whether a row cannot be told apart from the best one in the objective."""
    if row is best:
        return True
    if row["objective"] == "latency" and (same := same_speed(row, best)) is not None:
        return same
    if row["objective"] == "accuracy":
        low, high, best_low, best_high = (of[f"validation_difference_{end}"] for of in (row, best) for end in _ENDS)
        return None not in (low, high, best_low, best_high) and low <= best_high and best_low <= high
    return bool(abs(row["objective_value"] - best["objective_value"]) <= _SAME * abs(best["objective_value"]))


def _among_equals(equals: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row to take of those that cannot be told apart in the objective."""
    if equals[0]["objective"] == "accuracy":
        timed = [row for row in equals if row["paired_ms"] is not None]
        return min(timed, key=lambda row: row["paired_ms"], default=min(equals, key=order))
    plain = [row for row in equals if row["variant"] == "float"]
    known = [row for row in equals if row["validation_mean"] is not None]
    sign = -1 if named(equals[0]["primary_metric"]).higher_is_better else 1
    return next(iter([*plain, *sorted(known, key=lambda row: sign * row["validation_mean"]), *equals]))


def _why(chosen: _Row, eligible: Sequence[_Row]) -> str:
    """Return why a row is recommended."""
    objective = OBJECTIVES[chosen["objective"]]
    if len(eligible) == 1:
        return "the only variant that surely meets every constraint"
    equals = [row["variant"] for row in eligible if row is not chosen and _is_as_good(row, chosen)]
    of = f"of the {len(eligible)} variants that meet every constraint"
    if not equals:
        return f"the {objective.best} {of}"
    if len(equals) == len(eligible) - 1:
        told = f"nothing can be told apart in {chosen['objective']} {of}"
    else:
        told = f"the {objective.best} {of}, with {listed(equals)}, which cannot be told apart from it"
    return f"{told}; {_settled(chosen)}"


def _settled(chosen: _Row) -> str:
    if chosen["objective"] == "accuracy":
        return "it is the fastest of them"
    return (
        "it needs no compression" if chosen["variant"] == "float" else "it is the best of them on the validation split"
    )


def _beside(row: _Row, chosen: _Row) -> str:
    """Return how a row that meets every constraint compares with the recommended one."""
    if _is_as_good(row, chosen):
        return f"cannot be told apart from {chosen['variant']} in {row['objective']}"
    objective = OBJECTIVES[row["objective"]]
    word = objective.worse if order(row) > order(chosen) else objective.better
    if row["objective"] == "accuracy":
        return f"{word} than {chosen['variant']} on the validation split"
    value = f"{three_digits(row['objective_value'])} {objective.unit}"
    if row["objective"] == "latency" and row["speedup"] is not None and row["variant"] != "float":
        value = f"{three_digits(row['speedup'])} times as fast as float"
    return f"{word} than {chosen['variant']} ({value})"


def _obstacles(row: _Row) -> list[str]:
    """Return what keeps a row from meeting every constraint: first what fails, else what is undecided."""
    if not row["n"]:
        return ["no finished run"]
    failed = FAILS if row["verdict"] == FAILS else UNDECIDED
    return [_OBSTACLES[name](row) for name in VERDICTS if row[name] == failed]


def _of_drop(row: _Row) -> str:
    if row["validation_difference_low"] is None:
        return "there is no float run of the same seeds to compare with"
    return f"{with_interval(row, 'validation_difference')} against float on the validation split"


def _of_p99(row: _Row) -> str:
    if row["p99_ms_most"] is None:
        return "it was not timed in a backend that is allowed"
    return f"99 % of calls within {three_digits(row['p99_ms_most'])} ms"


def _of_size(row: _Row) -> str:
    return "its file has not been made" if row["size_mb"] is None else f"a file of {three_digits(row['size_mb'])} MB"


def _of_backends(_: _Row) -> str:
    return "no backend that is allowed runs it"


_OBSTACLES = {"drop": _of_drop, "p99": _of_p99, "size": _of_size, "backends": _of_backends}
