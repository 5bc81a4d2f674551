"""Fine-tuning: from a pretrained encoder to a classifier of the task, in floating point."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AutoTokenizer

from intaglio.models.classifier import pretrained_classifier
from intaglio.stages.checkpoint import training_record, write_checkpoint
from intaglio.study.options import FinetuneOptions
from intaglio.tasks.tokenize import read_task
from intaglio.training.train import train


def finetune(
    model: Path, data: Path, options: FinetuneOptions, seed: int, max_length: int, work: Path, output: Path
) -> None:
    """Fine-tune a pretrained encoder and write a [checkpoint]; goes on where an interrupted job left `work`.

    Args:
        model: a [model] artifact, or a folder as transformers saves it.
        data: a [data] artifact.
        options: what to do.
        seed: of the new head, of the order of the data and of dropout.
        max_length: tokens at which texts are cut.
        work: folder for checkpoints, of this job alone; removed in the end.
        output: the [checkpoint] artifact to write.

    Raises:
        UserError: the model or the data is damaged, they do not fit, or the loss is not finite.
        Preempted: the job was asked to leave; its progress is saved.
    """
    network = pretrained_classifier(model, read_task(data)["labels"], options, seed, max_length)
    tokenizer = AutoTokenizer.from_pretrained(model)
    result = train(network, tokenizer, data, options, seed, max_length, work, precision=options.precision)
    record = training_record(result, options, seed)
    write_checkpoint(output, network.save_pretrained, tokenizer, record, result.history)
    shutil.rmtree(work, ignore_errors=True)
