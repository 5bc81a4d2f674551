"""The parts of an encoder's layers by one set of names, in transformers' models and in ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn

from intaglio.encoder.model import Encoder
from intaglio.errors import UserError, nearest


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


_OURS = ("attention.query", "attention.key", "attention.value", "attention.output", "intermediate", "output")
_BERT = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_DISTILBERT = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")
# Where transformers' base models keep their layers, and where a layer keeps its linear ones.
_THEIRS = {
    "bert": ("encoder.layer", _BERT),
    "roberta": ("encoder.layer", _BERT),
    "electra": ("encoder.layer", _BERT),
    "distilbert": ("transformer.layer", _DISTILBERT),
}


def layer_parts(model: Any) -> list[LayerParts]:
    """Return the layers of a transformers classifier or of our encoder, the first first.

    Raises:
        UserError: its architecture is not known here.
    """
    if isinstance(model, Encoder):
        blocks, names = model.layers, _OURS
    else:
        kind = model.config.model_type
        if kind not in _THEIRS:
            raise UserError(f"model type {kind!r}: its layers are not known here, {nearest(kind, _THEIRS)}")
        where, names = _THEIRS[kind]
        blocks = attrgetter(where)(model.base_model)
    return [LayerParts(block, *(attrgetter(name)(block) for name in names)) for block in blocks]
