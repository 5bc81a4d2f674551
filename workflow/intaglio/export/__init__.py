"""Checkpoints as ONNX files that ONNX Runtime runs, checked against the checkpoint that they come from."""
