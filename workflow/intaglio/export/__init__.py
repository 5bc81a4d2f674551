"""Checkpoints as ONNX files for ONNX Runtime, checked against the checkpoints."""
