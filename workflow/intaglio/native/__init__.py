"""The native library: integer models at the full speed of a processor, without a compiler at hand.

`source` holds it in C++, `build` compiles it, `library` calls its products, and `runner` runs an exported model with
nothing but NumPy.
"""
