"""Post-training quantization of a float graph to 8 bits by NNCF, for OpenVINO.

Weights take 7 of their 8 bits, and products of two activations stay in floating point. On CPUs without VNNI, OpenVINO
sums pairs of products in 16 bits: with 8 bits these saturate and results are silently wrong, with 7 they are exact.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError
from intaglio.onnx.graph import save
from intaglio.openvino.session import import_openvino, kept_signal_stack

if TYPE_CHECKING:
    import onnx

# Operators between a stored weight and its product, in a quantized model.
_RESTORING = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeQuantize")
_Inputs = dict[str, NDArray[np.int64]]


class AccuracyControl(NamedTuple):
    """What accuracy may be lost; layers that cost more are left in floating point.

    Attributes:
        examples: inputs of a graph, each with its position.
        score: from positions and the logits at each, float32 [1, ...], to the metric, higher for better models.
        max_drop: largest allowed drop of the metric.
    """

    examples: Sequence[tuple[_Inputs, int]]
    score: Callable[[Sequence[int], Sequence[NDArray[np.float32]]], float]
    max_drop: float


class LinearLayers(NamedTuple):
    """Numbers of linear layers in a model: all, and those in floating point."""

    total: int
    floating: int


def quantize_with_nncf(
    graph: onnx.ModelProto, batches: Sequence[_Inputs], control: AccuracyControl | None, file: Path
) -> LinearLayers:
    """Quantize a float graph, and write it as OpenVINO's file (.xml) with weights beside it (.bin).

    Args:
        graph: the float graph.
        batches: inputs of the graph without padding, for calibration.
        control: what may be lost; None quantizes every layer.
        file: the file to write.

    Raises:
        UserError: OpenVINO or NNCF is not installed.
    """
    openvino = import_openvino()
    try:
        import nncf  # type: ignore[import-untyped]
        from openvino.passes import ConstantFolding, Manager  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError("engine: openvino needs NNCF, which is not installed; pip install nncf") from error
    # Not by nncf.set_log_level: it changes the level of every handler that others have added to this logger.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    source = file.with_name("float.onnx")
    save(graph, source)
    model = openvino.Core().read_model(source)
    # Weights that the graph joins become one constant: NNCF quantizes constants.
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    options = {
        "subset_size": len(batches),
        "model_type": nncf.ModelType.TRANSFORMER,
        "ignored_scope": nncf.IgnoredScope(
            names=[node.get_friendly_name() for node in _products(model) if _weight_of(node) is None], validate=False
        ),
    }
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    if control is not None:
        # Accuracy control puts a layer's original weights back, but leaves the scales that SmoothQuant has moved from
        # its input into them: the layer would compute something else.
        advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    # Its progress bars.
    with redirect_stdout(io.StringIO()), kept_signal_stack():
        if control is None:
            quantized = nncf.quantize(model, nncf.Dataset(batches), advanced_parameters=advanced, **options)
        else:
            quantized = nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset(batches),
                nncf.Dataset(control.examples, lambda example: example[0]),
                lambda compiled, examples: _scored(control, compiled, examples),
                max_drop=control.max_drop,
                drop_type=nncf.DropType.ABSOLUTE,
                advanced_quantization_parameters=advanced,
                **options,
            )
    openvino.save_model(quantized, file, compress_to_fp16=False)
    return linear_layers_in(quantized)


def _scored(control: AccuracyControl, compiled: Any, examples: Iterable[tuple[_Inputs, int]]) -> float:
    places, logits = [], []
    for inputs, place in examples:
        places.append(place)
        logits.append(np.array(compiled(inputs)[0]))
    return control.score(places, logits)


def linear_layers_in(model: Any) -> LinearLayers:
    """Return the numbers of linear layers in an OpenVINO model."""
    weights = [weight for node in _products(model) if (weight := _weight_of(node)) is not None]
    floating = sum(weight.get_element_type().is_real() for weight in weights)
    return LinearLayers(len(weights), floating)


def _products(model: Any) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]


def _weight_of(product: Any) -> Any:
    """Return the constant that a product multiplies by; None if it multiplies two activations."""
    node = product.input_value(1).get_node()
    while node.get_type_name() in _RESTORING:
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def constants_in(file: Path) -> list[NDArray[Any]]:
    """Return the constants of an OpenVINO model, each once."""
    model = import_openvino().Core().read_model(file)
    nodes = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return [np.array(node.data) for node in nodes]
