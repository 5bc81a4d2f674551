"""Checks of a model against the demands of a study's variants, by its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from intaglio.checkpoint import longest_input
from intaglio.encoder.config import from_transformers
from intaglio.encoder.parts import count_layers, layer_parts, linear_layers
from intaglio.encoder.transformers_head import set_head
from intaglio.errors import UserError
from intaglio.execution.checks import check_shape
from intaglio.models.low_rank import target_layers


def check_models(entries: Sequence[Mapping[str, Any]]) -> None:
    """Check existing [model] artifacts against a study's demands: variants may have been added since they were made.

    Args:
        entries: mappings with `model`, the folder, and `demands`, as returned by `planning.demands.demands`.

    Raises:
        UserError: see `check_demands`.
    """
    for entry in entries:
        config = AutoConfig.from_pretrained(entry["model"], local_files_only=True, trust_remote_code=False)
        check_demands(config, entry["demands"], entry["model"])


def check_demands(config: Any, demands: Mapping[str, Any], name: str) -> None:
    """Refuse a model that cannot take the study's texts or that a variant cannot start from.

    Args:
        config: the model's transformers configuration.
        demands: as returned by `planning.demands.demands`.
        name: name of the model in messages.

    Raises:
        UserError: one line: the model, the reasons, and the variants concerned.
    """
    longest = longest_input(config.to_dict())
    for key, length in (("max_length", demands["max_length"]), ("profile.lengths", demands["longest_profiled"])):
        if longest is not None and length > longest:
            raise UserError(f"{key}: {length} tokens, but {name} takes {longest} at most")
    if demands.get("answers"):
        try:
            set_head(deepcopy(config), True)
        except UserError as error:
            raise UserError(f"{name}: {error}; take another model") from error
    reasons: dict[str, list[str]] = {}
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    for demand in demands["stages"]:
        try:
            _check(model, demand, max(demands["max_length"], demands["longest_profiled"]))
        except UserError as error:
            known = reasons.setdefault(str(error), [])
            known.extend(variant for variant in demand["variants"] if variant not in known)
    if reasons:
        found = "; ".join(f"{reason} (variants {', '.join(variants)})" for reason, variants in reasons.items())
        raise UserError(f"{name}: {found}; leave these variants out, or take another model for them")


def _check(model: Any, demand: Mapping[str, Any], length: int) -> None:
    if "integer" in demand:
        check_shape(from_transformers(model.config, frozenset(demand["integer"])), length)
    if "adapted" in demand:
        target_layers(model, demand["adapted"])
    if demand["stage"] == "cut":
        from_transformers(model.config, frozenset())
    if "structure" in demand:
        widths = [linear.in_features for linear in linear_layers(model).values()]
        odd = [width for width in widths if width % 4]
        if demand["structure"] == "2:4" and odd:
            raise UserError(f"structure: 2:4 takes linear layers whose inputs divide by 4, and one has {odd[0]}")
    if "layers" in demand:
        total = count_layers(model)
        if (demand["layers"] or 0) > total:
            raise UserError(f"layers: {demand['layers']} in the student, but the model has {total}")
    if demand.get("compares"):
        layer_parts(model)
