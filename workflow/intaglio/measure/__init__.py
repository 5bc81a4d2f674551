"""Predictions and metrics of a checkpoint; its latency, memory, size and operators, on a machine that is named."""
