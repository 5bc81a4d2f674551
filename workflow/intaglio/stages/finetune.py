"""Fine-tuning: from a pretrained encoder to a classifier of the task, in floating point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from intaglio import store
from intaglio.errors import UserError
from intaglio.stages.checkpoint import training_record, write_checkpoint
from intaglio.study.options import FinetuneOptions, TrainingOptions
from intaglio.tasks.tokenize import longest_input, read_task
from intaglio.training.train import train

# Names that transformers' encoders give to the two kinds of dropout in their configurations.
_HIDDEN = ("hidden_dropout_prob", "classifier_dropout", "classifier_dropout_prob", "dropout", "seq_classif_dropout")
_ATTENTION = ("attention_probs_dropout_prob", "attention_dropout")


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


def pretrained_classifier(model: Path, labels: list[str], options: TrainingOptions, seed: int, max_length: int) -> Any:
    """Return a pretrained encoder with a head for these labels, which the seed draws if the model has none that fits.

    Args:
        model: a [model] artifact, or a folder as transformers saves it.
        labels: names, in the order of their numbers.
        options: whose dropout it gets.
        seed: of the head.
        max_length: tokens that it must take.

    Raises:
        UserError: the model is damaged, has no weights in safetensors, or cannot take so many tokens.
    """
    config = _config(model, labels, options, max_length)
    set_seed(seed)
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            model, config=config, use_safetensors=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise UserError(f"{model}: no weights in model.safetensors; bring a model that has them") from error


def _config(model: Path, labels: list[str], options: TrainingOptions, max_length: int) -> Any:
    """Return the model's configuration with the task's labels and the options' dropout.

    Raises:
        UserError: there is none, or the model cannot take `max_length` tokens.
    """
    if (model / store.MANIFEST).is_file():
        store.open_artifact(model, "model")
    if not (model / "config.json").is_file():
        raise UserError(f"{model}: no config.json; a model is a folder as transformers saves it")
    longest = longest_input(json.loads((model / "config.json").read_text()))
    if longest is not None and max_length > longest:
        raise UserError(f"max_length: {max_length} tokens, but {model} takes {longest} at most")
    config = AutoConfig.from_pretrained(
        model,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    override_dropout(config, options)
    return config


def override_dropout(config: Any, options: TrainingOptions) -> None:
    """Set the dropout that the options name in a configuration; what is null in them stays as the model has it.

    Raises:
        UserError: the architecture has no dropout under a name known here.
    """
    wanted = {"dropout": (options.dropout, _HIDDEN), "attention_dropout": (options.attention_dropout, _ATTENTION)}
    for option, (value, names) in wanted.items():
        if value is None:
            continue
        known = [name for name in names if hasattr(config, name)]
        if not known:
            raise UserError(
                f"{option}: a model of type {config.model_type!r} has none that is known here; leave it out"
            )
        for name in known:
            setattr(config, name, value)
