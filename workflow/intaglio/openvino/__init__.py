"""Models in OpenVINO: quantized to 8 bits, opened on the CPU."""
