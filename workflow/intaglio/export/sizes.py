"""Sizes of a model: the deployed file, the checkpoint, and their tensors by data type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from intaglio.errors import UserError
from intaglio.onnx.graph import model_files, tensors
from intaglio.onnx.session import MODEL
from intaglio.onnx.signed import PRODUCTS

_Row = dict[str, Any]
# Data type, elements, bytes.
Counted = tuple[str, int, int]
# By operator: the position of the integers among its inputs, and the position of their zero point.
_ZERO_POINTS = {**PRODUCTS, "DequantizeLinear": (0, 2)}
ZSTD_LEVEL = 3


def size_rows(checkpoint: Path, export: Path, model: Any) -> list[_Row]:
    """Return the sizes of a model: on disk as deployed and as trained, in memory as trained.

    Tensors shared between layers count once.

    Args:
        checkpoint: folder with *.safetensors, or with an 8-bit graph.
        export: folder with model.onnx.
        model: the model loaded from the checkpoint, with parameters; None if it is a graph.

    Raises:
        UserError: there is no weights file, or no graph.
    """
    graph, deployed = _read_graph(export)
    rows = [
        _files("file", deployed),
        *_by_dtype("tensors", _of_graph(graph)),
        *_compressed(graph, export, deployed),
    ]
    if model is None:
        graph, files = _read_graph(checkpoint)
        return [*rows, _files("checkpoint", files), *_by_dtype("checkpoint_tensors", _of_graph(graph))]
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise UserError(f"{checkpoint}: no *.safetensors; the model has no weights")
    return [
        *rows,
        _files("checkpoint", files),
        *_by_dtype("checkpoint_tensors", _counted(tensor for file in files for tensor in _stored(file))),
        *_by_dtype("parameters", _counted(model.parameters())),
        *_by_dtype("buffers", _counted(model.buffers())),
    ]


def _files(component: str, files: list[Path]) -> _Row:
    return {
        "component": component,
        "dtype": None,
        "bytes": sum(file.stat().st_size for file in files),
        "count": len(files),
    }


def _read_graph(folder: Path) -> tuple[Any, list[Path]]:
    """Return a graph without its external weights, and all its files."""
    import onnx

    path = folder / MODEL
    if not path.is_file():
        raise UserError(f"{folder}: no {MODEL}; run the job that makes it again")
    graph = onnx.load(path, load_external_data=False).graph
    return graph, model_files(path, graph)


def _compressed(graph: Any, folder: Path, files: Sequence[Path]) -> list[_Row]:
    """Return the non-zero elements of the graph's tensors, their size in a sparse encoding, and the size under zstd.

    The sparse encoding of a tensor has one bit per element, for zero or not, and the non-zero elements; the tensor is
    left dense if that is smaller. A quantized weight is zero at its zero point.
    """
    from onnx import numpy_helper

    zeros = zero_points(graph)
    count = nonzero = sparse = 0
    for tensor in tensors(graph):
        values = numpy_helper.to_array(tensor, str(folder))
        found = int(np.count_nonzero(values != zeros.get(tensor.name, 0)))
        count += found
        nonzero += found * values.itemsize
        sparse += min(values.nbytes, -(-values.size // 8) + found * values.itemsize)
    packed = sum(len(pa.Codec("zstd", ZSTD_LEVEL).compress(file.read_bytes(), asbytes=True)) for file in files)
    return [
        {"component": "nonzero", "dtype": None, "bytes": nonzero, "count": count},
        {"component": "sparse", "dtype": None, "bytes": sparse, "count": count},
        {"component": "zstd", "dtype": None, "bytes": packed, "count": len(files)},
    ]


def zero_points(graph: Any) -> Mapping[str, NDArray[Any]]:
    """Return the zero points of a graph's quantized tensors, by the tensors' names; each is [] or one per column.

    They are inputs of the nodes that multiply by such a tensor, or that dequantize it or rows taken from it.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    gathered = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Gather"}
    found = {}
    for node in graph.node:
        place, zero = _ZERO_POINTS.get(node.op_type, (0, 0))
        if zero and len(node.input) > zero and node.input[zero] in stored:
            name = gathered.get(node.input[place], node.input[place])
            found[name] = numpy_helper.to_array(stored[node.input[zero]])
    return found


def _of_graph(graph: Any) -> Iterator[Counted]:
    from onnx.helper import tensor_dtype_to_np_dtype

    for tensor in tensors(graph):
        dtype = tensor_dtype_to_np_dtype(tensor.data_type)
        count = 1
        for extent in tensor.dims:
            count *= extent
        yield dtype.name, count, count * dtype.itemsize


def _stored(file: Path) -> Iterable[torch.Tensor]:
    with safe_open(file, framework="pt") as content:
        for name in content.keys():  # noqa: SIM118 (not a dict: it cannot be iterated)
            yield content.get_tensor(name)


def _counted(tensors: Iterable[torch.Tensor]) -> Iterator[Counted]:
    for tensor in tensors:
        yield str(tensor.dtype).removeprefix("torch."), tensor.numel(), tensor.numel() * tensor.element_size()


def _by_dtype(component: str, tensors: Iterable[Counted]) -> list[_Row]:
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for dtype, count, size in tensors:
        totals[dtype][0] += size
        totals[dtype][1] += count
    return [
        {"component": component, "dtype": dtype, "bytes": size, "count": count}
        for dtype, (size, count) in sorted(totals.items())
    ]
