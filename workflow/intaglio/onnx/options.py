"""Options of ONNX Runtime sessions. It imports nothing that a bundle does not bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return the options of every session: all graph optimizations, one operator at a time, with this many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads wait for work by spinning, which is fast. Without this option they would keep spinning after the call and
    # take the cores from the next measurement.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # 8-bit weights of floating-point products are dequantized when the model is opened. Otherwise ONNX Runtime would
    # quantize the other factor.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options
