"""Fine-tuning: from a pretrained encoder to a classifier for the task, in floating point."""

from __future__ import annotations

from transformers import AutoTokenizer

from intaglio.models.classifier import pretrained_classifier
from intaglio.models.low_rank import add_adapters, count_parameters
from intaglio.stages.prepared import Prepared
from intaglio.study.options import FinetuneOptions
from intaglio.training.job import Learner, StageJob


def prepare(job: StageJob[FinetuneOptions]) -> Prepared:
    """Return the pretrained encoder with a head for the task.

    Raises:
        UserError: the model is damaged, or does not fit the task.
    """
    model = pretrained_classifier(job.start, job.task, job.options, job.seed, job.max_length)
    tokenizer = AutoTokenizer.from_pretrained(job.start, trust_remote_code=False)
    learner = Learner(model, tokenizer, precision=job.options.precision)
    if job.options.low_rank is None:
        return Prepared(learner, model.save_pretrained)
    save = add_adapters(model, job.options.low_rank, job.seed)
    counts = count_parameters(model)
    return Prepared(learner, save, lambda: counts)
