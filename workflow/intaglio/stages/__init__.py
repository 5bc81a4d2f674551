"""Stages: each takes a parent model and options, and leaves a checkpoint.

finetune, distil, prune and cut are the stages in floating point; quantize and int8 end in integers.
"""
