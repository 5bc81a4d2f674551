"""Structured pruning: attention heads and neurons are cut out, and what is left is trained to recover."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from intaglio import store
from intaglio.checkpoint import load_model, load_tokenizer
from intaglio.encoder.checkpoint import convert, is_ours, read_config, save_pretrained
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.cutting import Kept, cut_out, multiply_adds
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.models.dropout import override_dropout
from intaglio.stages.checkpoint import read_record, training_record, write_checkpoint
from intaglio.stages.importance import Units, choose, gated, importance
from intaglio.study.options import PruneOptions
from intaglio.training.distillation import taught_by
from intaglio.training.examples import drawn_batches
from intaglio.training.train import train

# Largest difference of a logit, of the largest logit or of 1: what another order of float32 sums may make.
TOLERANCE = 1e-4
KEPT = "kept.json"
log = logging.getLogger(__name__)
Batches = Sequence[Mapping[str, Tensor]]


def cut(
    parent: Path,
    data: Path,
    options: PruneOptions,
    seed: int,
    max_length: int,
    work: Path,
    output: Path,
    teacher: Path | None = None,
) -> None:
    """Cut heads and neurons, train what is left and write a [checkpoint]; goes on where `work` was left.

    Args:
        parent: a float [checkpoint] of transformers, of the same seed.
        data: a [data] artifact.
        options: what to do.
        seed: of the examples that tell importance, of the order of the data and of dropout.
        max_length: tokens at which texts are cut, and for which a speed-up is meant.
        work: folder for checkpoints, of this job alone; removed in the end.
        output: the [checkpoint] artifact to write.
        teacher: the [checkpoint] that teaches, exactly where the options have a distillation.

    Raises:
        UserError: the parent is cut or quantized already, is damaged or of an architecture that our encoder is not; the
            speed-up cannot be reached; or the cut model computes something else than the masked one.
        Preempted: the job was asked to leave; its progress is saved.
    """
    read_record(parent)
    if is_ours(parent):
        raise UserError(
            f"{parent}: is cut or quantized already; heads-and-neurons starts from a float checkpoint that has all of "
            "them, put it before these stages and only once"
        )
    config, tokenizer = read_config(parent), load_tokenizer(parent)
    override_dropout(config, options)
    set_seed(seed)
    model = load_model(parent, "cuda" if torch.cuda.is_available() else "cpu", config)
    full = convert(model, frozenset()).to(model.device)
    batches = drawn_batches(data, tokenizer, max_length, options.importance_examples, seed, labels=True)
    kept = _kept(work / KEPT, model, full.shape, batches, options, max_length)
    encoder = cut_out(full, kept)
    conversion = check_against_masked(model, full.shape, encoder, kept, batches[0])
    del model, full
    loss = taught_by(teacher, encoder, tokenizer, data, max_length, options.distillation)
    result = train(encoder, tokenizer, data, options, seed, max_length, work, loss=loss)
    record = training_record(result, options, seed, parent) | {
        "conversion": conversion,
        "cut": {"heads": encoder.shape.heads, "neurons": encoder.shape.neurons},
    }
    write_checkpoint(output, partial(save_pretrained, encoder, config), tokenizer, record, result.history)
    shutil.rmtree(work, ignore_errors=True)


def _kept(
    file: Path, model: Any, shape: EncoderConfig, batches: Batches, options: PruneOptions, max_length: int
) -> Kept:
    """Return what to keep: what an interrupted job has chosen, or else by importance.

    The choice is kept in a file, for a resumed job may run on a machine that rounds otherwise, and the weights that it
    goes on with must find their places.
    """
    if file.is_file():
        told = json.loads(file.read_text())
        return Kept(*(tuple(map(tuple, told[name])) for name in ("heads", "neurons")))
    kept = choose(importance(model, shape, batches), shape, options, max_length)
    with store.new_file(file) as draft:
        draft.write_text(json.dumps({"heads": kept.heads, "neurons": kept.neurons}) + "\n")
    small = kept.shape(shape)
    faster = multiply_adds(shape, max_length) / multiply_adds(small, max_length)
    log.warning("heads %s, neurons %s: %.2f times fewer multiplications", small.heads, small.neurons, faster)
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
    tolerance = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= tolerance:
        raise UserError(
            f"cutting changed the model: a logit differs by {difference:.3g} from the one with masked heads and neurons"
            f" where {tolerance:.3g} is allowed; leave the stage out, and report it with the checkpoint"
        )
    measure = "largest difference of a logit to the masked model"
    return {"measure": measure, "difference": difference, "tolerance": tolerance}
