"""Structured pruning: cut attention heads and neurons out, and train what is left to recover."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from intaglio import ranks, store
from intaglio.distillation import distillation_loss
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.cutting import Kept, cut_out, multiply_adds
from intaglio.encoder.files import convert, save_encoder
from intaglio.encoder.model import Encoder
from intaglio.encoder.padding import PADDING
from intaglio.errors import UserError
from intaglio.kinds import kind_of
from intaglio.models.dropout import override_dropout
from intaglio.stages.importance import Units, choose, gated, importance
from intaglio.stages.prepared import Prepared
from intaglio.study.options import CutOptions
from intaglio.tokens.encoded import batches_of
from intaglio.training.examples import drawn_examples
from intaglio.training.job import Learner, StageJob

# Tolerance for the difference of a logit, relative to the largest logit (or 1), for another order of float32 sums.
_TOLERANCE = 1e-4
_KEPT = "kept.json"
_log = logging.getLogger(__name__)


def prepare(job: StageJob[CutOptions]) -> Prepared:
    """Return an encoder without the parent's least important heads and neurons.

    Raises:
        UserError: the parent is cut or quantized already, is damaged or has an architecture without an encoder; the
            speed-up is not possible; or the cut model differs from the masked one.
    """
    parent, options = job.parent, job.options
    if parent.kind != "transformers":
        raise UserError(
            f"{parent}: is cut or quantized already; cut starts from a float checkpoint with all heads and neurons, "
            "put it before these stages and only once"
        )
    config, tokenizer = parent.config(), parent.tokenizer
    override_dropout(config, options)
    set_seed(job.seed)
    model = parent.load("cuda" if torch.cuda.is_available() else "cpu", config)
    full = convert(model, frozenset()).to(model.device)
    batches = batches_of(drawn_examples(job, tokenizer, options.importance_examples), tokenizer, labels=True)
    kept = ranks.from_first(partial(_kept, job, model, full.shape, batches))
    encoder = cut_out(full, kept)
    facts = {
        "conversion": check_against_masked(model, full.shape, encoder, kept, batches[0]),
        "cut": {"heads": encoder.shape.heads, "neurons": encoder.shape.neurons},
    }
    del model, full
    learner = Learner(encoder, tokenizer, loss=distillation_loss(job, encoder, tokenizer))
    return Prepared(learner, partial(save_encoder, encoder, config), lambda: facts)


def _kept(job: StageJob[CutOptions], model: Any, shape: EncoderConfig, batches: Sequence[Mapping[str, Tensor]]) -> Kept:
    """Return what to keep: the choice of an interrupted job, or else by importance.

    The choice is stored in a file: a resumed job may run on a machine with other rounding, and its weights must fit the
    choice.
    """
    file = job.work / _KEPT
    if file.is_file():
        chosen = json.loads(file.read_text())
        return Kept(*(tuple(map(tuple, chosen[name])) for name in ("heads", "neurons")))
    kept = choose(importance(model, shape, batches, kind_of(job.task)), shape, job.options, job.max_length)
    with store.new_file(file) as draft:
        draft.write_text(json.dumps({"heads": kept.heads, "neurons": kept.neurons}) + "\n")
    small = kept.shape(shape)
    faster = multiply_adds(shape, job.max_length) / multiply_adds(small, job.max_length)
    _log.warning("heads %s, neurons %s: %.2f times fewer multiplications", small.heads, small.neurons, faster)
    return kept


@torch.no_grad()
def check_against_masked(
    model: Any, shape: EncoderConfig, encoder: Encoder, kept: Kept, batch: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Compare a cut encoder with the original model whose other heads and neurons are multiplied by zero.

    Args:
        model: the original model, in evaluation mode, as is the encoder.
        shape: shape of the model.
        encoder: the cut encoder.
        kept: indices of its heads and neurons.
        batch: inputs, with or without labels.

    Returns:
        The comparison, its tolerance and its result: `measure`, `tolerance`, `difference`.

    Raises:
        UserError: the difference exceeds the tolerance.
    """
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "labels"}
    with gated(model, Units.only(kept, shape, model.device)):
        expected = model(**inputs).logits
    difference = float((encoder(**inputs).logits - expected).abs().max())
    largest = float(expected.masked_fill(expected == PADDING, 0.0).abs().max())
    tolerance = _TOLERANCE * max(1.0, largest)
    if not difference <= tolerance:
        raise UserError(
            f"cutting changed the model: a logit differs by {difference:.3g} from the one with masked heads and neurons"
            f" where {tolerance:.3g} is allowed; leave the stage out, and report it with the checkpoint"
        )
    measure = "largest difference of a logit to the masked model"
    return {"measure": measure, "difference": difference, "tolerance": tolerance}
