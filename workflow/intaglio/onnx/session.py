"""ONNX Runtime sessions, all opened in the same way.

This module does not import torch: a process that only runs a file does not need the memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.errors import UserError
from intaglio.onnx.options import session_options
from intaglio.onnx.signed import signed_is_exact, with_signed_weights
from intaglio.store import open_artifact

if TYPE_CHECKING:
    import onnxruntime

MODEL, RECORD = "model.onnx", "export.json"


def open_session(where: Path, threads: int, as_stored: bool = False) -> onnxruntime.InferenceSession:
    """Open an exported model on the CPU.

    Args:
        where: an [export] artifact, or an ONNX file.
        threads: number of threads within an operator.
        as_stored: keep weights as stored, even if this CPU has a faster way to the same results.

    Raises:
        UserError: the artifact or the file is damaged, or ONNX Runtime is not installed.
    """
    if where.is_dir():
        open_artifact(where, "export")
    path = where / MODEL if where.is_dir() else where
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: needs onnxruntime, which is not installed; pip install onnxruntime") from error
    if not path.is_file():
        raise UserError(f"{path}: no such file; export the checkpoint again")
    options = session_options(threads)
    try:
        model = str(path) if as_stored else _fast_on_this_cpu(path)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime and protobuf raise errors of many kinds; here they all mean that the file is not a model.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not an ONNX model that ONNX Runtime can run ({reason}); export again") from error


def _fast_on_this_cpu(path: Path) -> str | bytes:
    """Return the path, or the content with signed weights if these are exact on this CPU."""
    if _is_float(path) or not signed_is_exact():
        return str(path)
    import onnx

    model = onnx.load(path)
    if not with_signed_weights(model):
        return str(path)
    content: bytes = model.SerializeToString()
    return content


def _is_float(path: Path) -> bool:
    """Return whether the record beside the file says that all its products are in floating point."""
    record = path.with_name(RECORD)
    if not record.is_file():
        return False
    facts = json.loads(record.read_text())
    return not facts["integer"] and facts.get("int8") in (None, "weights")
