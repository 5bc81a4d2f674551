"""The native form of an integer model: its constants, the native library, and the file that runs them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.execution.native import write_constants
from intaglio.export.parity import Batch, Limit, head_input_of, logits_of, text_differences
from intaglio.native import runner
from intaglio.native.build import built

_log = logging.getLogger(__name__)


def add_native_form(checkpoint: Path, encoder: Encoder, folder: Path, limit: Limit, batches: list[Batch]) -> None:
    """Write a folder with which the encoder runs on a machine that has NumPy and no compiler.

    It is left out, with a warning, if the library is missing and cannot be compiled.

    Args:
        checkpoint: for messages.
        encoder: of any variant with integer operations.
        folder: the folder to write.
        limit: what is allowed between logits; the integers of an integer-only encoder must agree bit for bit.
        batches: batches to compare on.

    Raises:
        UserError: the library computes something else than the encoder.
    """
    try:
        library = built()
    except UserError as error:
        _log.warning("%s: exported without its native form: %s", checkpoint, error)
        return
    folder.mkdir()
    write_constants(encoder, folder / runner.CONSTANTS)
    shutil.copyfile(library, folder / runner.LIBRARY)
    shutil.copyfile(runner.__file__, folder / runner.RUNNER)
    model = runner.NativeModel(folder, torch.get_num_threads())

    def outputs(batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return model.hidden_and_logits(**{name: tensor.numpy() for name, tensor in batch.items()})

    hidden = float(text_differences(head_input_of(encoder), lambda batch: outputs(batch)[0], batches).max())
    logits = limit.of(text_differences(logits_of(encoder), lambda batch: outputs(batch)[1], batches))
    if (hidden and encoder.shape.only_integers) or logits > limit.tolerance:
        raise UserError(
            f"{checkpoint}: its native form is not exported, for what enters the classifier differs from the "
            f"checkpoint's by {hidden:.3g}, and logits by {logits:.3g} ({limit.measure}); report it with the checkpoint"
        )
