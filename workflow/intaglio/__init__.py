"""Intaglio: compress transformer encoders on your own data, and measure what it costs and buys."""

__version__ = "0.1.0"
