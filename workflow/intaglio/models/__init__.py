"""Pretrained encoders: their folders, what a study wants of them, and classifiers that start from them."""
