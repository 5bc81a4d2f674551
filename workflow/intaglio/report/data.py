"""The description of data: of a study's tasks, for its report, and of one task, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intaglio import schemas
from intaglio.errors import UserError, nearest
from intaglio.planning.plan import make_plan
from intaglio.report.display import Display, tabulate, to_markdown
from intaglio.report.formatting import NOTHING, counted, measured, number, percent
from intaglio.store import MANIFEST
from intaglio.study.load import read
from intaglio.tokens.description import description_rows

_Row = Mapping[str, Any]
# With more classes than this, only the smallest and the largest are named.
_NAMED = 8
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_NOTE = (
    "Duplicates: examples whose text occurred before in their split. In training: texts that are also in the training "
    "or validation split. Tokens: of whole texts, special ones included. Lengths: their histogram, {bins} "
    "tokens. Cut: texts longer than max_length. Unknown: tokens that stand for what is not in the vocabulary. Capitals "
    "lost: words with capitals that the tokenizer reads as in small letters, among all words with capitals. Words and "
    "tokens are counted in at most 20,000 examples of a split, evenly spaced."
)


def show_data(title: str, rows: Sequence[_Row]) -> Display:
    """Return the table of data, from rows of descriptions.parquet."""
    if not rows:
        return Display(title, [], [], frozenset(), ["Nothing to show yet: no data was described."])
    splits: dict[tuple[str, str, str], list[_Row]] = {}
    for row in rows:
        splits.setdefault((row["task"], row["model"], row["split"]), []).append(row)
    described = [_of_split(*key, facts) for key, facts in splits.items()]
    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "split": lambda row: row["split"],
        "examples": _count("examples"),
        "classes, %": lambda row: row["classes"],
        "values": lambda row: row["values"],
        "duplicates": _count("duplicates"),
        "in training": _count("in_training"),
        "stop words, %": lambda row: percent(row.get("stop_words")),
        "tokens, median": _count("tokens_median"),
        "tokens, 95 % quantile": _count("tokens_p95"),
        "tokens, longest": _count("tokens_longest"),
        "lengths": lambda row: row["lengths"],
        "cut, %": lambda row: percent(row.get("truncated")),
        "unknown, %": lambda row: percent(row.get("unknown")),
        "capitals lost, %": lambda row: percent(row.get("capitals_lost")),
    }
    table = tabulate(title, cells, described, {"task", "model", "split", "classes, %", "values", "lengths"})
    bins = [row["item"] for row in rows if row["measure"] == "length"]
    notes = [_NOTE.format(bins=f"{bins[0]}, {bins[1]}, ...")] if bins else []
    if "values" in table.columns:
        notes.insert(0, "Values: mean ± standard deviation, and the range.")
    return Display(table.title, table.columns, table.rows, table.numbers, notes)


def _of_split(task: str, model: str, split: str, facts: Sequence[_Row]) -> dict[str, Any]:
    """Return the facts of a split by name, its classes and lengths as text."""
    row: dict[str, Any] = {"task": task, "model": model, "split": split}
    row |= {fact["measure"]: fact["value"] for fact in facts if fact["item"] is None}
    counts, targets = (
        {fact["item"]: fact["value"] for fact in facts if fact["measure"] == measure} for measure in ("class", "target")
    )
    row["classes"] = _classes(counts, row["examples"]) if counts else NOTHING
    row["values"] = _values(targets) if targets else NOTHING
    row["lengths"] = _bars([fact["value"] for fact in facts if fact["measure"] == "length"]) or NOTHING
    return row


def _classes(counts: Mapping[str, float], examples: float) -> str:
    shares = {label: percent(count / max(examples, 1)) for label, count in counts.items()}
    if len(shares) > _NAMED:
        few, most = (find(counts, key=lambda label: counts[label]) for find in (min, max))
        return f"{len(shares)} classes, from {few} {shares[few]} to {most} {shares[most]}"
    return ", ".join(f"{label} {share}" for label, share in shares.items())


def _values(found: Mapping[str, float]) -> str:
    least, most = (number(found[end]) if found[end] else "0" for end in ("least", "most"))
    return f"{measured(found['mean'], found['deviation'])}, {least} to {most}"


def _bars(counts: Sequence[float]) -> str:
    """Return a histogram as a text: one character for each count, up to the last that is not zero."""
    heights = [0 if not count else max(1, round(8 * count / max(counts))) for count in counts]
    return "".join(_HEIGHTS[height] for height in heights).rstrip()


def _count(name: str) -> Any:
    return lambda row: counted(row.get(name))


def described(source: Path, task: str | None, model: Path | None, max_length: int) -> str:
    """Return the description of a task of a study file, or of a [data] artifact, as a Markdown table.

    Raises:
        UserError: as `describe_task`; or a study file comes without the name of a task.
    """
    if task is not None:
        return to_markdown(describe_task(source, task))
    if not source.is_dir():
        raise UserError(f"{source}: name the task to describe behind the study file")
    return to_markdown(describe_data(source, model, max_length))


def describe_data(data: Path, model: Path | None, max_length: int) -> Display:
    """Return the table of a [data] artifact; without a model's folder, nothing about tokens."""
    rows = description_rows(data, model, max_length)
    name = NOTHING if model is None else model.name
    return show_data(f"Data of {data.name}", [{"task": data.name, "model": name, **row} for row in rows])


def describe_task(file: Path, task: str) -> Display:
    """Return the table of a task of a study file, for each of its models.

    Raises:
        UserError: the study has no such task, or its data or a model is not prepared yet.
    """
    plan = make_plan(read(file))
    if task not in plan.study.tasks:
        raise UserError(f"{file}: no task {task!r}, {nearest(task, plan.study.tasks)}")
    rows: list[_Row] = []
    for model, folder in {run.model: Path(run.description) for run in plan.runs if run.task == task}.items():
        needed = plan.jobs["describe"][folder.name].inputs
        if (folder / MANIFEST).is_file():
            found = schemas.read_table(folder / "description.parquet", schemas.DESCRIPTION).to_pylist()
        elif all((Path(path) / MANIFEST).is_file() for path in needed.values()):
            found = description_rows(Path(needed["data"]), Path(needed["model"]), plan.study.max_length)
        else:
            run = f"snakemake --cores 1 --configfile {file} {folder}"
            raise UserError(f"{task}: its data or the model {model} is not prepared yet; run `{run}` first")
        rows += [{"task": task, "model": model, **row} for row in found]
    return show_data(f"Data of {task}", rows)
