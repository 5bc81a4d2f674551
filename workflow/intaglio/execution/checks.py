"""Checks that an encoder fits the integers of docs/arithmetic.md, made before anything is computed with it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from intaglio.arithmetic import layernorm, linear, softmax
from intaglio.arithmetic.integers import EXACT
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError

LONGEST_WIDTH = 1024
LARGEST_HEAD = 512


def check_shape(shape: EncoderConfig, length: int = 0) -> None:
    """Refuse sizes for which sums would exceed the specified widths.

    Args:
        shape: sizes of the encoder.
        length: tokens of its longest input, which may be less than its positions; 0 leaves it open.

    Raises:
        UserError: names the size and its limit.
    """
    if not shape.integer:
        raise UserError("this encoder computes in floating point: there are no integers to run")
    if shape.head_width > LARGEST_HEAD:
        raise UserError(f"attention heads of {shape.head_width}: integers are exact up to {LARGEST_HEAD}")
    if "softmax" in shape.integer and length > softmax.LONGEST:
        raise UserError(f"{length} tokens: integer softmax is exact up to {softmax.LONGEST}; leave 'softmax' out")
    width = max(shape.hidden_size, shape.embedding_size)
    if "layernorm" in shape.integer and width > LONGEST_WIDTH:
        raise UserError(f"hidden size {width}: integer LayerNorm is exact up to {LONGEST_WIDTH}; leave 'layernorm' out")


def check_state(encoder: Encoder) -> None:
    """Refuse weights and ranges that are not finite.

    Raises:
        UserError: names the tensor.
    """
    for name, tensor in encoder.state_dict().items():
        # minimum and maximum propagate NaN, in one pass over the weights
        if not torch.isfinite(torch.stack(tensor.aminmax())).all():
            raise UserError(f"{name} holds NaN or infinity: training diverged; train again, with a lower learning rate")


def check_widths(constants: Any, where: str = "encoder") -> None:
    """Refuse constants with which an operation could overflow for some input.

    Raises:
        UserError: names the place.
    """
    if isinstance(constants, tuple):
        for number, part in enumerate(constants):
            check_widths(part, f"{where}.{number}")
    elif isinstance(constants, Tensor):
        if constants.is_floating_point() and not torch.isfinite(constants).all():
            raise _overflow(where)
    elif is_dataclass(constants) and not isinstance(constants, (type, EncoderConfig)):
        if {"weight", "bias"} <= {part.name for part in fields(constants)} and not _accumulators_fit(constants):
            raise _overflow(where)
        if getattr(constants, "gamma", None) is not None and not _result_fits(constants):
            raise _overflow(where)
        for part in fields(constants):
            check_widths(getattr(constants, part.name), f"{where}.{part.name}")


def _overflow(where: str) -> UserError:
    return UserError(f"{where}: weights or ranges so far apart that integers would overflow; calibrate again")


def _accumulators_fit(layer: Any) -> bool:
    # int8 includes -128, whose magnitude it cannot represent
    if int(layer.weight.min()) < -linear.BOUND:
        return False
    sizes = 128 * layer.weight.abs().sum(1, dtype=torch.int64) + layer.bias.long().abs()
    multiplier = layer.multiplier
    terms = multiplier is None or (int(multiplier.min()) > 0 and int(multiplier.max()) <= linear.TERM_MULTIPLIER)
    return terms and int(sizes.max()) < EXACT


def _result_fits(norm: Any) -> bool:
    if not norm.integer:
        return True
    gamma, beta = int(norm.gamma.abs().max()), int(norm.beta.abs().max())
    return gamma <= layernorm.GAMMA_BOUND and beta <= layernorm.BETA_BOUND
