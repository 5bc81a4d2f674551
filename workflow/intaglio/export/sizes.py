"""Sizes of a model: the deployed file, the checkpoint, and their tensors by data type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from intaglio.errors import UserError
from intaglio.onnx.graph import model_files, tensors
from intaglio.onnx.session import MODEL
from intaglio.onnx.signed import PRODUCTS
from intaglio.openvino.int8 import constants_in
from intaglio.openvino.session import IR, IR_WEIGHTS

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
        export: folder with model.onnx, or with model.xml for OpenVINO.
        model: the model loaded from the checkpoint, with parameters; None if it is a graph.

    Raises:
        UserError: there is no weights file, or no graph.
    """
    deployed = _read(export)
    rows = [
        _files("file", deployed.files),
        *_by_dtype("tensors", deployed.counted),
        *_compressed(deployed),
    ]
    if model is None:
        trained = _read(checkpoint)
        return [*rows, _files("checkpoint", trained.files), *_by_dtype("checkpoint_tensors", trained.counted)]
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


class _Graph(NamedTuple):
    """A graph: its files, its tensors as counted, and each of them with the integer that stands for zero."""

    files: list[Path]
    counted: Iterable[Counted]
    values: Iterable[tuple[NDArray[Any], Any]]


def _read(folder: Path) -> _Graph:
    if (folder / IR).is_file():
        constants = constants_in(folder / IR)
        counted = [(values.dtype.name, values.size, _bytes(values.dtype, values.size)) for values in constants]
        # NNCF's weights are symmetric.
        return _Graph([folder / IR, folder / IR_WEIGHTS], counted, ((values, 0) for values in constants))
    import onnx
    from onnx import numpy_helper

    path = folder / MODEL
    if not path.is_file():
        raise UserError(f"{folder}: no {MODEL}; run the job that makes it again")
    # Without its external weights.
    graph = onnx.load(path, load_external_data=False).graph
    zeros = zero_points(graph)
    values = ((numpy_helper.to_array(tensor, str(folder)), zeros.get(tensor.name, 0)) for tensor in tensors(graph))
    return _Graph(model_files(path, graph), _of_graph(graph), values)


def _compressed(graph: _Graph) -> list[_Row]:
    """Return the non-zero elements of the graph's tensors, their size in a sparse encoding, and the size under zstd.

    The sparse encoding of a tensor has one bit per element, for zero or not, and the non-zero elements; the tensor is
    left dense if that is smaller. A quantized weight is zero at its zero point.
    """
    count = nonzero = sparse = 0
    for values, zero in graph.values:
        found = int(np.count_nonzero(values != zero))
        count += found
        nonzero += _bytes(values.dtype, found)
        sparse += min(_bytes(values.dtype, values.size), -(-values.size // 8) + _bytes(values.dtype, found))
    packed = sum(len(pa.Codec("zstd", ZSTD_LEVEL).compress(file.read_bytes(), asbytes=True)) for file in graph.files)
    return [
        {"component": "nonzero", "dtype": None, "bytes": nonzero, "count": count},
        {"component": "sparse", "dtype": None, "bytes": sparse, "count": count},
        {"component": "zstd", "dtype": None, "bytes": packed, "count": len(graph.files)},
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
        yield dtype.name, count, _bytes(dtype, count)


def _bytes(dtype: np.dtype[Any], count: int) -> int:
    """Return the size of so many elements in a file, where two of 4 bits share a byte."""
    return -(-count // 2) if dtype.name in ("int4", "uint4") else count * dtype.itemsize


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
