"""Single operators of the native library, for products in training and inference by torch, and for tests."""

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.native.runner import library


class PackedProduct:
    """A product with an int8 weight.

    Args:
        weight: int8 [out, in], magnitude at most 127.
        bias: int32 [out].
        threads: number of threads; those of torch, where torch is loaded.
        instructions: as in `NativeModel`.
        library_file: the library.

    Raises:
        ValueError: the processor lacks the instruction set.
    """

    def __init__(
        self, weight: NDArray[np.int8], bias: NDArray[np.int32], threads: int, instructions: str, library_file: Path
    ) -> None:
        self._library = library(library_file)
        weight, bias = np.ascontiguousarray(weight, np.int8), np.ascontiguousarray(bias, np.int32)
        self.outputs, self.inputs = weight.shape
        places = weight.ctypes.data, bias.ctypes.data, self.inputs, self.outputs
        self._product = self._library.product(instructions.encode(), threads, _openmp_of_torch(), *places)
        if not self._product:
            raise ValueError(self._library.said())
        weakref.finalize(self, self._library.product_free, self._product)

    def __call__(self, x: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return `x @ weight.T + bias`, integers carried by float32 [rows, out], of int8 [rows, in]."""
        x = np.ascontiguousarray(x, np.int8)
        result = np.empty((len(x), self.outputs), np.float32)
        self.into(x.ctypes.data, len(x), result.ctypes.data)
        return result

    def into(self, x: int, rows: int, result: int) -> None:
        """Do the same for contiguous memory, given by addresses."""
        if self._library.multiply(self._product, x, rows, result):
            raise ValueError(self._library.said())


@cache
def _openmp_of_torch() -> int | None:
    """Return the address of GOMP_parallel in the OpenMP library that torch uses; None without torch, or if it has none.

    A process can hold several: scikit-learn and sentencepiece bring a copy each. Threads of two pools compete, for they
    spin after each of their regions, so only that of torch's own operators will do. The symbol is looked up as for
    torch itself: in libtorch_cpu and in what it is linked to.
    """
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    loaded = [line.split(maxsplit=5)[-1] for line in lines if "libtorch_cpu" in line]
    parallel = getattr(ctypes.CDLL(loaded[0]), "GOMP_parallel", None) if loaded else None
    return parallel and ctypes.cast(parallel, ctypes.c_void_p).value


def native_softmax(
    scores: NDArray[np.int32], constants: tuple[int, int, int, int], instructions: str, library_file: Path
) -> NDArray[np.uint8]:
    """Return integer softmax over the last dimension, uint8 of the shape of `scores` [rows, keys].

    `constants` are down, top, multiplier and shift of `intaglio.arithmetic.softmax.DistanceScale`.
    """
    result = np.empty(scores.shape, np.uint8)
    given = np.array(constants, np.int32)
    found = library(library_file)
    if found.softmax(instructions.encode(), given.ctypes.data, scores.ctypes.data, *scores.shape, result.ctypes.data):
        raise ValueError(found.said())
    return result


def native_layer_norm(
    x: NDArray[np.int32],
    gamma: NDArray[Any],
    beta: NDArray[Any],
    guards: NDArray[np.int64],
    short_shift: int,
    instructions: str,
    library_file: Path,
) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Return integer LayerNorm of rows, int32 [rows, width], and its 8 bits; arguments as in `NormConstants`."""
    wide, narrow = np.empty(x.shape, np.int32), np.empty(x.shape, np.int8)
    gamma, beta = gamma.astype(np.int32), beta.astype(np.int32)
    found = library(library_file)
    affine = gamma.ctypes.data, beta.ctypes.data, guards.ctypes.data, short_shift
    places = x.ctypes.data, *x.shape, wide.ctypes.data, narrow.ctypes.data
    if found.norm(instructions.encode(), *affine, *places):
        raise ValueError(found.said())
    return wide, narrow


def norm_for_training(
    x: NDArray[np.float32],
    gamma: NDArray[np.int32],
    beta: NDArray[np.int32],
    guards: NDArray[np.int64],
    threads: int,
    instructions: str,
    library_file: Path,
) -> tuple[NDArray[np.float32], ...]:
    """Return integer LayerNorm of rows and what its gradient needs, all float32; other arguments as in `NormConstants`.

    Args:
        x: integers [rows, width].
        threads, instructions, library_file: as in `PackedProduct`.

    Returns:
        Results [rows, width], NaN in rows that have one; shortened deviations [rows, width]; from these to normalized
        values [rows, 1]; the power of two by which they are shortened [rows, 1].
    """
    found = library(library_file)
    out = (np.empty_like(x), np.empty_like(x), np.empty((len(x), 1), np.float32), np.empty((len(x), 1), np.float32))
    constants = (given.ctypes.data for given in (gamma, beta, guards))
    places = (result.ctypes.data for result in out)
    pool = instructions.encode(), threads, _openmp_of_torch()
    if found.norm_for_training(*pool, *constants, x.ctypes.data, *x.shape, *places):
        raise ValueError(found.said())
    return out
