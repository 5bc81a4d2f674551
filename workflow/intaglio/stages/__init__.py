"""Stages: each takes a parent model and options, trains, and leaves a checkpoint.

finetune, distil, prune and cut are the stages in floating point, quantize the one that ends in integers; training is
the loop that every stage shares (trainer: transformers'), with its time (clock), its loss (loss, and distillation where
a teacher helps), its choice of the best weights (selection) and its survival of a kill (resume) beside it; checkpoint
is what a stage leaves, masks what of its weights is zero and stays so.
"""
