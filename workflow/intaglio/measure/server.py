"""The process from which those that measure memory are forked: it imports torch once for all of them.

This module imports nothing, so that the server can import while its caller does.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def start() -> ForkServerContext:
    """Start the server, unless it runs already; return the context of its processes."""
    # Not forked from the caller: a fork inherits its memory, and OpenMP does not survive it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["intaglio.measure.preloaded"])
    forkserver.ensure_running()
    return context
