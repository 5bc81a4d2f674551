"""Names of the operations that can run on integers; a variant is a subset of them."""

from __future__ import annotations

from typing import Literal

Operation = Literal["linear", "gelu", "softmax", "layernorm"]
OPERATIONS: tuple[Operation, ...] = ("linear", "gelu", "softmax", "layernorm")
# Those of which a single layer can be in floating point; LayerNorm's results pass through all layers.
SEPARABLE: tuple[Operation, ...] = ("gelu", "softmax")
