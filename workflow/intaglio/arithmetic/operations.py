"""The operations that can run on integers: a set of them is a point of the lattice."""

from __future__ import annotations

from typing import Literal

Operation = Literal["linear", "gelu", "softmax", "layernorm"]
OPERATIONS: tuple[Operation, ...] = ("linear", "gelu", "softmax", "layernorm")
