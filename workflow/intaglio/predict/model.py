"""The forms of a bundled model, each as a function from tokens to logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError, first_line
from intaglio.onnx.options import session_options
from intaglio.openvino.session import IR, compiled_model
from intaglio.predict.arguments import NATIVE, OPENVINO

GRAPH_FILE = "model.onnx"
_RUNNER = "runner.py"

# Maps the inputs by name, int64 [batch, length], to logits, float32 [batch, labels].
Form = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]


def open_form(folder: Path, form: str, inputs: Sequence[str], threads: int) -> Form:
    """Open a form of the model in a bundle.

    Args:
        folder: the bundle.
        form: one of `arguments.FORM_NAMES`.
        inputs: names of the graph's inputs.
        threads: number of threads.

    Raises:
        UserError: the form is not in the bundle, or does not run on this machine.
    """
    try:
        if form == NATIVE:
            return _native(folder / NATIVE, threads)
        return (_openvino if form == OPENVINO else _portable)(folder, inputs, threads)
    except ImportError as error:
        raise UserError(f"{folder}: needs {error.name}, which is not installed; pip install {error.name}") from error
    except Exception as error:
        # Loaders and ONNX Runtime raise errors of many kinds; here they all mean that the form does not run.
        raise UserError(f"{folder}: its form {form!r} does not run on this machine ({first_line(error)})") from error


def _native(folder: Path, threads: int) -> Form:
    # The file beside the library, which knows this library's functions.
    described = importlib.util.spec_from_file_location("intaglio_bundled_runner", folder / _RUNNER)
    assert described is not None and described.loader is not None
    runner: Any = importlib.util.module_from_spec(described)
    described.loader.exec_module(runner)
    model = runner.NativeModel(folder, threads)

    def run(given: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model(**given)
        return logits

    return run


def _portable(folder: Path, inputs: Sequence[str], threads: int) -> Form:
    import onnxruntime

    path = str(folder / GRAPH_FILE)
    session = onnxruntime.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])

    def run(given: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        (logits,) = session.run(["logits"], {name: given[name] for name in inputs})
        return np.asarray(logits)

    return run


def _openvino(folder: Path, inputs: Sequence[str], threads: int) -> Form:
    request = compiled_model(folder / IR, threads).create_infer_request()

    def run(given: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        # The next call writes into the same memory.
        return np.array(request.infer({name: given[name] for name in inputs})["logits"])

    return run
