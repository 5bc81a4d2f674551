"""Calls of several models in turns, so that what changes on the machine meanwhile changes them all."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from intaglio.heap import no_garbage_collection
from intaglio.measure.disturbance import Watch

Call = Callable[[], Any]
# Before its timed call, a model has this many seconds for itself: it makes untimed calls, or waits if a call is long.
# Threads of the one before spin for some milliseconds more, caches are full of its weights, and cores that were idle
# are slow at first. On two cores of an AMD EPYC (Zen 4), ONNX Runtime took 25.6 ms for MiniLM at 1 x 128 alone, 33.0 ms
# right after a call of torch, whose threads (OpenMP) go on spinning, and 27.1 ms after 10 ms of its own calls. On two
# of another (Zen 3), Intaglio's library took 6.4 ms at 1 x 32 after one call of its own, and 4.2 ms after 20 to 30 ms.
# OMP_WAIT_POLICY=PASSIVE would end the spinning, and make torch slower than users have it.
ALONE = 0.02
# Seconds of a call from which on caches and 20 ms of the past make no difference: the model waits instead.
LONG = 0.1


@torch.inference_mode()
def in_rounds(
    calls: Sequence[Call], device: str, warmup: int, rounds: int, watch: Watch, seed: int = 0
) -> list[list[float]]:
    """Return the wall-clock time of each call in ms, from its start until its result is available, by round.

    Every round calls each model once, in a new random order, so none always follows the same one.

    Args:
        calls: the models, each with its inputs.
        device: cpu or cuda.
        warmup: number of calls of each model before timing.
        rounds: number of timed calls of each model.
        watch: measures the use of the cores by other processes meanwhile.
        seed: of the orders.
    """
    wait: Call = torch.cuda.synchronize if device == "cuda" else lambda: None
    usual = [_warmed_up(call, wait, warmup) for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    order, chance = list(range(len(calls))), random.Random(seed)
    # Garbage is collected before, and not during, timed calls.
    gc.collect()
    with no_garbage_collection(), watch.timing():
        for _ in range(rounds):
            chance.shuffle(order)
            for place in order:
                if len(calls) > 1:
                    _settle(calls[place], wait, usual[place])
                start = time.perf_counter_ns()
                calls[place]()
                wait()
                times[place].append((time.perf_counter_ns() - start) / 1e6)
    return times


def _warmed_up(call: Call, wait: Call, warmup: int) -> float:
    """Call a model so often; return the seconds of its last call."""
    for _ in range(warmup):
        wait()
        start = time.perf_counter()
        call()
        wait()
    return time.perf_counter() - start


def _settle(call: Call, wait: Call, usual: float) -> None:
    """Let the past of another model fade; `usual` is the duration of a call in seconds."""
    if usual >= LONG:
        time.sleep(ALONE)
        return
    end = time.perf_counter() + ALONE
    while time.perf_counter() < end:
        call()
        wait()
