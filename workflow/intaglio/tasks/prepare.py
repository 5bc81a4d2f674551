"""From any source to a `data` artifact: train, validation and test splits in one format."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intaglio.errors import UserError
from intaglio.metrics import SINGLE_LABEL
from intaglio.reading.raw_table import RawTable
from intaglio.reading.sources import read_source
from intaglio.store import new_artifact
from intaglio.study.task import Task
from intaglio.tasks.examples import Examples, read_examples
from intaglio.tasks.kinds import KINDS
from intaglio.tasks.splits import at_most, split_off

# Number of rows converted to a file's format at once.
_ROW_GROUP = 2_000


def prepare_data(task: Task, source: Path | None, output: Path) -> None:
    """Read a task's data, check it, split it, and write it as a `data` artifact.

    The artifact contains `train.parquet`, `validation.parquet` and `test.parquet` or several `test_NAME.parquet`. Their
    columns are id: string (unique in the whole task), text_a: string, text_b: string (pair tasks only) and label: int64
    (index of the label). `task.json` has labels, metric, test sets (the first one is the primary test set) and whether
    texts come in pairs. The manifest counts the examples of every split by label, the rows that were left out (without
    any value, or in a bin without a label), the examples that `max_train` and `max_test` left out, and pairs whose
    second text is empty. Its `warnings`, also printed to stderr, name suspicious places in a file and labels that a
    split lacks, and count the test texts that are also in the training data. Evaluations and tables show them.

    The same task and source give the same files. A test set that is split off does not depend on `max_train`; the
    validation split is taken from the training examples that `max_train` leaves.

    Args:
        task: the task, as in the study file.
        source: the fetched `source` artifact; None for the user's own files.
        output: the artifact.

    Raises:
        UserError: the data is invalid; names the file, the row and the value.
    """
    about: dict[str, Any] = {}
    with new_artifact(output, "data", about) as folder:
        work = folder / "work"
        tables = read_source(task, source, work)
        shutil.rmtree(work, ignore_errors=True)
        parts, dropped = _examples(task, tables)
        splits, unused = _split(task, parts)
        for name, examples in splits.items():
            _check(task, name, examples)
            _write(examples, folder / f"{name}.parquet")
        tests = [name for name in splits if name.startswith("test")]
        facts = {
            "kind": SINGLE_LABEL,
            "labels": task.labels,
            "positive": task.positive,
            "metric": task.metric,
            "test_sets": tests,
            "pair": len(task.text) == 2,
        }
        (folder / "task.json").write_text(json.dumps(facts, indent=1) + "\n")
        about["splits"] = {name: _counts(task, examples) for name, examples in splits.items()}
        about["dropped"] = dropped
        if len(task.text) == 2:
            about["empty_second_texts"] = {name: part.texts[1].count("") for name, part in parts.items()}
        about["unused"] = unused
        leaked = {name: _leaked(splits, name) for name in tests}
        about["test_texts_in_training"] = leaked
        read = [warning for table in tables.values() for warning in table.warnings]
        about["warnings"] = [*read, *_absent(task, splits), *_known_texts(splits, leaked)]
        for warning in about["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)


def _examples(task: Task, tables: dict[str, RawTable]) -> tuple[dict[str, Examples], dict[str, dict[str, int]]]:
    """Return examples by split, with ids that are unique over all splits, and the counts of dropped rows."""
    parts, dropped = {}, {}
    for name, table in tables.items():
        parts[name], binned = read_examples(task, table)
        dropped[name] = {"blank": table.blank, "bin_without_label": binned}
    ids = Counter(identifier for part in parts.values() for identifier in part.ids)
    if ids and max(ids.values()) > 1:
        for name, part in parts.items():
            parts[name] = Examples([f"{name}-{identifier}" for identifier in part.ids], part.texts, part.labels)
    return parts, dropped


def _split(task: Task, parts: dict[str, Examples]) -> tuple[dict[str, Examples], dict[str, int]]:
    """Split test (if the source has none) and validation off the training data; count the examples left out."""
    train, tests = parts["train"], {name: part for name, part in parts.items() if name != "train"}
    _check(task, "train", train)
    seed, labels, strata = task.split_seed, task.labels, KINDS[SINGLE_LABEL].strata
    if not tests:
        # Two examples of every label have to remain, for training and validation.
        train, tests["test"] = split_off(train, task.test, seed, labels, "test", strata=strata, keep=2)
    used = at_most(train, task.max_train, seed, labels, "max_train", strata=strata, least=2)
    unused = {"train": len(train) - len(used)}
    train, validation = split_off(used, task.validation, seed, labels, "validation", strata=strata)
    splits = {"train": train, "validation": validation}
    for name, part in tests.items():
        splits[name] = at_most(part, task.max_test, seed, labels, "max_test", strata=strata)
        unused[name] = len(part) - len(splits[name])
    return splits, unused


def _check(task: Task, name: str, examples: Examples) -> None:
    present = set(examples.labels)
    if not present:
        raise UserError(f"{name}: no examples; check the source, and `bins` if the task has them")
    if len(present) == 1:
        label = task.labels[present.pop()]
        raise UserError(f"{name}: all {len(examples)} examples have the label {label!r}; nothing to tell apart")


def _absent(task: Task, splits: dict[str, Examples]) -> list[str]:
    """Return a warning for every declared label that is missing in a split."""
    counts = {name: Counter(examples.labels) for name, examples in splits.items()}
    found = []
    for position, label in enumerate(task.labels):
        lacking = [name for name in splits if not counts[name][position]]
        if lacking:
            held = ", ".join(f"{name} {counts[name][position]}" for name in splits)
            found.append(f"label {label!r} has no example in {', '.join(lacking)} (examples: {held})")
    return found


def _write(examples: Examples, path: Path) -> None:
    """Write a split in row groups, so that memory never holds further copies of all its texts."""
    names = ("text_a", "text_b")[: len(examples.texts)]
    schema = pa.schema([("id", pa.string()), *((name, pa.string()) for name in names), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(examples), _ROW_GROUP):
            part = slice(start, start + _ROW_GROUP)
            columns = [examples.ids[part], *(texts[part] for texts in examples.texts), examples.labels[part]]
            writer.write_table(pa.table(columns, schema=schema))


def _counts(task: Task, examples: Examples) -> dict[str, Any]:
    counts = Counter(examples.labels)
    return {"examples": len(examples), "labels": {label: counts[at] for at, label in enumerate(task.labels)}}


def _leaked(splits: dict[str, Examples], test: str) -> int:
    """Count the test examples whose text (or pair) is also in the training or validation split."""
    asked = set(splits[test].contents())
    seen = {content for name in ("train", "validation") for content in splits[name].contents() if content in asked}
    return sum(content in seen for content in splits[test].contents())


def _known_texts(splits: dict[str, Examples], leaked: dict[str, int]) -> list[str]:
    return [
        f"{name}: {count} of {len(splits[name])} texts are also in the training data"
        for name, count in leaked.items()
        if count
    ]
