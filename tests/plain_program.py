"""The program of an integer encoder in plain integers (tests/reference.py): NumPy's int64, every width asserted.

For the point where all four operations are integers. A value is an int64 array of the simulation's shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

import reference
from intaglio.execution.constants import (
    Constants,
    EmbeddingConstants,
    GeluConstants,
    LinearConstants,
    NormConstants,
    SoftmaxConstants,
)
from intaglio.execution.program import run
from reference import Array
from streams import Stream, array


def _integers(x: Tensor | None) -> Array:
    assert x is not None
    return array(x).astype(np.int64)


class PlainOperations:
    """The operations, each result kept in `stream`."""

    def __init__(self, inputs: dict[str, Tensor], head_width: int) -> None:
        self.stream: Stream = {}
        self.head_width = head_width
        self.ids = _integers(inputs["input_ids"])
        self.types = _integers(inputs["token_type_ids"]) if "token_type_ids" in inputs else np.zeros_like(self.ids)
        mask = inputs.get("attention_mask")
        self.masked = None if mask is None else _integers(mask)[:, None, None, :] == 0

    def _keep(self, key: str, values: Array) -> Array:
        self.stream.setdefault(key, []).append(values)
        return values

    def token_indices(self, constants: EmbeddingConstants) -> list[Array]:
        positions = np.arange(self.ids.shape[1])[None]
        if constants.positions_from_padding:
            token = (self.ids != constants.padding_index).astype(np.int64)
            positions = token.cumsum(1) * token + constants.padding_index
        return [self.ids, np.broadcast_to(positions, self.ids.shape), self.types][: len(constants.tables)]

    def embed(self, constants: EmbeddingConstants, indices: list[Array]) -> Array:
        rows = [_integers(table)[index] for table, index in zip(constants.tables, indices, strict=True)]
        multipliers = [
            _integers(m)[index][..., None] if isinstance(m, Tensor) else m
            for m, index in zip(constants.multipliers, indices, strict=True)
        ]
        return self._keep("embed", reference.embeddings(rows, multipliers))

    def linear(self, x8: Array, constants: LinearConstants) -> Array:
        rows = x8.reshape(-1, x8.shape[-1])
        found = reference.linear(rows, _integers(constants.weight), _integers(constants.bias))
        return self._keep("linear", found.reshape(*x8.shape[:-1], -1))

    def linear_short(self, x8: Array, constants: LinearConstants, multiplier: Tensor) -> Array:
        return self._keep("linear_short", reference.requantize(self.linear(x8, constants), array(multiplier)))

    def split(self, x8: Array) -> list[Array]:
        return np.split(x8, 3, -1)

    def linear_gelu(self, x8: Array, constants: LinearConstants, gelu: GeluConstants) -> Array:
        assert gelu.multiplier is not None and gelu.input_step is not None and gelu.output_multiplier is not None
        entries = reference.gelu_entries(array(gelu.input_step) / 256, gelu.zero_point, array(gelu.output_multiplier))
        np.testing.assert_array_equal(entries, _integers(gelu.table))
        accumulators = self.linear(x8, constants)
        found = reference.gelu(accumulators, array(gelu.multiplier), gelu.zero_point, entries)
        return self._keep("linear_gelu", found)

    def linear_term(self, x8: Array, constants: LinearConstants) -> Array:
        found = reference.term(self.linear(x8, constants), constants.shift, _integers(constants.multiplier))
        return self._keep("linear_term", found)

    def clip_sum(self, term: Array) -> Array:
        return self._keep("clip_sum", reference.alone(term))

    def residual(self, wide: Array, skip: int, term: Array) -> Array:
        return self._keep("residual", reference.residual(wide, skip, term))

    def norm(self, x: Array, constants: NormConstants) -> Array:
        guards = [int(guard) for guard in _integers(constants.guards)]
        rows = x.reshape(-1, x.shape[-1])
        found = reference.layer_norm(rows, _integers(constants.gamma), _integers(constants.beta), guards)
        return self._keep("norm", found.reshape(x.shape))

    def shorten(self, x: Array, shift: int) -> Array:
        return self._keep("shorten", reference.shorten(x, shift))

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], -1, self.head_width).transpose(0, 2, 1, 3)

    def scores(self, query: Array, key: Array) -> Array:
        return self._keep("scores", reference.matmul(self._heads(query), self._heads(key).swapaxes(-1, -2)))

    def softmax(self, scores: Array, constants: SoftmaxConstants) -> Array:
        scale = (constants.down, constants.top, constants.multiplier, constants.shift)
        return self._keep("softmax", reference.softmax(scores, scale, self.masked))

    def context(self, probabilities: Array, value: Array, multiplier: Tensor) -> Array:
        products = self._keep("products", reference.matmul(probabilities, self._heads(value)))
        # the probabilities of a row sum to at most 511
        reference.within(products, 511 * 128)
        short = reference.requantize(products, array(multiplier)).transpose(0, 2, 1, 3)
        return self._keep("context", short.reshape(value.shape))


def plain(constants: Constants, inputs: dict[str, Tensor]) -> Stream:
    """What the specification says of a batch; fails where a number is wider than it says."""
    operations: Any = PlainOperations(inputs, constants.shape.head_width)
    wide = run(operations, constants)
    hidden = wide[:, 0].astype(np.float32) * array(constants.scale)
    return {**operations.stream, "hidden": [hidden]}
