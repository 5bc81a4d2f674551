"""What is imported once, before the processes that measure memory are forked."""

import os

# Other processes may compute at the same time: waiting threads must not take cores from them. This has to be set before
# torch is imported.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import onnxruntime  # noqa: F401
import transformers.modeling_utils  # noqa: F401

import intaglio.measure.backends.eager
import intaglio.measure.backends.onnx_runtime
import intaglio.measure.backends.openvino_runtime  # noqa: F401
