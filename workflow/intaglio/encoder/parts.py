"""The parts of an encoder's layers by one set of names, in transformers' models and in ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn

from intaglio.encoder.architectures import ARCHITECTURES
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError


@dataclass(frozen=True)
class LayerParts:
    """A layer and its six linear layers.

    Attributes:
        block: the whole layer; its output is the next layer's input.
        query, key, value: from hidden states to all heads side by side.
        attention_output: from all heads side by side to hidden states.
        intermediate: from hidden states to neurons.
        output: from neurons to hidden states.
    """

    block: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    intermediate: nn.Linear
    output: nn.Linear

    @property
    def linear(self) -> Mapping[str, nn.Linear]:
        """The linear layers by name."""
        names = ("query", "key", "value", "attention_output", "intermediate", "output")
        return {name: getattr(self, name) for name in names}


# Where a layer of ours keeps its linear layers.
_OURS: tuple[str, ...] = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "intermediate",
    "output",
)


def layer_parts(model: Any) -> list[LayerParts]:
    """Return the layers of a transformers classifier or of our encoder, the first first.

    Raises:
        UserError: its architecture is not known here.
    """
    if isinstance(model, Encoder):
        blocks, names = model.layers, _OURS
    else:
        kind = model.config.model_type
        if kind not in ARCHITECTURES:
            raise UserError(
                f"model type {kind!r}: its layers are not known here, only those of {', '.join(ARCHITECTURES)}"
            )
        architecture = ARCHITECTURES[kind]
        blocks, names = attrgetter(architecture.layers)(model.base_model), architecture.linear
    return [LayerParts(block, *(attrgetter(name)(block) for name in names)) for block in blocks]
