"""The widths of a quantized model's stored integers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from intaglio.study.sources import StudyPart


class Bits(StudyPart):
    """Bits of stored integers; activations always have 8. With 4, the file is about half as large."""

    weights: Literal[8, 4] = Field(8, description="Of the weights of linear layers.")
    embeddings: Literal[8, 4] = Field(8, description="Of word embeddings; those of positions and types have 8.")
