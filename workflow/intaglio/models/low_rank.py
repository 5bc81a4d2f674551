"""Adapters of low rank (LoRA, Hu et al. 2021, arXiv 2106.09685) in a classifier, by peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from intaglio.encoder.parts import linear_layers
from intaglio.errors import UserError, nearest
from intaglio.models.weights import head_keys
from intaglio.study.low_rank import LowRank


def target_layers(model: Any, targets: Sequence[str] | None) -> list[str]:
    """Return the full names of the linear layers that get adapters.

    Args:
        model: a transformers classifier.
        targets: last parts of their names, as `linear_layers` names them; None for all in the encoder's layers.

    Raises:
        UserError: a name is that of no linear layer.
    """
    layers = linear_layers(model)
    for target in targets or ():
        if not any(_is_named(name, target) for name in layers):
            known = {name.rpartition(".")[2] for name in layers}
            raise UserError(f"low_rank.targets: unknown linear layer {target!r}, {nearest(target, known)}")
    chosen = {
        id(layer)
        for name, layer in layers.items()
        if targets is None or any(_is_named(name, target) for target in targets)
    }
    return [name for name, module in model.named_modules() if id(module) in chosen]


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def add_adapters(model: Any, options: LowRank, seed: int) -> Callable[[Path], object]:
    """Add adapters to a classifier, in place, and freeze all weights but theirs and those of head and pooler.

    Args:
        model: a transformers classifier.
        options: size and place of the adapters.
        seed: of their random initialization.

    Returns:
        A function that merges the adapters into the weights and saves the classifier, which is then an ordinary one.

    Raises:
        UserError: a target is not a linear layer of the model.
    """
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=target_layers(model, options.targets),
    )
    set_seed(seed)
    adapted = LoraModel(model, config, "default")
    head = set(head_keys(model))
    for name, parameter in model.named_parameters():
        # A pretrained model may lack a pooler, which is then as new as the head.
        if name in head or "pooler" in name.split("."):
            parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        adapted.merge_and_unload().save_pretrained(folder)

    return save


def count_parameters(model: Any) -> dict[str, int]:
    """Return the number of parameters that are trained, adapters included, and of all others."""
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    return {"trained_parameters": sizes[True], "frozen_parameters": sizes[False]}
