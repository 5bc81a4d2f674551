"""The stage `continue`: a float model is trained on, as a control for stages that train longer than float does."""

from __future__ import annotations

from functools import partial

from transformers import set_seed

from intaglio.encoder.files import save_encoder
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.models.dropout import override_dropout
from intaglio.stages.prepared import Prepared
from intaglio.study.options import ContinueOptions
from intaglio.training.job import Learner, StageJob


def prepare(job: StageJob[ContinueOptions]) -> Prepared:
    """Return the parent, transformers' model or an encoder in floating point, as it is.

    Raises:
        UserError: the parent is quantized, or damaged.
    """
    parent = job.parent
    if parent.is_quantized:
        raise UserError(f"{parent}: is quantized, and its integers are final; continue trains floating point")
    config = parent.config()
    override_dropout(config, job.options)
    model = parent.load(config=config)
    set_seed(job.seed)
    save = partial(save_encoder, model, config) if isinstance(model, Encoder) else model.save_pretrained
    return Prepared(Learner(model, parent.tokenizer), save)
