"""The error of an integer model against the same weights in floating point, tensor by tensor.

The error is that of quantization alone: what training has changed is in both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import inf, log10
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intaglio.encoder.inner import OF_LAYER, InnerPlace, float_twin, inner_tensors
from intaglio.encoder.model import Encoder
from intaglio.tokens.encoded import batches_of, read_encoded

# Examples that tell the noise within some tenths of a dB.
EXAMPLES = 64
Batches = list[dict[str, Tensor]]


def drawn_batches(
    data: Path, split: str, tokenizer: Any, max_length: int, count: int = EXAMPLES, seed: int = 0
) -> Batches:
    """Return rows of a split in padded batches, drawn at random: `count`, or all if there are fewer.

    Args:
        data: a [tokens] artifact, or [data].
        split: its name.
        tokenizer: the model's.
        max_length: number of tokens at which texts are truncated.
        count: number of rows.
        seed: of the draw.
    """
    encoded = read_encoded(data, split, tokenizer, max_length)
    rows = np.sort(np.random.default_rng(seed).permutation(len(encoded.rows))[:count])
    return batches_of(encoded.take(rows), tokenizer)


def decibels(signal: float, noise: float) -> float:
    """Return the signal to noise in dB, of their sums of squares; infinite without noise."""
    return 10 * log10(signal / noise) if noise and signal else inf


@torch.inference_mode()
def noise_rows(encoder: Encoder, batches: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Return the signal to noise of every tensor of an integer encoder, as rows of `schemas.NOISE`, without padding.

    Args:
        encoder: a calibrated encoder, in evaluation mode.
        batches: input_ids, attention_mask (, token_type_ids), int64 [batch, length].
    """
    device = next(encoder.parameters()).device
    twin = float_twin(encoder)
    sums: dict[InnerPlace, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64, device=device))
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        exact, ours = inner_tensors(twin, inputs), inner_tensors(encoder, inputs)
        present = inputs["attention_mask"] != 0
        for place, found in ours.items():
            x = exact[place]
            sums[place] += torch.stack([_energy(x, present), _energy(x - found, present)])
    layers: list[InnerPlace] = [(number, name) for number in range(len(encoder.layers)) for name in OF_LAYER]
    rows = []
    for layer, name in [(None, "embeddings"), *layers, (None, "logits")]:
        ratio = decibels(*sums[layer, name].tolist())
        rows.append({"layer": layer, "operation": name, "snr_db": None if ratio == inf else ratio})
    return rows


def _energy(x: Tensor, present: Tensor) -> Tensor:
    """Return the sum of squares without padding, float64.

    Args:
        x: [batch, length, width]; probabilities, [batch, heads, length, length]; or logits, [batch, labels].
        present: false at padding, [batch, length].
    """
    if x.dim() == 2:
        return x.double().square().sum()
    # Of probabilities, the queries count. A norm of each token makes no copy of x.
    of_tokens = torch.linalg.vector_norm(x, dim=(1, 3) if x.dim() == 4 else -1)
    energy: Tensor = of_tokens.double().square()[present].sum()
    return energy
