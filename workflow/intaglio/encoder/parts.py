"""The parts of encoder layers under common names, in transformers' models and in Intaglio's encoder."""

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


# Paths of the linear layers in a layer of Intaglio's encoder.
_OURS: tuple[str, ...] = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "intermediate",
    "output",
)


def layer_parts(model: Any) -> list[LayerParts]:
    """Return the layers of a transformers classifier or of Intaglio's encoder, in order.

    Raises:
        UserError: the architecture is not supported.
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


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """Return the linear layers of an encoder's layers, by names such as `0.query`.

    For architectures that are not supported, these are all linear layers in lists of layers of transformers' base
    model.

    Raises:
        UserError: there are none.
    """
    if isinstance(model, Encoder) or model.config.model_type in ARCHITECTURES:
        return {
            f"{number}.{name}": linear
            for number, parts in enumerate(layer_parts(model))
            for name, linear in parts.linear.items()
        }
    found = {
        f"{name}.{inner}": linear
        for name, layers in _lists(model).items()
        for inner, linear in layers.named_modules()
        if isinstance(linear, nn.Linear)
    }
    if not found:
        raise UserError(f"model type {model.config.model_type!r}: no list of layers with linear ones is found in it")
    return found


def layer_blocks(model: Any) -> list[nn.Module]:
    """Return the layers of a transformers classifier or of Intaglio's encoder, in order.

    Raises:
        UserError: they are not found, or they differ in structure, so that one cannot replace another.
    """
    if isinstance(model, Encoder) or model.config.model_type in ARCHITECTURES:
        return [parts.block for parts in layer_parts(model)]
    lists = [list(layers) for layers in _lists(model).values() if len(layers) == model.config.num_hidden_layers]
    if len(lists) != 1 or len({tuple(block.state_dict()) for block in lists[0]}) != 1:
        raise UserError(
            f"model type {model.config.model_type!r}: it has no list of layers that are alike, so a student cannot have"
            " some of them; name another model as `student`"
        )
    return lists[0]


def shares_layers(model: Any) -> bool:
    """Return whether all layers of a transformers classifier are the same one, run repeatedly (ALBERT)."""
    return getattr(model.config, "num_hidden_groups", None) == 1


def count_layers(model: Any) -> int:
    """Return the number of layers of a classifier.

    Raises:
        UserError: they are not found, or they differ in structure.
    """
    return int(model.config.num_hidden_layers) if shares_layers(model) else len(layer_blocks(model))


def _lists(model: Any) -> dict[str, nn.ModuleList]:
    """Return the lists of modules in a base model that are not nested in another list."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.base_model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found
