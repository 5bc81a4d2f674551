"""Dropout in a model's configuration."""

from __future__ import annotations

from typing import Any

from intaglio.errors import UserError
from intaglio.study.training_options import TrainingOptions

# Names of the two kinds of dropout in the configurations of transformers' encoders.
_HIDDEN = ("hidden_dropout_prob", "classifier_dropout", "classifier_dropout_prob", "dropout", "seq_classif_dropout")
_ATTENTION = ("attention_probs_dropout_prob", "attention_dropout")


def override_dropout(config: Any, options: TrainingOptions) -> None:
    """Set the options' dropout in a configuration; options that are null leave the model's own.

    Raises:
        UserError: the architecture's dropout has no known name.
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
