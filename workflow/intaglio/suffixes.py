"""What the suffixes of data files tell."""

from __future__ import annotations

from pathlib import Path

# Suffixes of compressed text files, which are read as they are.
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def data_suffix(path: Path) -> str:
    """Return the suffix that decides how a data file is read: `.csv`, or `.csv.gz` if it is compressed."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix in COMPRESSIONS else suffix
