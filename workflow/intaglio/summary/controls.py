"""Controls: which variant shows what the training of another one's last stage does by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_Recipe = Sequence[Mapping[str, Any]]
# Stages that are no gain to be explained by more training: the first one, and a control itself.
_NEED_NONE = ("finetune", "continue")
_UNTRAINED = "int8"


def control_of(variant: str, recipes: Mapping[str, _Recipe]) -> str | None:
    """Return the name of a variant's control; None if the study has none.

    That is a variant whose last stage is `continue`, `like` the last stage of this one that trains. One with the same
    stages before it is preferred.

    Args:
        variant: its name.
        recipes: resolved recipes by the names of the study's variants.
    """
    trained = [options for options in recipes[variant] if options["stage"] != _UNTRAINED]
    last = trained[-1]["stage"] if trained else "finetune"
    if last in _NEED_NONE:
        return None
    controls = [name for name, recipe in recipes.items() if recipe and recipe[-1].get("like") == last]
    same = [name for name in controls if list(recipes[name][:-1]) == trained[:-1]]
    return next(iter([*same, *controls]), None)
