"""Times of different hardware never share a column: of each kind, those taken where most were taken are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# What must agree, and the columns of runs.parquet that then may be averaged and compared.
_TIMES = {
    "device": ("train_seconds", "total_train_seconds", "step_seconds"),
    "latency_machine": tuple(f"latency_ms_{name}" for name in ("mean", "std", "p50", "p90", "p99")),
    "cuda_machine": tuple(f"cuda_latency_ms_{name}" for name in ("mean", "std", "p50", "p90", "p99")),
}


def comparable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of runs.parquet in which times from other hardware than most rows' are null.

    Of hardware that is equally frequent the first one counts.
    """
    kept = [dict(row) for row in rows]
    for hardware, columns in _TIMES.items():
        seen = Counter(row[hardware] for row in kept if row.get(hardware))
        for row in kept:
            if seen and row.get(hardware) != seen.most_common(1)[0][0]:
                row.update(dict.fromkeys(columns))
    return kept
