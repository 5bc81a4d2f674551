"""Models as ONNX graphs: writing, quantization to 8 bits, storage, and ONNX Runtime sessions."""
