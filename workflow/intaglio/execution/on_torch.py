"""The integer encoder on torch: int8 products, and all other operations on int8, uint8 and int32 tensors.

Within an operation, float32 does the arithmetic: all integers of the specification are below 2^24, so float32 holds
them and the results equal those of int32, at the speed of float32 vectors. torch.compile fuses an operation into one
loop.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from intaglio.arithmetic import gelu, layernorm, softmax, sums
from intaglio.arithmetic.integers import HIGH, LOW
from intaglio.encoder.heads import logits_of_tokens
from intaglio.encoder.model import Encoder
from intaglio.execution.constants import (
    Constants,
    EmbeddingConstants,
    GeluConstants,
    LinearConstants,
    NormConstants,
    SoftmaxConstants,
    constants_of,
)
from intaglio.execution.powers import bits_of, floor_shift, integer_exp2
from intaglio.execution.program import run_embeddings, run_layer
from intaglio.products.choice import ChosenProduct, product
from intaglio.products.kernels import IntegerProduct

# Tokens per pass: intermediate results then stay in the caches, and below the size from which the C library returns
# memory to the system after every use.
TOKENS = 1024
# Number of shapes that compiled programs are kept for: enough for a grid of measurements.
COMPILED_SHAPES = 64
# A float32 of such magnitude that adding a score does not change it.
ABSORBING = -(2.0**60)


@dataclass(frozen=True)
class _LinearWithKernel(LinearConstants):
    """A linear layer with the kernel of its product."""

    product: IntegerProduct | None = None


def _with_kernels(constants: Any, device: torch.device) -> Any:
    """Return a layer's constants with a kernel for every product, and numbers as tensors.

    All layers then look the same to a compiler, which compiles one program for all of them.
    """
    if not is_dataclass(constants) or isinstance(constants, type):
        whole = isinstance(constants, int) and not isinstance(constants, bool)
        return torch.tensor(constants, dtype=torch.int32, device=device) if whole else constants
    parts = {part.name: _with_kernels(getattr(constants, part.name), device) for part in fields(constants)}
    if isinstance(constants, LinearConstants):
        return _LinearWithKernel(**parts, product=product(constants.weight, constants.bias))
    return replace(constants, **parts)


def _embeddings_with_kernels(constants: EmbeddingConstants, device: torch.device) -> EmbeddingConstants:
    """Return the constants of the embeddings, their parts converted as by `_with_kernels`."""
    parts = {
        name: _with_kernels(getattr(constants, name), device)
        for name in ("norm", "projection", "projection_short_shift")
    }
    return replace(constants, **parts)


class TorchOperations:
    """The operations on tensors of one batch."""

    def __init__(self, inputs: dict[str, Tensor], head_width: int) -> None:
        self.inputs = inputs
        self.head_width = head_width
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        # Added to scores: it makes those of padding far smaller than all others. In a row of padding alone it absorbs
        # the scores, so that all positions are equal.
        lowest = torch.where(mask.any(-1, keepdim=True), float(softmax.MASKED), ABSORBING)
        self.padding = ((mask == 0) * lowest)[:, None, None, :]

    def token_indices(self, constants: EmbeddingConstants) -> list[Tensor]:
        """See `Operations`."""
        ids = self.inputs["input_ids"]
        if constants.positions_from_padding:
            token = ids.ne(constants.padding_index).long()
            positions = token.cumsum(1) * token + constants.padding_index
        else:
            positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        types = self.inputs.get("token_type_ids")
        return [ids, positions, torch.zeros_like(ids) if types is None else types][: len(constants.tables)]

    def embed(self, constants: EmbeddingConstants, indices: list[Tensor]) -> Tensor:
        """See `Operations`."""
        parts = [
            functional.embedding(index, table).int() * (m[index].unsqueeze(-1) if isinstance(m, Tensor) else m)
            for table, index, m in zip(constants.tables, indices, constants.multipliers, strict=True)
        ]
        total: Tensor = sum(parts[1:], parts[0])
        return total

    def linear(self, x8: Tensor, constants: LinearConstants) -> Tensor:
        """See `Operations`."""
        assert isinstance(constants, _LinearWithKernel) and constants.product is not None
        rows: Tensor = constants.product(x8.flatten(0, -2))
        return rows.view(*x8.shape[:-1], -1)

    def linear_short(self, x8: Tensor, constants: LinearConstants, multiplier: Tensor) -> Tensor:
        """See `Operations`."""
        return self.linear(x8, constants).float().mul_(multiplier).round_().clamp_(LOW, HIGH).to(torch.int8)

    def split(self, x8: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Operations`."""
        query, key, value = x8.chunk(3, -1)
        return query, key, value

    def linear_gelu(self, x8: Tensor, constants: LinearConstants, gelu_: GeluConstants) -> Tensor:
        """See `Operations`. Uses the polynomial, which is faster than a table here, in place to save memory."""
        assert gelu_.multiplier is not None and gelu_.input_step is not None and gelu_.output_multiplier is not None
        lowest = -gelu_.zero_point
        codes = self.linear(x8, constants).float().mul_(gelu_.multiplier).round_()
        h = codes.clamp_(lowest, gelu.CODES - 1 + lowest).mul_(gelu_.input_step).round_()
        h.clamp_(-gelu.GRID_BOUND, gelu.GRID_BOUND)
        squared = h.abs().clamp_(max=gelu.Q_B).sub_(gelu.Q_B).square_()
        one_plus_erf = torch.where(h < 0, squared, 2 * gelu.Q_ONE - squared)
        result = one_plus_erf.mul_(2.0**-gelu.SHIFT).floor_().mul_(h).mul_(gelu_.output_multiplier)
        return result.round_().clamp_(LOW, HIGH).to(torch.int8)

    def linear_term(self, x8: Tensor, constants: LinearConstants) -> Tensor:
        """See `Operations`."""
        assert constants.multiplier is not None
        short = floor_shift(self.linear(x8, constants).float(), constants.shift)
        return short.clamp_(-sums.TERM_BOUND, sums.TERM_BOUND).mul_(constants.multiplier).int()

    def clip_sum(self, term: Tensor) -> Tensor:
        """See `Operations`."""
        return term.clamp(-sums.BOUND, sums.BOUND)

    def residual(self, wide: Tensor, skip: Any, term: Tensor) -> Tensor:
        """See `Operations`."""
        return torch.clamp((wide >> skip) + term, -sums.BOUND, sums.BOUND)

    def norm(self, x: Tensor, constants: NormConstants) -> Tensor:
        """See `Operations`."""
        assert constants.guards is not None
        width = x.shape[-1]
        mean = torch.div(x.sum(-1, keepdim=True) + width // 2, width, rounding_mode="floor")
        y = (x - mean).float()
        shift = (bits_of(y.abs().amax(-1, keepdim=True)) - layernorm.SHORT_BITS).clamp_min(0)
        short = torch.floor(y * integer_exp2(-shift) + torch.where(shift > 0, 0.5, 0.0))
        squares = short.square().sum(-1, keepdim=True, dtype=torch.float64) + constants.guards[shift.long()]
        multiplier = layernorm.row_multiplier(squares, width)
        normalized = (short * multiplier).add_(0.5).floor_()
        return normalized.mul_(constants.gamma).add_(constants.beta).int()

    def shorten(self, x: Tensor, shift: Any) -> Tensor:
        """See `Operations`."""
        return (x.float() * integer_exp2(-shift)).add_(0.5).floor_().clamp_(LOW, HIGH).to(torch.int8)

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (-1, self.head_width))
        return split.transpose(1, 2)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """See `Operations`. torch has no batched int8 product; float32's is exact here."""
        return self._heads(query.float()) @ self._heads(key.float()).transpose(-1, -2)

    def softmax(self, scores: Tensor, constants: SoftmaxConstants) -> Tensor:
        """See `Operations`."""
        scores = scores + self.padding
        # The conversion to integers rounds non-negative numbers down.
        distance = scores.sub_(scores.amax(-1, keepdim=True)).mul_(-integer_exp2(-constants.down)).int()
        scale = constants.multiplier * integer_exp2(-constants.shift)
        distance = distance.clamp_(max=constants.top).float().mul_(scale).int().clamp_(max=softmax.FARTHEST)
        low = softmax.Q_B - (distance & (softmax.STEPS - 1))
        e = low.square_().add_(softmax.Q_C).bitwise_right_shift_((distance >> 8).add_(softmax.SHIFT)).float()
        total = e.sum(-1, keepdim=True)
        bits = bits_of(total) - softmax.EXPONENTIAL_BITS
        normal = torch.floor(total * integer_exp2(-bits))
        # The quotient is below 2^11 and the operands below 2^24: float64's quotient rounded down is the integer
        # quotient.
        dividend = (softmax.LEVELS << softmax.RECIPROCAL_SHIFT) + torch.floor(normal * 0.5).double()
        reciprocal = torch.floor(dividend / normal.double()).float()
        multiplier = reciprocal * integer_exp2(-softmax.RECIPROCAL_SHIFT - bits)
        return (e * multiplier).add_(0.5).to(torch.uint8)

    def context(self, probabilities: Tensor, value: Tensor, multiplier: Tensor) -> Tensor:
        """See `Operations`."""
        products = probabilities.float() @ self._heads(value.float())
        short = (products * multiplier).round_().clamp_(LOW, HIGH).to(torch.int8)
        return short.transpose(1, 2).flatten(2)

    def dequantize(self, x: Tensor, scale: Tensor) -> Tensor:
        """See `Operations`."""
        return x.float() * scale

    def quantize(self, x: Tensor, inverse: Tensor) -> Tensor:
        """See `Operations`."""
        return (x * inverse).round_().clamp_(LOW, HIGH).to(torch.int8)

    def add_real(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Operations`."""
        return x + y

    def gelu_real(self, x: Tensor) -> Tensor:
        """See `Operations`."""
        return functional.gelu(x)

    def norm_real(self, x: Tensor, constants: NormConstants) -> Tensor:
        """See `Operations`."""
        return functional.layer_norm(x, x.shape[-1:], constants.gamma, constants.beta, constants.epsilon)

    def softmax_real(self, scores: Tensor, constants: SoftmaxConstants) -> Tensor:
        """See `Operations`."""
        assert constants.scale is not None
        real = (scores * constants.scale * constants.factor).masked_fill(self.padding < 0, float("-inf"))
        return (real.softmax(-1) * softmax.LEVELS).round().to(torch.uint8)


class IntegerModel(nn.Module):
    """A classifier whose encoder runs on integers; its head is floating point.

    It is called like a transformers model. It has no trainable parameters; `intaglio.encoder` is for training.
    """

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        device = constants.scale.device
        self.shape = constants.shape
        self.scale = constants.scale
        self.integer = "layernorm" in constants.shape.integer
        self.embeddings = _embeddings_with_kernels(constants.embeddings, device)
        self.layers = [_with_kernels(layer, device) for layer in constants.layers]
        self.head = deepcopy(constants.head).eval()
        self.run_embeddings, self.run_layer = run_embeddings, run_layer

    def kernels(self) -> list[str]:
        """Return the names of the kernels that have multiplied int8 weights in its layers, sorted."""
        products = (
            part.product
            for layer in self.layers
            for part in vars(layer).values()
            if isinstance(part, _LinearWithKernel) and part.product is not None
        )
        names = (found.kernels() if isinstance(found, ChosenProduct) else [found.name] for found in products)
        return sorted({name for of_layer in names for name in of_layer})

    def compile(self, *_: Any, **__: Any) -> None:
        """Compile the model in place: one program for all layers of the same sizes, per shape of the inputs."""
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_SHAPES)
        self.run_embeddings, self.run_layer = (
            torch.compile(function, dynamic=False) for function in (run_embeddings, run_layer)
        )

    def _encode(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the last layer's result for what the head reads: first tokens, [batch, width], or all of them."""
        operations = TorchOperations(inputs, self.shape.head_width)
        wide, short = self.run_embeddings(operations, self.embeddings, self.integer)
        for layer in self.layers:
            wide, short = self.run_layer(operations, wide, short, layer)
        read: Tensor = wide if self.shape.every_token else wide[:, 0]
        return read.float() * self.scale if self.integer else read

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Classify token sequences, int64 [batch, length]."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        size = len(input_ids) if input_ids.is_cuda else max(1, TOKENS // input_ids.shape[1])
        parts = [
            self._encode({name: tensor[start : start + size] for name, tensor in inputs.items()})
            for start in range(0, len(input_ids), size)
        ]
        # The head takes the whole batch at once: in parts, its floating point sums would differ in rounding.
        hidden = torch.cat(parts)
        if not self.shape.every_token:
            return SequenceClassifierOutput(logits=self.head(hidden))
        padding = None if attention_mask is None else (attention_mask == 0)[..., None]
        return SequenceClassifierOutput(logits=logits_of_tokens(self.head, hidden, padding))


def integer_model(encoder: Encoder) -> IntegerModel:
    """Return a model that runs a calibrated encoder on integers, bit for bit as the encoder simulates it.

    Raises:
        UserError: the encoder computes in floating point or is not calibrated.
    """
    with torch.no_grad():
        return IntegerModel(constants_of(encoder)).eval()
