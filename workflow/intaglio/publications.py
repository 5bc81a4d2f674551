"""Published figures of known models and data, as the sources give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

GLUE = "nyu-mll/glue"
# Labels of SemEval-2018 Task 1 E-c.
EMOTIONS = (
    *("anger", "anticipation", "disgust", "fear", "joy", "love"),
    *("optimism", "pessimism", "sadness", "surprise", "trust"),
)
# Units of quantities other than shares.
UNITS = {"train_seconds": "s", "latency_ms": "ms", "size_mb": "MB"}
# From megabytes of 2^20 bytes to those of 10^6.
_MEBI = 2**20 / 10**6


class PublishedFigure(NamedTuple):
    """One published number: task, variant, column of runs.parquet (or latency_ms), value in that column's unit.

    The value is None for a figure that the publication announces and does not give.
    """

    task: str
    variant: str
    column: str
    value: float | None


class Publication(NamedTuple):
    """A source of figures.

    Attributes:
        name: its name.
        model: repository of its model.
        data: returns the name of a task of a study in `figures`; None if it is none of them.
        test_set: what our scores are measured on.
        scores: conditions of its scores.
        of_task: further conditions of the scores on single tasks.
        others: conditions of its times and sizes, by column.
        figures: its figures.
    """

    name: str
    model: str
    data: Callable[[Mapping[str, Any]], str | None]
    test_set: str
    scores: str
    of_task: Mapping[str, str]
    others: Mapping[str, str]
    figures: tuple[PublishedFigure, ...]

    def conditions(self, figure: PublishedFigure) -> str:
        """Return the conditions of a figure."""
        if figure.column in UNITS:
            return self.others.get(figure.column, "")
        if figure.value is None:
            return "left empty"
        return "; ".join(filter(None, [self.of_task.get(figure.task), self.scores]))


def _of_glue(task: Mapping[str, Any]) -> str | None:
    source = task["source"]
    name: str | None = source.get("config") if source.get("repo") == GLUE else None
    return name


def _of_tweets(task: Mapping[str, Any]) -> str | None:
    return "tweets" if task.get("kind") == "multi_label" and tuple(task["labels"]) == EMOTIONS else None


def _students() -> tuple[PublishedFigure, ...]:
    table = {
        "mnli": (87.6, 10348.4, 86.6, 48243.7),
        "sst2": (95.0, 2362.5, 94.3, 15238.0),
        "cola": (84.1, 766.8, 69.4, 4349.6),
        "rte": (78.0, 607.3, 66.8, 1553.5),
    }
    return tuple(
        PublishedFigure(task, variant, column, value)
        for task, (f_accuracy, f_seconds, i_accuracy, i_seconds) in table.items()
        for variant, column, value in (
            ("float", "accuracy", f_accuracy / 100),
            ("int", "accuracy", i_accuracy / 100),
            ("float", "train_seconds", f_seconds),
            ("int", "train_seconds", i_seconds),
        )
    )


def _scores(variant: str, accuracy: Mapping[str, float], cola: float) -> tuple[PublishedFigure, ...]:
    scores = [PublishedFigure(task, variant, "accuracy", value / 100) for task, value in accuracy.items()]
    return (*scores, PublishedFigure("cola", variant, "matthews", cola / 100))


def _tweets() -> tuple[PublishedFigure, ...]:
    accuracies = {
        "float": 28.10,
        "pruned": 26.07,
        "distilled": 27.09,
        "quantized": 28.55,
        "distilled-quantized": 25.05,
        "pruned-quantized": 23.36,
        "distilled-pruned": None,
        "distilled-pruned-quantized": None,
    }
    sizes = {"float": 417.68, "distilled": 255.44, "quantized": 91.08}
    return (
        *(
            PublishedFigure("tweets", variant, "subset_accuracy", None if value is None else value / 100)
            for variant, value in accuracies.items()
        ),
        *(PublishedFigure("tweets", variant, "size_mb", value * _MEBI) for variant, value in sizes.items()),
        PublishedFigure("tweets", "float", "latency_ms", 50.0),
    )


_ROBERTA = "FacebookAI/roberta-base"
_DEVELOPMENT = "GLUE development set"
PUBLICATIONS = (
    Publication(
        "Students' study of I-BERT",
        _ROBERTA,
        _of_glue,
        _DEVELOPMENT,
        "one figure, no spread",
        {"cola": "accuracy, where GLUE asks for Matthews correlation"},
        {"train_seconds": "one figure on an NVIDIA T4"},
        _students(),
    ),
    Publication(
        "I-BERT (Kim et al., 2021)",
        _ROBERTA,
        _of_glue,
        _DEVELOPMENT,
        "best development-set score over up to 16 settings, no seeds",
        {"mnli": "matched"},
        {},
        (
            *_scores("float", {"mnli": 87.8, "qnli": 92.8, "sst2": 94.6, "rte": 78.0}, 61.2),
            *_scores("int", {"mnli": 87.5, "qnli": 92.8, "sst2": 95.2, "rte": 79.4}, 62.5),
        ),
    ),
    Publication(
        "RoBERTa-base (Liu et al., 2019)",
        _ROBERTA,
        _of_glue,
        _DEVELOPMENT,
        "development set",
        {"mnli": "matched"},
        {},
        _scores("float", {"mnli": 87.6, "sst2": 94.8, "rte": 78.7}, 63.6),
    ),
    Publication(
        "Students' study of tweets",
        "google-bert/bert-base-uncased",
        _of_tweets,
        "a test split",
        "called accuracy, without a definition; one figure, no spread",
        {},
        {
            "size_mb": "given in MB of 2^20 bytes, by which float and distilled are the weights of BERT-base and of "
            "six of its layers in float32, and quantized those of the embeddings alone",
            "latency_ms": "0.05 s; batch, length and hardware not given",
        },
        _tweets(),
    ),
)
