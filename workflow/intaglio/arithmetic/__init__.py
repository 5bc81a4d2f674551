"""The integer specification of the encoder: what docs/arithmetic.md states, on tensors and nothing else.

A value is an integer times a scale. Here the integers are carried by float32 tensors (simulated arithmetic), exactly:
no integer that meets another in a float32 operation exceeds 2^24, and where a sum may exceed it, it is taken in
float64 or in int64. Every function has a straight-through gradient in units of its integers.
"""
