"""Runs an exported integer model on a CPU with nothing but NumPy: no torch, no compiler, any batch size and length.

This file stands beside the exported model and its library, and works without Intaglio:

    from runner import NativeModel
    model = NativeModel("export/native", threads=2)
    logits = model(input_ids, attention_mask)
"""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The folder of the native form in an export, and its files.
FORM = "native"
CONSTANTS, LIBRARY, RUNNER = "model.safetensors", "libintaglio.so", "runner.py"
# Key of the numbers in the metadata of the file of constants.
NUMBERS = "numbers"
# Of them, that of models with logits for every token: the logit of padding.
PADDING_LOGIT = "head.padding"
_TYPES = {"I8": np.int8, "U8": np.uint8, "I32": np.int32, "I64": np.int64, "F32": np.float32}
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "message": (ctypes.c_char_p, []),
    "instructions": (ctypes.c_char_p, []),
    "constants": (ctypes.c_void_p, []),
    "constants_free": (None, [ctypes.c_void_p]),
    "number": (None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_double]),
    "tensor": (None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]),
    "model": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]),
    "model_free": (None, [ctypes.c_void_p]),
    "model_instructions": (ctypes.c_char_p, [ctypes.c_void_p]),
    "operator": (ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]),
    "model_labels": (ctypes.c_int, [ctypes.c_void_p]),
    "run": (ctypes.c_int, [*[ctypes.c_void_p] * 4, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]),
    "product": (
        ctypes.c_void_p,
        [ctypes.c_char_p, ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_int, ctypes.c_int],
    ),
    "product_free": (None, [ctypes.c_void_p]),
    "multiply": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]),
    "softmax": (ctypes.c_int, [ctypes.c_char_p, *[ctypes.c_void_p] * 2, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]),
    "norm_for_training": (
        ctypes.c_int,
        [
            ctypes.c_char_p,
            ctypes.c_int,
            *[ctypes.c_void_p] * 5,
            *[ctypes.c_int] * 2,
            *[ctypes.c_void_p] * 4,
        ],
    ),
    "norm": (
        ctypes.c_int,
        [
            ctypes.c_char_p,
            *[ctypes.c_void_p] * 3,
            ctypes.c_int,
            ctypes.c_void_p,
            *[ctypes.c_int] * 2,
            *[ctypes.c_void_p] * 2,
        ],
    ),
}


class Library:
    """The functions of a compiled library, by their names without the prefix.

    Raises:
        OSError: the file is missing, or made for another kind of machine.
    """

    def __init__(self, path: Path) -> None:
        self._loaded = ctypes.CDLL(str(path.resolve()))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._loaded, f"intaglio_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def available(self) -> list[str]:
        """Return the names of the instruction sets that this processor has, the fastest first."""
        names: str = self.instructions().decode()
        return names.split()

    def said(self) -> str:
        """Return why the last call failed."""
        text: str = self.message().decode()
        return text


@cache
def library(path: Path) -> Library:
    """Return the library of a file, loaded once."""
    return Library(path)


