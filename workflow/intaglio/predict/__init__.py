"""Predictions of a bundle: for a few texts, and for files of any size.

This room and what it imports are copied into every bundle, which runs where only onnxruntime, tokenizers, pyarrow and
numpy are installed. Nothing else may be imported here.
"""
