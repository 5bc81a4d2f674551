"""The same computation for many inputs, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from intaglio.errors import UserError
from intaglio.quota import usable_cores

Given = TypeVar("Given")
Found = TypeVar("Found")


def in_processes(compute: Callable[[Given], Found], inputs: Sequence[Given], alone: bool) -> Iterator[Found]:
    """Yield what a function returns for each input, in their order; few results wait in memory at a time.

    Args:
        compute: a function that other processes can import, or a `functools.partial` of one.
        inputs: its inputs, which are sent to the processes.
        alone: whether to compute all of it in this process: starting others takes some seconds.

    Raises:
        UserError: as `compute`; or a process was killed.
    """
    workers = min(usable_cores(), len(inputs))
    if alone or workers < 2:
        yield from map(compute, inputs)
        return
    waiting: deque[Future[Any]] = deque()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for given in inputs:
                waiting.append(pool.submit(compute, given))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("a process was killed (for lack of memory?); run it again with more memory") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