class NativeModel:
    """An integer model, opened from a folder of an export.

    Args:
        folder: holds the model's constants and the library.
        threads: number of threads; None for the number of cores that this process may use.
        instructions: the instruction set, one of `Library.available`; the fastest if it is empty.
        library_file: the library, if it is not in the folder.

    Raises:
        OSError: a file is missing, or the library was made for another kind of machine.
        ValueError: the constants are damaged, or the processor lacks the instruction set.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        instructions: str = "",
        library_file: Path | None = None,
    ) -> None:
        self._library = library(library_file or Path(folder) / LIBRARY)
        tensors, numbers = read_constants(Path(folder) / CONSTANTS)
        # The library reads embedding tables as it needs them (from the file, if of 8 bits); other constants are copied.
        self._tables = {name: tensor for name, tensor in tensors.items() if name.startswith("embeddings.tables.")}
        constants = self._library.constants()
        try:
            for name, number in numbers.items():
                self._library.number(constants, name.encode(), number)
            for name, tensor in tensors.items():
                sizes = np.array(tensor.shape, dtype=np.int64)
                self._library.tensor(constants, name.encode(), tensor.ctypes.data, sizes.ctypes.data, len(sizes))
            wanted = threads or len(os.sched_getaffinity(0))
            self._model = self._library.model(constants, instructions.encode(), wanted)
        finally:
            self._library.constants_free(constants)
        if not self._model:
            raise ValueError(f"{folder}: {self._library.said()}")
        weakref.finalize(self, self._library.model_free, self._model)
        self.labels: int = self._library.model_labels(self._model)
        self.width = int(numbers["width"])
        self.every_token = PADDING_LOGIT in numbers
        self.instructions: str = self._library.model_instructions(self._model).decode()

    def __call__(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> NDArray[np.float32]:
        """Return the logits, float32 [batch, labels], of token sequences, integers [batch, length].

        Those of a model for question answering are [batch, length, 2], of first and of last tokens of answers.
        Padding, where the mask is 0, costs nothing: it is left out of the computation.

        Raises:
            ValueError: shapes differ, or a token is not in the vocabulary.
        """
        return self.hidden_and_logits(input_ids, attention_mask, token_type_ids)[1]

    def hidden_and_logits(
        self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what enters the head, float32 [batch, width], and the logits [batch, labels].

        Where the head is over every token, both are [batch, length, ...]; at padding, zeros enter.
        """
        given = [
            None if x is None else np.ascontiguousarray(x, dtype=np.int64)
            for x in (input_ids, attention_mask, token_type_ids)
        ]
        ids = given[0]
        if ids is None or ids.ndim != 2 or any(x is not None and x.shape != ids.shape for x in given):
            raise ValueError("input_ids, attention_mask and token_type_ids must have one shape [batch, length]")
        batch, length = ids.shape
        rows = (batch, length) if self.every_token else (batch,)
        logits = np.empty((*rows, self.labels), np.float32)
        hidden = np.empty((*rows, self.width), np.float32)
        places = [None if x is None else x.ctypes.data for x in given]
        if batch and self._library.run(self._model, *places, batch, length, logits.ctypes.data, hidden.ctypes.data):
            raise ValueError(self._library.said())
        return hidden, logits

    def operators(self) -> dict[str, tuple[int, float]]:
        """Return how often, and how long in ms, each operator has run since the model was opened."""
        found: dict[str, tuple[int, float]] = {}
        calls, milliseconds = ctypes.c_int64(), ctypes.c_double()
        places = ctypes.byref(calls), ctypes.byref(milliseconds)
        while name := self._library.operator(self._model, len(found), *places):
            found[name.decode()] = calls.value, milliseconds.value
        return found


def read_constants(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Return the tensors, mapped from a safetensors file, and the numbers in its metadata.

    Integers of 4 bits, which are stored as uint8, are unpacked (`unpacked`).

    Raises:
        OSError: the file is missing.
        ValueError: it is not such a file.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r")
    try:
        start = 8 + int(content[:8].view("<u8")[0])
        header = json.loads(bytes(content[8:start]))
        numbers: dict[str, float] = json.loads(header.pop("__metadata__")[NUMBERS])
        tensors = {}
        for name, entry in header.items():
            first, last = (start + offset for offset in entry["data_offsets"])
            tensor = content[first:last].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = unpacked(tensor) if entry["dtype"] == "U8" else tensor
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the constants of an integer model; export it again") from error
    return tensors, numbers


def packed(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack integers [rows, columns] within [-7, 7], two to a byte, the first in the lower half: [rows, half of them].

    Each is stored with 8 added. In the last byte of an odd row, 0 stands for no value.
    """
    columns = values.shape[1] + values.shape[1] % 2
    halves = np.zeros((len(values), columns), np.uint8)
    halves[:, : values.shape[1]] = values + 8
    pairs: NDArray[np.uint8] = halves[:, ::2] | halves[:, 1::2] << 4
    return pairs


def unpacked(pairs: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the integers [rows, columns] of the bytes that `packed` makes of them."""
    halves = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(len(pairs), -1)
    columns = halves.shape[1] - (halves.size > 0 and not halves[:, -1].any())
    return np.ascontiguousarray(halves[:, :columns].view(np.int8) - np.int8(8))
