"""Stages: each takes a parent model and options, and makes a checkpoint.

finetune, distil, prune, cut and continue work in floating point; quantize and int8 end in integers.
"""
