"""The part of the study file that describes a task."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from intaglio import metrics
from intaglio.errors import nearest
from intaglio.study.options import (
    CutOptions,
    DistilOptions,
    FinetuneOptions,
    Int8Options,
    PruneOptions,
    QuantizeOptions,
)
from intaglio.study.sources import Source, StudyPart

# Steps that change the texts of a task; `preprocess.py` does them.
Step = Literal["stop_words", "lemmatize", "mask_urls", "mask_users"]
KindName = Literal["single_label", "multi_label", "regression", "question_answering"]
PROBLEM_TYPES: Mapping[str, str] = {
    "single_label": metrics.SINGLE_LABEL,
    "multi_label": metrics.MULTI_LABEL,
    "regression": metrics.REGRESSION,
    "question_answering": metrics.QUESTION_ANSWERING,
}
# Primary metrics where none is given, and options that only one kind has.
_METRICS = {"multi_label": "jaccard", "regression": "pearson", "question_answering": "answer_f1"}
_ONLY_OF = {
    **dict.fromkeys(("bins", "positive", "class_weights", "oversample", "focal"), "single_label"),
    "label_delimiter": "multi_label",
    **dict.fromkeys(("stride", "longest_answer"), "question_answering"),
}
# Columns of question answering where none are given, as in SQuAD.
_QUESTIONS = {"text": ["question", "context"], "label": "answers"}
# Splits become file names: `test` or `test_NAME`.
Split = Annotated[str, StringConstraints(pattern=r"^(train|test|test_[A-Za-z0-9][A-Za-z0-9_-]*)$")]


class StageOptions(StudyPart):
    """Options by stage, for the whole study or for one task."""

    finetune: FinetuneOptions = Field(default_factory=FinetuneOptions)
    distil: DistilOptions = Field(default_factory=DistilOptions)
    prune: PruneOptions = Field(default_factory=PruneOptions)
    cut: CutOptions = Field(default_factory=CutOptions)
    quantize: QuantizeOptions = Field(default_factory=QuantizeOptions)
    int8: Int8Options = Field(default_factory=Int8Options)


class Bins(StudyPart):
    """Labels from a number: the label of the interval that it falls into.

    A number on an edge belongs to the interval above, but is dropped if either of its neighbors is dropped.
    """

    edges: list[float] = Field(min_length=1, description="Ascending bounds between the intervals.")
    labels: list[str | None] = Field(description="One label per interval; null drops its examples.")

    @model_validator(mode="after")
    def _one_label_an_interval(self) -> Self:
        if len(self.labels) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges make {len(self.edges) + 1} intervals: give as many labels")
        if list(self.edges) != sorted(self.edges):
            raise ValueError("edges must ascend")
        return self


class Task(StudyPart):
    """A task: where its data is, what its columns mean, how it is judged."""

    like: str | None = Field(
        None, description="A known task, or one before it in the study: what is not given here is as there."
    )
    source: Source
    kind: KindName = Field(
        "single_label",
        description="What a text has: `single_label`, one of the labels; `multi_label`, any number of them; "
        "`regression`, a number. `question_answering` finds the answer to a question in a context.",
    )
    columns: list[str] | None = Field(None, description="Column names of a file without a header line.")
    delimiter: str | None = Field(None, description="Delimiter of a text file, where its name does not tell.")
    quotes: bool | None = Field(
        None, description="Whether double quotes enclose fields of a text file; when null, unless tabs delimit."
    )
    text: list[str] = Field(
        min_length=1,
        max_length=2,
        description="Column of the text, or two for a pair of texts. Of question answering: the columns of question "
        "and context, by default `question` and `context`.",
    )
    label: str | list[str] = Field(
        description="Column of the label or number. Of a multi-label task: a column of lists, or a column of 0 and 1 "
        "for every label. Of question answering: the column of answers, by default `answers`, each with `text` and "
        "`answer_start`, its first character in the context."
    )
    labels: list[str] = Field(
        default_factory=list,
        description="The labels, in the order of the model's outputs; by default the names of several columns in "
        "`label`. Regression has none.",
    )
    label_values: list[str] | None = Field(
        None, description="Value in the label column for each label, if it is not the label's name."
    )
    label_delimiter: str | None = Field(
        None, description="What separates the labels of a multi-label task in one column of a text file."
    )
    bins: Bins | None = Field(None, description="Make the label of a numeric label column.")
    splits: dict[Split, str] = Field(
        default_factory=lambda: {"train": "train", "test": "test"},
        description="Splits of a hub data set: `train`, and `test` or several as `test_NAME`.",
    )
    metric: str = Field(
        "accuracy",
        description=f"The primary metric: {', '.join(metrics.KNOWN_METRICS)}. By default jaccard for multi-label "
        "tasks, pearson for regression and answer_f1 for question answering.",
        json_schema_extra=lambda schema: schema.update(enum=list(metrics.KNOWN_METRICS)),
    )
    positive: str | None = Field(None, description="The one of two labels to which the metric f1 applies.")
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the training data on which models are chosen.")
    test: float = Field(0.2, gt=0, lt=0.5, description="Share to test on, where the source has no test split.")
    split_by: str | None = Field(
        None, description="Column of groups, such as authors: none is in two of the splits cut from `train`."
    )
    split_by_time: str | None = Field(
        None,
        description="Column of times: of the splits cut from `train`, validation is later than training, test last.",
    )
    duplicates: Literal["keep", "drop"] = Field(
        "keep", description="Whether training examples are kept or dropped whose text is also in a test set."
    )
    split_seed: int = Field(0, ge=0, description="Seed of these splits; the same for every run.")
    max_train: int | None = Field(
        None, gt=1, description="Use so many training examples, those of the validation split included, at most."
    )
    max_test: int | None = Field(None, gt=1, description="Use so many test examples of each test set, at most.")
    preprocess: tuple[Step, ...] = Field(
        (),
        description="Steps that change the texts, in this order: `stop_words` removes frequent English words "
        "(scikit-learn's list), `lemmatize` replaces words by their dictionary forms (simplemma), `mask_urls` replaces "
        "web addresses by `http` and `mask_users` names of users by `@user`.",
    )
    language: str = Field("en", description="Language of the texts, for `lemmatize`: its ISO 639 code.")
    private: bool = Field(False, description="Keep its texts out of tables and report.")
    class_weights: Literal["inverse"] | None = Field(
        None,
        description="`inverse` weights the training loss of an example by the inverse frequency of its class: examples "
        "/ (classes × examples of the class), counted after oversampling.",
    )
    oversample: bool = Field(
        False, description="Repeat training examples until every class has as many as the largest one."
    )
    focal: float | None = Field(
        None,
        gt=0,
        description="γ of the focal loss: in training, an example counts by (1 − p)^γ, where p is the probability that "
        "the model gives to its class. 2 is usual.",
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="Of question answering: number of tokens that neighbouring windows of a long context share; null "
        "for a third of max_length, which is the most.",
    )
    longest_answer: int | None = Field(
        None, gt=0, description="Of question answering: largest number of tokens of an answer; 30 by default."
    )
    stages: StageOptions = Field(default_factory=StageOptions, description="Options for this task.")

    @field_validator("preprocess")
    @classmethod
    def _steps_once(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        if len(set(steps)) != len(steps):
            raise ValueError("a step occurs twice")
        return steps

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, name: str) -> str:
        if name not in metrics.KNOWN_METRICS:
            raise ValueError(f"unknown metric {name!r}, {nearest(name, metrics.KNOWN_METRICS)}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, given: Any) -> Any:
        """Fill in what the kind decides and is not given: metric, labels of several columns, columns of questions."""
        if not isinstance(given, dict):
            return given
        further: dict[str, Any] = {}
        if "metric" not in given and given.get("kind") in _METRICS:
            further["metric"] = _METRICS[given["kind"]]
        if "labels" not in given and given.get("kind") == "multi_label" and isinstance(given.get("label"), list):
            further["labels"] = given["label"]
        if given.get("kind") == "question_answering":
            further |= {key: value for key, value in _QUESTIONS.items() if key not in given}
        return {**given, **further}

    @property
    def problem_type(self) -> str:
        """The kind by its name in transformers."""
        return PROBLEM_TYPES[self.kind]

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs: labels, a regression task's column, or first and last token of an answer."""
        if self.kind == "question_answering":
            return ["start", "end"]
        return self.labels or self.label_columns

    @property
    def label_columns(self) -> list[str]:
        """Columns of the label."""
        return [self.label] if isinstance(self.label, str) else self.label

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        several = not isinstance(self.label, str)
        for key in _ONLY_OF:
            if getattr(self, key) not in (None, False) and self.kind != _ONLY_OF[key]:
                raise ValueError(f"{key}: is only for `kind: {_ONLY_OF[key]}`")
        if several and self.kind != "multi_label":
            raise ValueError("label: several columns are for `kind: multi_label`")
        if self.kind == "regression" and (self.labels or self.label_values):
            raise ValueError("labels: regression has numbers; leave `labels` out, or `kind: regression`")
        if self.kind == "question_answering":
            return self._questions_fit()
        if self.kind != "regression" and len(self.labels) < 2:
            raise ValueError("labels: at least two are needed (or `kind: regression`, if `label` holds numbers)")
        if several and len(self.labels) != len(self.label):
            raise ValueError(f"labels: {len(self.labels)} names for the {len(self.label)} columns in `label`")
        if several and (self.label_values or self.label_delimiter):
            raise ValueError("label_values, label_delimiter: are for labels in one column")
        return self

    def _questions_fit(self) -> Self:
        if self.labels or self.label_values:
            raise ValueError("labels: question answering has answers in the context; leave `labels` out")
        if len(self.text) != 2:
            raise ValueError("text: question answering needs two columns, of the question and of the context")
        if self.preprocess:
            raise ValueError("preprocess: would move answers away from their places; leave it out")
        return self

    @model_validator(mode="after")
    def _metric_fits(self) -> Self:
        if self.positive is not None and self.positive not in self.labels:
            raise ValueError(f"positive: unknown label {self.positive!r}, {nearest(self.positive, self.labels)}")
        position = None if self.positive is None else self.labels.index(self.positive)
        classes = metrics.Classes(len(self.outputs), position)
        reason = metrics.why_not(self.metric, self.problem_type, classes)
        if reason:
            raise ValueError(f"metric: {reason}")
        return self

    @model_validator(mode="after")
    def _labels_agree(self) -> Self:
        for key, values in (("labels", self.labels), ("label_values", self.label_values or [])):
            if len({unicodedata.normalize("NFC", value) for value in values}) != len(values):
                raise ValueError(f"{key}: a value occurs twice")
            if any(not value.strip() for value in values):
                raise ValueError(f"{key}: a value is empty")
        columns = [*self.text, *self.label_columns]
        again = [column for column in columns if columns.count(column) > 1]
        if again:
            raise ValueError(f"the column {again[0]!r} occurs twice among `text` and `label`")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f'delimiter: {self.delimiter!r} is not one character; a tab is "\\t" in double quotes')
        if self.split_by is not None and self.split_by_time is not None:
            raise ValueError("split_by: the task also has `split_by_time`; choose one")
        if "train" not in self.splits:
            raise ValueError("splits: `train` is missing")
        if self.label_values is not None and len(self.label_values) != len(self.labels):
            raise ValueError(f"label_values: {len(self.label_values)} values for {len(self.labels)} labels")
        if self.bins is not None:
            strange = sorted({label for label in self.bins.labels if label is not None} - set(self.labels))
            if strange:
                raise ValueError(f"bins: {strange[0]!r} is not among the labels {self.labels}")
        if isinstance(self.source, dict):
            return self
        if self.source.kind == "files" and self.source.train is None:
            raise ValueError("source: files need `train`, the training data")
        return self
