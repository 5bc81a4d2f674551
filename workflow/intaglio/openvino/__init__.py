"""Models in OpenVINO: opened on the CPU."""
