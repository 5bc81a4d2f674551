"""Every variant judged by the constraints of the study: it meets, fails or leaves undecided each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from intaglio.metrics import named
from intaglio.recommendation.words import lost_at_most
from intaglio.statistics.compare import non_inferiority

MEETS, FAILS, UNDECIDED = "meets", "fails", "undecided"
# Columns of verdicts.
VERDICTS = ("drop", "p99", "size", "backends")
_OF_LOSS = {"within": MEETS, "not within": FAILS, "undecided": UNDECIDED}
_Row = Mapping[str, Any]


def judged_rows(study: _Row, variants: Sequence[_Row], backends: Sequence[_Row]) -> list[dict[str, Any]]:
    """Return the rows of recommendations.parquet of one task and model, of which none is recommended yet.

    Args:
        study: the resolved study file: `constraints`, `objective`, `margin`.
        variants: their rows of variants.parquet.
        backends: their rows of backends.parquet.
    """
    device = study["constraints"]["device"] or next((d for d in ("cpu", "cuda") if _timed(backends, d)), None)
    allowed = study["constraints"]["backends"]
    rows = []
    constraints = _in_words(study, variants)
    for variant in variants:
        mine = [row for row in _timed(backends, device) if row["variant"] == variant["variant"]]
        places = [row for row in mine if allowed is None or row["backend"] in allowed]
        row = _facts(study, variant, _best(places, study["objective"])) | {"constraints": constraints}
        row |= _loss(study, variant)
        row |= _measured(study["constraints"], row, bool(mine))
        found = {row[name] for name in VERDICTS} - {None}
        row["verdict"] = FAILS if FAILS in found else UNDECIDED if UNDECIDED in found or not row["n"] else MEETS
        rows.append(row)
    _pair(rows)
    return rows


def _pair(rows: Sequence[dict[str, Any]]) -> None:
    """Add times that can be compared: different processes timed the variants, each in turns with float."""
    plain = next((row for row in rows if row["variant"] == "float"), {})
    known = plain.get("latency_ms") and plain.get("speedup")
    for row in rows:
        paired = known and row["latency_ms"] and row["speedup"]
        row["paired_ms"] = plain["latency_ms"] * plain["speedup"] / row["speedup"] if paired else row["latency_ms"]


def _timed(backends: Iterable[_Row], device: str | None) -> list[_Row]:
    return [row for row in backends if row["device"] == device]


def _best(places: Sequence[_Row], objective: str) -> _Row:
    """Return the row of the backend to deploy in: the fastest, or the one with the least memory."""
    column = "peak_memory_mb_mean" if objective == "memory" else "latency_ms_mean"
    known = [row for row in places if row.get(column) is not None]
    return min(known, key=lambda row: row[column], default={})


def _facts(study: _Row, variant: _Row, place: _Row) -> dict[str, Any]:
    """Return the figures of a variant, in the backend to deploy it in."""
    row = {name: variant[name] for name in ("study", "task", "model", "variant", "n")}
    row |= {"recommended": False, "objective": study["objective"]}
    for name in ("primary_metric", "primary_mean", "difference", "difference_low", "difference_high"):
        row[name] = variant.get(name)
    for name in ("device", "backend", "speedup", "speedup_low", "speedup_high", "p99_ms_least", "p99_ms_most"):
        row[name] = place.get(name)
    row |= {"latency_ms": place.get("latency_ms_mean"), "memory_mb": place.get("peak_memory_mb_mean")}
    row |= {"size_mb": variant.get("size_mb_mean"), "train_seconds": variant.get("total_train_seconds_mean")}
    for name in ("validation_mean", "validation_difference", "validation_difference_low", "validation_difference_high"):
        row[name] = variant.get(name)
    # These are for the margin.
    if study["constraints"]["max_drop"] in (None, study["margin"]):
        row |= {name: variant.get(name) for name in ("seeds_to_decide", "examples_to_decide")}
    return row


def _loss(study: _Row, variant: _Row) -> dict[str, Any]:
    """Return the verdicts on the loss against `float`: on the validation split, which chooses, and on test."""
    if variant["variant"] == "float" or not variant["n"]:
        return {"drop": None, "drop_on_test": None}
    metric = named(variant["primary_metric"])

    def verdict(name: str) -> str:
        low, high = (variant.get(f"{name}_{end}") for end in ("low", "high"))
        if low is None or high is None:
            return UNDECIDED
        return _OF_LOSS[non_inferiority((low, high), _max_drop(study) / metric.scale, metric.higher_is_better)]

    return {"drop": verdict("validation_difference"), "drop_on_test": verdict("difference")}


def _measured(constraints: _Row, row: _Row, runs: bool) -> dict[str, Any]:
    """Return the verdicts on what is measured; None where the study asks for nothing."""
    found: dict[str, Any] = dict.fromkeys(("p99", "size", "backends"))
    if constraints["backends"] is not None:
        found["backends"] = MEETS if row["backend"] else FAILS if runs else UNDECIDED
    if constraints["p99_ms"] is not None:
        found["p99"] = _at_most(constraints["p99_ms"], row["p99_ms_least"], row["p99_ms_most"])
    if constraints["file_mb"] is not None:
        found["size"] = _at_most(constraints["file_mb"], row["size_mb"], row["size_mb"])
    return found


def _at_most(limit: float, least: float | None, most: float | None) -> str:
    """Return the verdict on values from `least` to `most`; undecided if they are on both sides, or unknown."""
    if least is None or most is None:
        return UNDECIDED
    return MEETS if most <= limit else FAILS if least > limit else UNDECIDED


def _max_drop(study: _Row) -> float:
    given = study["constraints"]["max_drop"]
    return float(study["margin"] if given is None else given)


def _in_words(study: _Row, variants: Sequence[_Row]) -> str:
    """Return the constraints of a study on a task as a text."""
    constraints = study["constraints"]
    metric = next((named(row["primary_metric"]) for row in variants if row["primary_metric"]), None)
    words = [f"{lost_at_most(metric, _max_drop(study))} against float, with 95 % confidence"]
    if constraints["p99_ms"] is not None:
        batch, length = study["profile"]["headline"]
        words.append(f"99 % of calls within {constraints['p99_ms']:g} ms (batch {batch} × {length} tokens)")
    if constraints["file_mb"] is not None:
        words.append(f"a file of at most {constraints['file_mb']:g} MB")
    if constraints["backends"] is not None:
        words.append(f"in {' or '.join(constraints['backends'])}")
    return ", ".join(words)
