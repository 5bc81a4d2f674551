"""The memory of large tensors on a CPU, kept between the operations of a training."""

from __future__ import annotations

import ctypes
from contextlib import suppress

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
