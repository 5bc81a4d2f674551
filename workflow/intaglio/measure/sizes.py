"""How large a model is: the file that is deployed, the checkpoint that it came from, and their tensors by data type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from intaglio.errors import UserError
from intaglio.measure.backends import GRAPH

Row = dict[str, Any]
# Data type, elements, bytes.
Counted = tuple[str, int, int]


def size_rows(checkpoint: Path, export: Path, model: Any) -> list[Row]:
    """Return the sizes of a model: on disk as deployed and as trained, in memory as trained.

    What is shared between layers counts once.

    Args:
        checkpoint: folder with *.safetensors.
        export: folder with model.onnx.
        model: what was loaded from the checkpoint, with parameters.

    Raises:
        UserError: there is no weights file, or no graph.
    """
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise UserError(f"{checkpoint}: no *.safetensors; the model has no weights")
    graph, deployed = _read_graph(export)
    return [
        _files("file", deployed),
        *_by_dtype("tensors", _of_graph(graph)),
        _files("checkpoint", files),
        *_by_dtype("checkpoint_tensors", _counted(tensor for file in files for tensor in _stored(file))),
        *_by_dtype("parameters", _counted(model.parameters())),
        *_by_dtype("buffers", _counted(model.buffers())),
    ]


def _files(component: str, files: list[Path]) -> Row:
    return {
        "component": component,
        "dtype": None,
        "bytes": sum(file.stat().st_size for file in files),
        "count": len(files),
    }


def _read_graph(export: Path) -> tuple[Any, list[Path]]:
    """Return a graph without the weights that lie in files beside it, and all its files."""
    import onnx

    path = export / GRAPH
    if not path.is_file():
        raise UserError(f"{export}: no {GRAPH}; export the checkpoint again")
    graph = onnx.load(path, load_external_data=False).graph
    outside = {entry.value for tensor in _tensors(graph) for entry in tensor.external_data if entry.key == "location"}
    return graph, [path, *(export / name for name in sorted(outside))]


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the tensors of an ONNX graph and of those within its nodes: initializers, and constants of nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)


def _of_graph(graph: Any) -> Iterator[Counted]:
    from onnx.helper import tensor_dtype_to_np_dtype

    for tensor in _tensors(graph):
        dtype = tensor_dtype_to_np_dtype(tensor.data_type)
        count = 1
        for extent in tensor.dims:
            count *= extent
        yield dtype.name, count, count * dtype.itemsize


def _stored(file: Path) -> Iterable[torch.Tensor]:
    with safe_open(file, framework="pt") as content:
        for name in content.keys():  # noqa: SIM118 (it is no dict: it does not iterate)
            yield content.get_tensor(name)


def _counted(tensors: Iterable[torch.Tensor]) -> Iterator[Counted]:
    for tensor in tensors:
        yield str(tensor.dtype).removeprefix("torch."), tensor.numel(), tensor.numel() * tensor.element_size()


def _by_dtype(component: str, tensors: Iterable[Counted]) -> list[Row]:
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for dtype, count, size in tensors:
        totals[dtype][0] += size
        totals[dtype][1] += count
    return [
        {"component": component, "dtype": dtype, "bytes": size, "count": count}
        for dtype, (size, count) in sorted(totals.items())
    ]
