"""Predictions and metrics of a checkpoint; its latency, memory, size and operators on a named machine."""
