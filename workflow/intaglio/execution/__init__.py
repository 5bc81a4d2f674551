"""Execution of the integer encoder: its program runs on integers, with every scale resolved to constants.

`constants` extracts them from a trained encoder, `program` is the encoder written once over a set of operations, and
`on_torch` executes the operations on int8 and int32 tensors. `intaglio.onnx` writes the same program as an ONNX graph.
"""
