"""The integer arithmetic of the encoder, as docs/arithmetic.md specifies it, on tensors.

A value is an integer times a scale. Here float32 tensors carry the integers exactly (simulated arithmetic): integers
that meet in a float32 operation never exceed 2^24, and sums that may exceed it are computed in float64 or int64. Every
function has a straight-through gradient in units of its integers.
"""
