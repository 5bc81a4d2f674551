"""OpenVINO models, all opened in the same way.

This module does not import torch: a process that only runs a file does not need the memory.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from intaglio.errors import UserError

# A model in OpenVINO's own format, whose weights are in a second file.
IR, IR_WEIGHTS = "model.xml", "model.bin"
# Processors for which OpenVINO has kernels.
_PROCESSORS = ("x86_64", "amd64", "arm64", "aarch64")


class UnsupportedModelError(UserError):
    """OpenVINO cannot run a model, for example because of an operator that it does not know."""


def missing_openvino() -> str | None:
    """Return what this machine lacks to run OpenVINO, in words; None if nothing."""
    if platform.machine().lower() not in _PROCESSORS:
        return f"no processor that OpenVINO supports ({platform.machine()})"
    return None if find_spec("openvino") else "no OpenVINO (pip install openvino)"


def import_openvino() -> Any:
    """Import OpenVINO with its telemetry off, and return it; NNCF that is imported afterwards sends nothing either.

    Raises:
        UserError: it is not installed.
    """
    # Both report their use over the network, but go without if they cannot import what reports.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError("OpenVINO is not installed; pip install openvino") from error
    return openvino


class _SignalStack(ctypes.Structure):
    """stack_t of Linux: where a thread's signal handlers run."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Keep the stack of this thread's signal handlers.

    OpenVINO gives the thread another one for each of its cores, and puts back the one before when a core ends. If cores
    do not end in the reverse order, that is the stack of a core that is gone, and the next signal ends the process.
    """
    exchange = getattr(ctypes.CDLL(None), "sigaltstack", None)
    before = _SignalStack()
    if exchange is not None:
        exchange(None, ctypes.byref(before))
    try:
        yield
    finally:
        if exchange is not None:
            exchange(ctypes.byref(before), None)


def compiled_model(file: Path, threads: int, precision: str = "f32", counters: bool = False) -> Any:
    """Open a model on the CPU.

    Args:
        file: a file in OpenVINO's format, or an ONNX file, in which OpenVINO also knows operators of ONNX Runtime.
        threads: number of threads.
        precision: `f32` or `bf16`, in which floating-point operations are computed.
        counters: measure the time of every operator, which slows all of them.

    Returns:
        A compiled model of any batch size and length.

    Raises:
        UnsupportedModelError: OpenVINO cannot run it.
        UserError: OpenVINO is not installed, or there is no such file.
    """
    openvino = import_openvino()
    if not file.is_file():
        raise UserError(f"{file}: no such file; export the checkpoint again")
    # Without a precision, OpenVINO takes bf16 where the processor has it.
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "PERF_COUNT": counters,
    }
    try:
        with kept_signal_stack():
            return openvino.Core().compile_model(str(file), "CPU", options)
    except RuntimeError as error:
        # Its messages have many lines; the last ones tell what is wrong, the first where in its source.
        reason = ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
        raise UnsupportedModelError(f"{file}: OpenVINO cannot run it ({reason})") from error


def input_names(file: Path) -> list[str]:
    """Return the names of a model's inputs."""
    return [given.any_name for given in import_openvino().Core().read_model(file).inputs]
