"""Examples as a model reads them, and the way back: from its logits to the outputs of examples.

Question answering reads an example in several windows, of which `spans` makes questions again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from intaglio.encoder.padding import PADDING
from intaglio.errors import UserError
from intaglio.kinds import classes_of, kind_of
from intaglio.metrics import QUESTION_ANSWERING, named
from intaglio.schemas import as_array
from intaglio.spans import LONGEST_ANSWER, best_answers
from intaglio.tasks.stored import read_split, read_task
from intaglio.tokens.artifact import Tokens, read_tokens
from intaglio.tokens.tokenize import collate

if TYPE_CHECKING:
    from torch import Tensor

# Size of the batches of `batches_of`.
BATCH = 32
_Integers = NDArray[np.int64]
# Rows of a model's inputs: `Tokens`, or lists of them.
Rows = Sequence[dict[str, Any]]


class Encoded:
    """Examples of a split; each is one row of the model's inputs.

    Attributes:
        rows: inputs of the model.
    """

    def __init__(self, rows: Tokens) -> None:
        self.rows = rows

    @property
    def labels(self) -> NDArray[Any]:
        """What the loss compares the logits with, one for each row."""
        return self.rows.fact("label")

    @property
    def examples(self) -> _Integers:
        """The example of every row: its position in the split."""
        return self.rows.fact("example")

    @property
    def targets(self) -> NDArray[Any]:
        """The true values of the examples, as `metrics.Judged` describes them."""
        return self.labels

    def take(self, rows: _Integers) -> Self:
        """Return the rows at these positions; examples without rows are left out."""
        taken = copy(self)
        taken.rows = self.rows.take(rows)
        return taken

    def rows_of(self, examples: _Integers) -> _Integers:
        """Return the positions of all rows of these examples, ascending."""
        return np.flatnonzero(np.isin(self.examples, examples))

    def outputs(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the outputs of the examples, as `TaskKind.decode` takes them, from the logits of all rows."""
        return logits

    def validation(self, task: Mapping[str, Any], logits: NDArray[Any]) -> dict[str, float]:
        """Return the task's metric, with thresholds as by default, and the mean loss over the rows.

        Args:
            task: the content of task.json.
            logits: of all rows, [rows, ...].
        """
        return kind_of(task).validation(task, self.labels, logits)


class Windows(Encoded):
    """Questions of a split; each has one or several rows, its windows."""

    def __init__(
        self,
        rows: Tokens,
        contexts: Sequence[str],
        answers: NDArray[Any],
        longest_answer: int = LONGEST_ANSWER,
        unanswerable: bool = False,
    ) -> None:
        """Make windows.

        Args:
            rows: inputs of the model.
            contexts: of all questions of the split.
            answers: the accepted answers of all questions of the split, [questions].
            longest_answer: number of tokens of an answer, at most.
            unanswerable: whether a question may have no answer.
        """
        super().__init__(rows)
        self._contexts, self._answers = contexts, answers
        self._longest_answer, self._unanswerable = longest_answer, unanswerable

    @property
    def targets(self) -> NDArray[Any]:
        """The accepted answers of those questions that have windows, in the order of the split."""
        return self._answers[np.unique(self.examples)]

    def outputs(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the best answer of every question that has windows, `spans.OUTPUTS` [questions].

        Args:
            logits: of all windows, [windows, length, 2]; what is beyond the tokens of a window is ignored.

        Raises:
            UserError: the logits are those of a model for another kind of task.
        """
        if logits.ndim != 3:
            raise UserError(
                f"question answering: logits of shape {list(logits.shape)} are not of first and last tokens; was the"
                " checkpoint trained on another task?"
            )
        questions, of_window = np.unique(self.examples, return_inverse=True)
        windows = zip(of_window, self.rows.characters(), logits, strict=True)
        contexts = [self._contexts[question] for question in questions]
        return best_answers(windows, contexts, self._longest_answer, self._unanswerable)

    def validation(self, task: Mapping[str, Any], logits: NDArray[Any]) -> dict[str, float]:
        """See `Encoded`; the metric is over questions, the loss over windows."""
        kind, metric = kind_of(task), task["metric"]
        value = named(metric).compute(kind.judged(self.targets, self.outputs(logits)), classes_of(task))
        return {metric: value, "loss": kind.mean_loss(self.labels, logits)}


def read_encoded(data: Path, split: str, tokenizer: Any, max_length: int) -> Encoded:
    """Return a split as a model reads it; arguments and errors are those of `read_tokens`."""
    rows, task = read_tokens(data, split, tokenizer, max_length), read_task(data)
    if task["kind"] != QUESTION_ANSWERING:
        return Encoded(rows)
    table = read_split(data, split, ["text_b", "label"])
    longest = task.get("longest_answer") or LONGEST_ANSWER
    return Windows(rows, table["text_b"].to_pylist(), as_array(table["label"]), longest, task["unanswerable"])


def joined_logits(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the logits of successive rows as one array; those of tokens are padded to the longest row."""
    if parts[0].ndim < 3:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    widths = (((0, 0), (0, longest - part.shape[1]), (0, 0)) for part in parts)
    return np.concatenate(
        [np.pad(part, width, constant_values=PADDING) for part, width in zip(parts, widths, strict=True)]
    )


def batches_of(encoded: Encoded, tokenizer: Any, labels: bool = False) -> list[dict[str, Tensor]]:
    """Return examples in padded batches.

    Args:
        encoded: the examples.
        tokenizer: the tokenizer that was used.
        labels: whether to include labels.

    Returns:
        input_ids, attention_mask and, where the tokenizer makes them, token_type_ids: int64 [batch, longest]; and
        labels, [batch].
    """
    rows: list[dict[str, Any]] = list(encoded.rows)
    if labels:
        rows = [{**row, "label": label} for row, label in zip(rows, encoded.labels.tolist(), strict=True)]
    pad = collate(tokenizer)
    return [dict(pad(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)]
