"""The memory of this process: freed memory is kept, and garbage is not searched for, where either costs time."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Parameters of mallopt in <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where its C library is glibc's; elsewhere do nothing.

    By default glibc returns the memory of large tensors to the system, which clears every page of it before the next
    tensor can use it: a step of quantization-aware training then spends some 5 % of its time on that.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, _LARGEST)
        mallopt(_MMAP_MAX, 0)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Leave out Python's search for cycles of objects."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
