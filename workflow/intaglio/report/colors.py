"""Colors of variants, the same in the report and in every plot."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito's palette, which color-blind people can distinguish, and three more; the same variant is the same color.
_COLORS = {
    "float": "#3d444d",
    "int": "#d55e00",
    "int-linear": "#0072b2",
    "int-linear-gelu": "#56b4e9",
    "int-linear-softmax": "#009e73",
    "int-linear-layernorm": "#cc79a7",
    "int-linear-gelu-softmax": "#b8860b",
    "int-linear-gelu-layernorm": "#7b61c9",
    "int-linear-softmax-layernorm": "#8b5a2b",
}
_MORE = ("#0b7a75", "#b5179e", "#4361ee", "#6a994e", "#e63946", "#9c6644", "#457b9d", "#ffb703")


def color_of(variant: str, variants: Sequence[str]) -> str:
    """Return the color of a variant: a known one has its own, others get one by their position in the study.

    Args:
        variant: its name.
        variants: names of all variants, in the study's order.
    """
    others = [name for name in variants if name not in _COLORS]
    return _COLORS[variant] if variant in _COLORS else _MORE[others.index(variant) % len(_MORE)]
