"""The part of the study file that says which variant to recommend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from intaglio.study.profile import BackendName
from intaglio.study.sources import StudyPart


class Constraints(StudyPart):
    """What a variant has to meet to be recommended."""

    max_drop: float | None = Field(
        None,
        ge=0,
        description="Largest loss against `float`, in points of the primary metric (in its unit, for a metric without "
        "points), with 95 % confidence; null is the `margin`.",
    )
    p99_ms: float | None = Field(
        None, gt=0, description="Largest 99th percentile of the time of a call at the `headline` of the profile, ms."
    )
    file_mb: float | None = Field(None, gt=0, description="Largest exported file, MB.")
    backends: list[BackendName] | None = Field(
        None, min_length=1, description="Backends that may be deployed; null is every one that was measured."
    )
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="Device to deploy on; null is the CPU, or the GPU if only that was measured."
    )


ObjectiveName = Literal["latency", "size", "memory", "accuracy", "training"]
