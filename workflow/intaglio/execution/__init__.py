"""Integers that run: the encoder's program on integers, with every scale resolved to constants.

`constants` reads them off a trained encoder, `program` is the encoder written once over a set of operations, and
`on_torch` executes these on int8 and int32 tensors. `intaglio.onnx` writes the same program as an ONNX graph.
"""
