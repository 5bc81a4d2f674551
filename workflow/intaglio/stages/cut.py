"""Structured pruning: attention heads and neurons are cut out, and what is left is trained to recover."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from intaglio import store
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.cutting import Kept, cut_out, multiply_adds
from intaglio.encoder.files import convert, save_encoder
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.models.dropout import override_dropout
from intaglio.stages.importance import Units, choose, gated, importance
from intaglio.stages.prepared import Prepared
from intaglio.study.options import CutOptions
from intaglio.training.distillation import taught_by
from intaglio.training.examples import drawn_batches
from intaglio.training.job import Learner, StageJob

# Largest difference of a logit, of the largest logit or of 1: what another order of float32 sums may make.
_TOLERANCE = 1e-4
_KEPT = "kept.json"
_log = logging.getLogger(__name__)


def prepare(job: StageJob[CutOptions]) -> Prepared:
    """Return an encoder without the least important heads and neurons of the parent.

    Raises:
        UserError: the parent is cut or quantized already, is damaged or of an architecture that has no encoder here;
            the speed-up cannot be reached; or the cut model computes something else than the masked one.
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
    batches = drawn_batches(job, tokenizer, options.importance_examples, labels=True)
    kept = _kept(job, model, full.shape, batches)
    encoder = cut_out(full, kept)
    facts = {
        "conversion": check_against_masked(model, full.shape, encoder, kept, batches[0]),
        "cut": {"heads": encoder.shape.heads, "neurons": encoder.shape.neurons},
    }
    del model, full
    learner = Learner(encoder, tokenizer, loss=taught_by(job, encoder, tokenizer))
    return Prepared(learner, partial(save_encoder, encoder, config), lambda: facts)


def _kept(job: StageJob[CutOptions], model: Any, shape: EncoderConfig, batches: Sequence[Mapping[str, Tensor]]) -> Kept:
    """Return what to keep: what an interrupted job has chosen, or else by importance.

    The choice is kept in a file, for a resumed job may run on a machine that rounds otherwise, and the weights that it
    goes on with must find their places.
    """
    file = job.work / _KEPT
    if file.is_file():
        chosen = json.loads(file.read_text())
        return Kept(*(tuple(map(tuple, chosen[name])) for name in ("heads", "neurons")))
    kept = choose(importance(model, shape, batches), shape, job.options, job.max_length)
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
    """Compare a cut encoder with the model that it was cut from, where everything else is multiplied by zero.

    Args:
        model: in evaluation mode, as the encoder is.
        shape: of the model.
        encoder: what was cut out.
        kept: what is left.
        batch: inputs, and perhaps labels.

    Returns:
        What was compared, and how far it may differ and does: `measure`, `tolerance`, `difference`.

    Raises:
        UserError: it differs by more.
    """
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "labels"}
    with gated(model, Units.only(kept, shape, model.device)):
        expected = model(**inputs).logits
    difference = float((encoder(**inputs).logits - expected).abs().max())
    tolerance = _TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= tolerance:
        raise UserError(
            f"cutting changed the model: a logit differs by {difference:.3g} from the one with masked heads and neurons"
            f" where {tolerance:.3g} is allowed; leave the stage out, and report it with the checkpoint"
        )
    measure = "largest difference of a logit to the masked model"
    return {"measure": measure, "difference": difference, "tolerance": tolerance}
