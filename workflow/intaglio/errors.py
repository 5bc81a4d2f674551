"""The exception for mistakes that a user can correct, shown as one line and never as a traceback."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from typing import Any

# Characters of a value, and values of a list, that a message shows.
_SHOWN, _LISTED = 60, 40
# What torch says of a file that it could not write whole.
_CUT_SHORT = re.compile(r"inline_container.* unexpected pos")


class UserError(Exception):
    """An error message for the user: what is wrong, where, and what to do, in one line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the closest of the known names, as the end of an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:_SHOWN], names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    listed = [each if each.isprintable() and len(each) <= _SHOWN else shown(each) for each in names[:_LISTED]]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"known: {', '.join(listed)}{more}" if names else "none is known"


def shown(value: Any) -> str:
    """Return a value as messages show it: on one line, and cut if it is long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error message, or the error's name if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def of_the_user(error: Exception) -> str | None:
    """Return an error of the input, or of a full disk, as one line; None for an error of the program."""
    text = str(error)
    if _CUT_SHORT.search(text):
        text = os.strerror(errno.ENOSPC)
    for full in map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        # Libraries raise errors of their own with the text of the system's.
        if full in text:
            return f"{getattr(error, 'filename', None) or 'a file'} cannot be written: {full}; make room and run again"
    return str(error) if isinstance(error, UserError) else None
