"""The tables of a task: which files of a source belong to which split."""

from __future__ import annotations

import re
from pathlib import Path

from intaglio.errors import UserError, nearest
from intaglio.reading.archive import extract
from intaglio.reading.raw_table import RawTable
from intaglio.reading.read import read_raw_table
from intaglio.reading.squad import read_squad
from intaglio.store import open_artifact
from intaglio.study.sources import FilesSource, HubSource, PackageSource
from intaglio.study.task import Task

# Both layouts of hub repositories: `train-00000-of-00002.parquet` (some end in a hash) and `train/0000.parquet`.
_SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-(?P<shards>\d+)(-[0-9a-f]+)?)?\.parquet")


def read_source(task: Task, source: Path | None, work: Path) -> dict[str, RawTable]:
    """Read all data of a task.

    Args:
        task: the task.
        source: the `source` artifact; None if the task names the user's own files.
        work: an empty folder for extracted files.

    Returns:
        Tables by split, first `train`, then the test sets (`test`, or several `test_NAME`) if the source has any.

    Raises:
        UserError: the artifact or a file of it is missing, damaged or malformed, or lacks a split.
    """
    origin = task.source
    if isinstance(origin, FilesSource):
        return {split: _read(task, [Path(path).expanduser()], path) for split, path in _own_files(origin).items()}
    if source is None:
        raise UserError(f"source: kind {origin.kind!r} must be fetched first; give the fetched folder with --source")
    open_artifact(source, "source")
    if isinstance(origin, PackageSource):
        return {"train": _read(task, [_member(origin, source, work)], origin.path)}
    return _read_hub(task, origin, source)


def _read(task: Task, paths: list[Path], name: str) -> RawTable:
    if task.kind == "question_answering" and ".json" in paths[0].suffixes and paths[0].is_file():
        table = read_squad(paths[0], name)
        if table is not None:
            return table
    return read_raw_table(paths, name, task.columns, task.delimiter, task.quotes)


def _own_files(origin: FilesSource) -> dict[str, str]:
    if origin.train is None:
        raise UserError("source: files need `train`, the training data")
    if origin.test is None:
        return {"train": origin.train}
    if isinstance(origin.test, str):
        return {"train": origin.train, "test": origin.test}
    return {"train": origin.train, **{f"test_{name}": path for name, path in origin.test.items()}}


def archive_of(source: Path) -> Path:
    """Return the archive in the `source` artifact of a package."""
    return source / str(open_artifact(source, "source")["archive"])


def _member(origin: PackageSource, source: Path, work: Path) -> Path:
    member = extract(archive_of(source), origin.path, work)
    if member.is_dir():
        known = sorted(path.name for path in member.iterdir())
        raise UserError(f"source: path {origin.path!r} is a folder; name a file in it, one of {', '.join(known)}")
    return member


def _read_hub(task: Task, origin: HubSource, source: Path) -> dict[str, RawTable]:
    tables = {}
    for split, theirs in sorted(task.splits.items(), key=lambda item: item[0] != "train"):
        paths = _shards(origin, source, theirs)
        tables[split] = _read(task, paths, f"{origin.repo} {paths[0].relative_to(source)}")
    return tables


def _shards(origin: HubSource, source: Path, split: str) -> list[Path]:
    """Return the Parquet files of a split, in order; incomplete sets are refused, as data would be missing silently."""
    folders = (path for path in sorted(source.rglob(origin.config)) if path.is_dir()) if origin.config else iter(())
    root = next(folders, source)
    found: dict[str, list[Path]] = {}
    announced: dict[str, int] = {}
    for path in sorted(root.rglob("*.parquet")):
        match = _SHARD.fullmatch(path.name)
        name = path.parent.name if match is None or match["split"].isdigit() else match["split"]
        found.setdefault(name, []).append(path)
        if match is not None and match["shards"]:
            announced[name] = int(match["shards"])
    where = f"{origin.repo}{f' ({origin.config})' if origin.config else ''} at revision {origin.revision}"
    if split not in found:
        raise UserError(f"splits: {where} has no split {split!r}, {nearest(split, found)}")
    if len(found[split]) != announced.get(split, len(found[split])):
        raise UserError(
            f"{where}: split {split!r} has {len(found[split])} of {announced[split]} files; delete {source} and"
            " fetch again"
        )
    return found[split]
