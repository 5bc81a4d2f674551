"""Comparison of a bundle with the evaluation of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from intaglio.errors import UserError
from intaglio.export.parity import Limit, of_texts
from intaglio.predict.decode import QUESTIONS, VALUE
from intaglio.predict.opened import Bundle
from intaglio.tasks.stored import read_split, read_task

# Number of test examples that are compared.
_COMPARED = 200


class Difference(NamedTuple):
    """How far a form of a bundle is from the evaluation.

    Attributes:
        form: the form.
        examples: number of test examples that were compared.
        largest: largest difference of a logit.
        changed: number of them with another prediction; of values, None.
    """

    form: str
    examples: int
    largest: float
    changed: int | None


def compare(folder: Path, forms: Sequence[str], run: Mapping[str, Any], limit: Limit) -> list[Difference]:
    """Compare every form of a bundle with the logits that the evaluation has stored.

    Args:
        folder: the bundle, whose manifest may be still to be written.
        forms: its forms.
        run: the run, as in the plan.
        limit: what is allowed between logits, which another device may have computed.

    Raises:
        UserError: logits differ by more.
    """
    data = Path(run["data"])
    test_set = read_task(data)["test_sets"][0]
    examples = read_split(data, test_set).slice(0, _COMPARED)
    stored = pq.ParquetFile(Path(run["evaluation"]) / "predictions.parquet").read(
        ["test_set", "id", "prediction", "logits"]
    )
    stored = stored.filter(pc.equal(stored["test_set"], test_set)).slice(0, _COMPARED)
    if stored["id"].to_pylist() != examples["id"].to_pylist():
        raise UserError(f"{run['evaluation']}: is of other examples than {data}; run the evaluation again")
    expected = np.array(stored["logits"].to_pylist(), np.float32)
    columns = [examples[name].to_pylist() for name in ("text_a", "text_b") if name in examples.column_names]
    texts = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    found = []
    for form in forms:
        bundle = Bundle(folder, form, check=False)
        outputs = bundle.outputs(texts, prepared=True)
        texts_differ, of_values = of_texts(bundle.numbers(outputs), expected), bundle.facts["kind"] == VALUE
        # Values have any size, and so has the rounding of their last digits.
        allowed = limit.tolerance * (max(1.0, float(np.abs(expected).max())) if of_values else 1.0)
        difference = limit.of(texts_differ)
        if difference > allowed:
            raise UserError(
                f"{run['checkpoint']}: not bundled, for logits of its form {form!r} differ by "
                f"{difference:.3g} from the evaluation's, where {allowed:.3g} is allowed ({limit.measure});"
                " report it with the checkpoint"
            )
        answered = bundle.facts["kind"] == QUESTIONS
        predicted = stored["prediction"].to_pylist() if answered else bundle.predictions(expected)
        pairs = zip(bundle.predictions(outputs), predicted, strict=True)
        changed = None if of_values else sum(one != other for one, other in pairs)
        found.append(Difference(form, len(texts), float(texts_differ.max()), changed))
    return found
