"""From any source to a `data` artifact: train, validation and test splits in one format."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from intaglio.errors import UserError
from intaglio.heap import no_garbage_collection
from intaglio.kinds import KINDS
from intaglio.kinds.answers import answerable
from intaglio.kinds.strata import GROUPS
from intaglio.preprocess import PLACEHOLDER
from intaglio.reading.sources import read_source
from intaglio.store import new_artifact
from intaglio.study.task import Task
from intaglio.tasks.examples import Examples, ReadExamples, read_examples
from intaglio.tasks.keys import unique
from intaglio.tasks.splits import at_most, split_groups, split_latest, split_off

# Settings of a task that training and descriptions read.
_SETTINGS = {"preprocess", "language", "class_weights", "oversample", "focal", "stride", "longest_answer"}
# Names of the strata of question answering.
_ANSWERABLE = ("without an answer", "with an answer")


def prepare_data(task: Task, source: Path | None, output: Path) -> None:
    """Read a task's data, check it, split it, and write it as a `data` artifact.

    The artifact contains `train.parquet`, `validation.parquet` and `test.parquet` or several `test_NAME.parquet`. Their
    columns are id: string (unique in the whole task), text_a: string, text_b: string (pair tasks only) and label: int64
    (index of the label). `task.json` has labels, metric, test sets (the first one is the primary test set), whether
    texts come in pairs, and those settings for texts and training that are not as by default. The manifest counts the
    examples of every split by label, the rows that were left out (without any value, or in a bin without a label), the
    examples that `max_train` and `max_test` left out, the duplicates of test texts that were dropped if the task says
    so, pairs whose second text is empty, and texts of which `preprocess` left no word. Its `warnings`, also printed to
    stderr, name suspicious places in a file and labels that a split lacks, and count the test texts that are also in
    the training data. Evaluations and tables show them.

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
        work.mkdir()
        # Rows are millions of tuples, none of which is in a cycle.
        with no_garbage_collection():
            about.update(_prepare(task, source, work, folder))
        shutil.rmtree(work)
    for warning in about["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


def _prepare(task: Task, source: Path | None, work: Path, folder: Path) -> dict[str, Any]:
    """Write the files of a `data` artifact, given a folder for temporary files; return the facts of its manifest."""
    tables = read_source(task, source, work / "source")
    parts = {
        name: read_examples(task, table, work / f"{name}.arrow", is_cut=name == "train")
        for name, table in tables.items()
    }
    splits, left_out = _split(task, _identified(parts))
    for name, examples in splits.items():
        _check(task, name, examples)
        _write(examples, folder / f"{name}.parquet")
    tests = [name for name in splits if name.startswith("test")]
    facts = {
        "kind": task.problem_type,
        "labels": task.outputs,
        "positive": task.positive,
        "metric": task.metric,
        "test_sets": tests,
        "pair": len(task.text) == 2,
        **(_moments(splits["train"]) if task.kind == "regression" else {}),
        **({"unanswerable": not answerable(splits["train"].targets).all()} if _asks(task) else {}),
        # Without those that have their defaults.
        **task.model_dump(mode="json", include=_SETTINGS, exclude_defaults=True),
    }
    (folder / "task.json").write_text(json.dumps(facts, indent=1) + "\n")
    leaked = {name: _known(splits, name, lambda part: part.contents) for name in tests}
    read = [warning for table in tables.values() for warning in table.warnings]
    about = {
        "splits": {name: _counts(task, examples) for name, examples in splits.items()},
        "dropped": {
            name: {"blank": tables[name].blank, "bin_without_label": part.dropped} for name, part in parts.items()
        },
        **left_out,
        "test_texts_in_training": leaked,
        "warnings": [
            *read,
            *_without_words(task, parts),
            *_absent(task, splits),
            *_known_texts(splits, leaked),
            *_known_groups(task, splits, tests),
        ],
    }
    if task.preprocess:
        without = {name: part.without_words for name, part in parts.items()}
        about |= {"preprocess": list(task.preprocess), "without_words": without}
    if len(task.text) == 2:
        about["empty_second_texts"] = {name: part.empty_second for name, part in parts.items()}
    return about


def _identified(parts: dict[str, ReadExamples]) -> dict[str, Examples]:
    """Return examples by split, with ids that are unique over all splits."""
    examples = {name: part.examples for name, part in parts.items()}
    if len(parts) > 1 and not unique(np.concatenate([part.hashed_ids() for part in examples.values()])):
        return {name: replace(part, id_prefix=f"{name}-") for name, part in examples.items()}
    return examples


def _without_words(task: Task, parts: dict[str, ReadExamples]) -> list[str]:
    """Return a warning for every table with texts of which `preprocess` left no word."""
    steps = ", ".join(task.preprocess)
    return [
        f"{name}: {part.without_words} texts have no word left after {steps}; empty ones became {PLACEHOLDER!r}"
        for name, part in parts.items()
        if part.without_words
    ]


def _split(task: Task, parts: dict[str, Examples]) -> tuple[dict[str, Examples], dict[str, Any]]:
    """Split test (if the source has none) and validation off the training data; count the examples left out."""
    train, tests = parts["train"], {name: part for name, part in parts.items() if name != "train"}
    _check(task, "train", train)
    seed, labels, strata = task.split_seed, _strata(task), KINDS[task.problem_type].strata
    left_out: dict[str, Any] = {}
    if not tests:
        # Two examples of every label have to remain, for training and validation.
        train, tests["test"] = _cut(task, train, task.test, "test", keep=2)
    if task.duplicates == "drop":
        tested = np.isin(train.contents, np.concatenate([part.contents for part in tests.values()]))
        left_out["duplicates"] = int(tested.sum())
        train = train.take(np.flatnonzero(~tested))
    used = at_most(train, task.max_train, seed, labels, "max_train", strata=strata, least=2)
    unused = {"train": len(train) - len(used)}
    train, validation = _cut(task, used, task.validation, "validation")
    splits = {"train": train, "validation": validation}
    for name, part in tests.items():
        splits[name] = at_most(part, task.max_test, seed, labels, "max_test", strata=strata)
        unused[name] = len(part) - len(splits[name])
    return splits, {**left_out, "unused": unused}


def _cut(task: Task, examples: Examples, share: float, name: str, keep: int = 1) -> tuple[Examples, Examples]:
    """Split off a share of the examples as the task says: by time, by group, or at random."""
    if task.split_by_time is not None:
        return split_latest(examples, share, name)
    strata = KINDS[task.problem_type].strata
    if task.split_by is not None:
        return split_groups(examples, share, task.split_seed, name, strata=strata)
    return split_off(examples, share, task.split_seed, _strata(task), name, strata=strata, keep=keep)


def _strata(task: Task) -> list[str]:
    """Return the names of the strata of the task's kind, for messages."""
    if _asks(task):
        return list(_ANSWERABLE)
    return [*task.labels, "none"] if task.kind != "regression" else [f"group {number}" for number in range(GROUPS)]


def _asks(task: Task) -> bool:
    return task.kind == "question_answering"


def _check(task: Task, name: str, examples: Examples) -> None:
    if _asks(task) and len(examples):
        if not answerable(examples.targets).any():
            raise UserError(f"{name}: none of its {len(examples)} questions has an answer; check `label`")
        return
    present = np.unique(examples.targets, axis=0)
    if not len(present):
        raise UserError(f"{name}: no examples; check the source, and `bins` if the task has them")
    if len(present) == 1:
        (value,) = present
        if task.kind == "single_label":
            what = f"label {task.labels[value]!r}"
        elif task.kind == "multi_label":
            what = f"labels {[label for label, has in zip(task.labels, value, strict=True) if has]}"
        else:
            what = f"value {value}"
        raise UserError(f"{name}: all {len(examples)} examples have the {what}; nothing to tell apart")


def _per_label(task: Task, examples: Examples) -> list[int]:
    """Return the number of examples of every label; empty for kinds without labels."""
    if task.kind in ("regression", "question_answering"):
        return []
    if task.kind == "multi_label":
        of_label: list[int] = examples.targets.sum(0).tolist()
        return of_label
    counts: list[int] = np.bincount(examples.targets, minlength=len(task.labels)).tolist()
    return counts


def _absent(task: Task, splits: dict[str, Examples]) -> list[str]:
    """Return a warning for every declared label that is missing in a split."""
    counts = {name: _per_label(task, examples) for name, examples in splits.items()}
    found = []
    for position, label in enumerate(task.labels):
        lacking = [name for name in splits if not counts[name][position]]
        if lacking:
            held = ", ".join(f"{name} {counts[name][position]}" for name in splits)
            found.append(f"label {label!r} has no example in {', '.join(lacking)} (examples: {held})")
    return found


def _write(examples: Examples, path: Path) -> None:
    """Write a split, a few thousand rows at a time."""
    tables = examples.tables()
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in chain((first,), tables):
            writer.write_table(table)


def _counts(task: Task, examples: Examples) -> dict[str, Any]:
    if _asks(task):
        numbers = np.bincount(answerable(examples.targets), minlength=2).tolist()
        return {"examples": len(examples), "labels": dict(zip(_ANSWERABLE, numbers, strict=True))}
    counts = {"examples": len(examples), "labels": dict(zip(task.labels, _per_label(task, examples), strict=True))}
    if task.kind != "regression":
        return counts
    bounds = {"least": float(examples.targets.min()), "most": float(examples.targets.max())}
    return {"examples": len(examples), "values": {**_moments(examples), **bounds}}


def _moments(examples: Examples) -> dict[str, float]:
    """Return mean and standard deviation of the values of regression."""
    return {"mean": float(examples.targets.mean()), "deviation": float(examples.targets.std())}


def _known(splits: dict[str, Examples], test: str, of: Callable[[Examples], Any]) -> int:
    """Count the test examples whose text (or pair), or whose group, is also in the training or validation split."""
    known = np.concatenate([of(splits[name]) for name in ("train", "validation")])
    return int(np.isin(of(splits[test]), known).sum())


def _known_texts(splits: dict[str, Examples], leaked: dict[str, int]) -> list[str]:
    return [
        f"{name}: {count} of {len(splits[name])} texts are also in the training data"
        for name, count in leaked.items()
        if count
    ]


def _known_groups(task: Task, splits: dict[str, Examples], tests: Sequence[str]) -> list[str]:
    """Return a warning for every test set with groups that are also in the training or validation split."""
    if task.split_by is None:
        return []
    counts = {name: _known(splits, name, lambda part: part.keys) for name in tests}
    return [
        f"{name}: {count} of {len(splits[name])} examples are of groups (column {task.split_by!r}) that are also in the"
        " training data"
        for name, count in counts.items()
        if count
    ]
