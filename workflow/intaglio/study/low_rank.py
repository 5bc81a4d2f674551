"""The options of low-rank fine-tuning."""

from __future__ import annotations

from pydantic import Field

from intaglio.study.sources import StudyPart


class LowRank(StudyPart):
    """Adapters of low rank (LoRA) for linear layers, trained in place of the encoder's weights."""

    rank: int = Field(8, gt=0, description="Rank of the adapters.")
    alpha: float = Field(16.0, gt=0, description="An adapter's product is multiplied by `alpha` / `rank`.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the adapters' inputs.")
    targets: list[str] | None = Field(
        None,
        min_length=1,
        description="Linear layers that get an adapter: for the BERT family `query`, `key`, `value`, "
        "`attention_output`, `intermediate` and `output`, for other models the names of their modules; null is all of "
        "the encoder's layers.",
    )
