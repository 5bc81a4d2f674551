"""Models as ONNX graphs: how they are written, quantized to 8 bits, stored, and opened in ONNX Runtime."""
