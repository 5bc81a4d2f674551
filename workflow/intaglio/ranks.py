"""Ranks: the processes of one training, each of which computes its share of every batch (distributed data parallel).

All of them run the same program and decide the same at the same steps; the first one alone writes files and speaks.
They are started by srun or torchrun (see `allocation.ranks_started`). Alone, a process does nothing of what is here.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from intaglio.allocation import Preempted, ranks_started
from intaglio.errors import UserError

T = TypeVar("T")

# How long the first to arrive waits for the others, and how long ranks wait for the first one, which may wait for
# another process that owns their folder of work.
_ARRIVAL, _PATIENCE = timedelta(minutes=5), timedelta(days=30)
# What torch says when another process has closed its connection.
_LOST = re.compile(r"gloo/transport|Connection (closed|reset) by peer|remote process exited")
_WORD = "word"


def size() -> int:
    """Return the number of processes of this training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that writes files, alone or the first of several."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Work as one of the processes that were started together for a training; if one ends early, all end.

    Within this context only the first one writes to the screen.

    Raises:
        UserError: another process found a mistake in the input; or srun started this one, and there is no submitit.
        SystemExit: another process has ended, which a line in the log says.
    """
    rank, processes = ranks_started()
    if processes == 1:
        yield
        return
    store, leaving = _meet(rank), None
    with ExitStack() as quiet:
        if rank:
            nowhere = quiet.enter_context(Path(os.devnull).open("w"))
            quiet.enter_context(redirect_stdout(nowhere))
            quiet.enter_context(redirect_stderr(nowhere))
        try:
            try:
                yield
            except Preempted as request:
                # All of them leave.
                leaving = request
            # None leaves before all are done.
            any_of(False)
        except Exception as error:
            quiet.close()
            raise _end(store, error) from (None if _LOST.search(str(error)) else error)
    distributed.destroy_process_group()
    if leaving is not None:
        raise leaving


def _end(store: Store, error: Exception) -> BaseException:
    """Return with what to end after an error, of this process or because another one has ended."""
    rank, of_input = distributed.get_rank(), isinstance(error, UserError)
    first = _first_word(store, None if _LOST.search(str(error)) else [rank, socket.gethostname(), str(error), of_input])
    if first is None:
        _say(f"another of the {size()} processes of this training has ended (out of memory?), and so does this one")
        return SystemExit(1)
    whose, host, said, of_input = first
    if rank == whose or not _LOST.search(str(error)):
        # What is wrong in the input is told by the first process.
        return SystemExit(2) if of_input and rank else error
    if of_input:
        return UserError(said) if rank == 0 else SystemExit(2)
    if rank == 0:
        _say(f"process {whose + 1} of {size()}, on {host}, has ended, and so do the others: {said}")
    return SystemExit(1)


def _first_word(store: Store, own: list[Any] | None) -> list[Any] | None:
    """Return the first of the words that processes leave when they end with an error; None if there is none."""
    if own is not None and own[0] == 0:
        # It keeps the store.
        return own
    try:
        found: list[Any] | None = json.loads(store.compare_set(_WORD, "", json.dumps(own)))
    except RuntimeError:
        return own
    return found


def _say(line: str) -> None:
    """Write to the screen and the log from any process."""
    print(line, file=sys.__stderr__, flush=True)


def _meet(rank: int) -> Store:
    """Find the other processes; return the store that all see."""
    if "RANK" not in os.environ:
        _export_environment()
    # accelerate would choose other numbers of threads for several processes than for one.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        # Some clusters show each process of a node only a GPU of its own.
        local = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        os.environ["LOCAL_RANK"] = str(local)
        torch.cuda.set_device(local)
    try:
        store, _, processes = next(rendezvous("env://", timeout=_ARRIVAL))
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        _say(f"the {os.environ['WORLD_SIZE']} processes of this training do not find each other at {address}: {error}")
        raise SystemExit(1) from None
    # Decisions are made between CPUs, gradients summed between GPUs.
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=_PATIENCE)
    return PrefixStore("intaglio", store)


def _export_environment() -> None:
    """Set the variables that torch wants, for a process that srun has started."""
    try:
        from submitit.helpers import TorchDistributedEnvironment
    except ImportError:
        raise UserError(
            "a training of several processes under srun needs submitit: pip install submitit, or start it by torchrun"
        ) from None
    os.environ["SUBMITIT_EXECUTOR"] = "slurm"
    # Not the job's number alone: a job may have several such steps.
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    os.environ.setdefault("MASTER_PORT", str(random.Random(step).randint(20000, 60000)))
    # Which GPUs are visible is SLURM's business.
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def from_first(make: Callable[[], T]) -> T:
    """Return what the first process makes; the others wait for it."""
    if size() == 1:
        return make()
    made: list[Any] = [make() if is_first() else None]
    distributed.broadcast_object_list(made, src=0)
    found: T = made[0]
    return found


@contextmanager
def entered_by_first(context: AbstractContextManager[T]) -> Iterator[T]:
    """Enter a context in the first process; yield its value in all."""
    with ExitStack() as entered:
        yield from_first(lambda: entered.enter_context(context))


def any_of(flag: bool) -> bool:
    """Return whether a flag is true in any process."""
    if size() == 1:
        return flag
    flags = torch.tensor(int(flag))
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def total(x: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes."""
    if size() > 1:
        x = x.clone()
        distributed.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes."""
    return x if size() == 1 else total(x) / size()


def from_all(value: T) -> list[T]:
    """Return the values of all processes, by their numbers."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    distributed.all_gather_object(found, value)
    return found


def agree(tensors: Iterable[Tensor]) -> None:
    """Set tensors to those of the first process."""
    if size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), 0)


def seed(*numbers: int) -> None:
    """Seed torch's random numbers, other ones in each process, by some numbers."""
    own = (*numbers, 0 if is_first() else distributed.get_rank())
    torch.manual_seed(int(np.random.SeedSequence(own).generate_state(1, np.uint64)[0]))


def share_of(collate: Callable[[Sequence[Any]], dict[str, Tensor]], rows: Sequence[Any]) -> dict[str, Tensor]:
    """Return this process's share of a batch, in which rows of similar lengths are neighbors.

    A process without a share gets a row without a label, whose loss is zero: it takes part in the sum of gradients.

    Args:
        collate: makes tensors of rows, with `labels`.
        rows: of the whole batch.
    """
    mine = rows[distributed.get_rank() :: size()]
    batch = collate(mine or rows[:1])
    if not mine:
        batch["labels"] = batch["labels"][:0]
    return batch
