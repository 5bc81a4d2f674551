"""Text files, compressed ones too."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from intaglio.errors import UserError

# By suffix: the name of the compression, and a function that opens a file. `suffixes` lists them.
_OPENERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    ".gz": ("gzip", gzip.open),
    ".bz2": ("bzip2", bz2.open),
    ".xz": ("xz", lzma.open),
    ".zst": ("zstd", lambda path: io.BufferedReader(pa.input_stream(path, compression="zstd"))),
}
# OSError: of gzip, of Arrow, and of the file system; the others are those of the libraries for damaged content.
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
# Number of bytes that are checked at once.
_BLOCK = 1 << 20


def open_text(path: Path, name: str) -> IO[str]:
    """Open a text file in UTF-8, compressed if its suffix says so, after checking that all of it can be decoded.

    Raises:
        UserError: the file is not text in UTF-8, or not readable.
    """
    compression, opener = _OPENERS.get(path.suffix.lower(), ("", lambda path: path.open("rb")))
    try:
        with opener(path) as raw:
            sound = _is_text(raw)
        if not sound:
            with opener(path) as raw:
                _check_lines(raw, name)
    except _DAMAGED as error:
        kind = f" as {compression}" if compression else ""
        raise UserError(f"{name}: not readable{kind} ({error}); is the file whole?") from error
    return io.TextIOWrapper(opener(path), encoding="utf-8-sig", newline="")


def _is_text(raw: IO[bytes]) -> bool:
    """Return whether a file is UTF-8 without zero bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while block := raw.read(_BLOCK):
            decoder.decode(block)
            if b"\0" in block:
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _check_lines(raw: IO[bytes], name: str) -> None:
    """Raise a UserError that names the first line that is not UTF-8, or holds a zero byte."""
    for line, content in enumerate(raw, start=1):
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {line}: not UTF-8; convert the file, as in `iconv -f ENCODING -t UTF-8 OLD > NEW`"
            ) from error
        if b"\0" in content:
            raise UserError(
                f"{name}, line {line}: a zero byte, which no text holds; is the file damaged, UTF-16 or of another"
                " format?"
            )
