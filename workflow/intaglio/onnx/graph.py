"""A small writer of ONNX graphs with generated node names and deduplicated constants; reading and writing of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET = 21
MICROSOFT = "com.microsoft"
# Size limit of a protobuf message.
_LARGEST_FILE = 2**31 - 2**20


class Graph:
    """Nodes and initializers of a model under construction. A value is represented by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[Any, onnx.TensorProto] = {}

    def constant(self, values: Any, dtype: Any) -> str:
        """Return the name of an initializer with these values."""
        import onnx

        array: NDArray[Any] = np.array(values, dtype=dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        # Scalars repeat and are shared. Larger constants are few and rarely equal, so they are not compared.
        if array.size > 1:
            key = (len(self.initializers),)  # type: ignore[assignment]
        if key not in self.initializers:
            self.initializers[key] = onnx.numpy_helper.from_array(array, f"c{len(self.initializers)}")
        return self.initializers[key].name

    def add(self, kind: str, *inputs: str, domain: str = "", output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        import onnx

        name = output or f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def add_several(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs; return their names."""
        import onnx

        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def model(self, inputs: Sequence[str], outputs: dict[str, int], *, of_tokens: bool = False) -> onnx.ModelProto:
        """Return the checked model.

        Args:
            inputs: names of int64 inputs [batch, length].
            outputs: names of float32 outputs [batch, size], and their sizes.
            of_tokens: whether outputs are [batch, length, size].
        """
        import onnx
        from onnx import TensorProto, helper

        sizes = ["batch", "length"] if of_tokens else ["batch"]
        graph = helper.make_graph(
            self.nodes,
            "intaglio",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [*sizes, n]) for name, n in outputs.items()],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="intaglio", ir_version=10)
        onnx.checker.check_model(model)
        return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one file, with the weights in a second file if it exceeds the size limit."""
    import onnx

    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _LARGEST_FILE
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data")


def model_files(path: Path, graph: onnx.GraphProto) -> list[Path]:
    """Return a model's file and the files of its external weights, from its graph loaded without them."""
    outside = {entry.value for tensor in tensors(graph) for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / name for name in sorted(outside))]


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a graph and of its subgraphs: initializers and constants."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from tensors(inner)
