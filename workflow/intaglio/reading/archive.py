"""Members of package archives: wheels and zip files, tar files of any compression, and archives within archives."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from intaglio.errors import UserError, nearest

NESTED = "::"
# What the libraries of archives and their compressions raise for damaged or encrypted content.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[str], Callable[[str], IO[bytes]]]]:
    """Yield the names of an archive's regular files and a function that opens one of them."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            yield [info.filename for info in wheel.infolist() if not info.is_dir()], wheel.open
    elif _is_tar(archive):
        with tarfile.open(archive) as tar:
            members = {member.name.removeprefix("./"): member for member in tar if member.isfile()}

            def open_member(name: str) -> IO[bytes]:
                stream = tar.extractfile(members[name])
                assert stream is not None, "only regular files are listed"
                return stream

            yield list(members), open_member
    else:
        raise UserError(f"{archive.name}: neither a zip nor a tar archive, or a damaged one; fetch it again")


def _is_tar(archive: Path) -> bool:
    try:
        return tarfile.is_tarfile(archive)
    except _DAMAGED:
        return False


def _known(names: list[str]) -> set[str]:
    """Return the files and all their parent folders."""
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return (set(names) | folders) - {"."}


def extract(archive: Path, path: str, folder: Path) -> Path:
    """Copy a file or a folder from an archive into a folder; return its new path.

    Args:
        archive: the archive's file.
        path: the member to copy; `inner.tar.gz::member` is a member of a nested archive, at any depth.
        folder: destination; only the member itself is written, and nothing outside of this folder.

    Raises:
        UserError: the file is not an archive, has no such member, or the member would be written outside of the folder.
    """
    outer, _, inner = path.partition(NESTED)
    outer = outer.strip("/")
    target = folder / PurePosixPath(outer).name
    try:
        _copy(archive, outer, target)
    except _DAMAGED as error:
        raise UserError(f"source: {archive.name}: cannot be unpacked ({error}); fetch it again") from error
    return extract(target, inner, folder / f"{target.name}.members") if inner else target


def _copy(archive: Path, outer: str, target: Path) -> None:
    """Copy a member, or all below it, to a file or folder."""
    with _opened(archive) as (names, open_member):
        wanted = [name for name in names if name == outer or name.startswith(outer + "/")]
        if not wanted:
            raise UserError(f"source: {archive.name} has no member {outer!r}, {nearest(outer, _known(names))}")
        for name in wanted:
            member = PurePosixPath(name)
            if member.is_absolute() or ".." in member.parts:
                raise UserError(f"source: {archive.name}: member {name!r} points outside of the archive; do not use it")
            copy = target / member.relative_to(outer)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with open_member(name) as stream, copy.open("wb") as file:
                shutil.copyfileobj(stream, file)
