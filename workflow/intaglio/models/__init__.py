"""Pretrained encoders: checks of their folders and of the demands on them, and classifiers that start from them."""
