"""The native library: integer models at the full speed of a processor, without a compiler at hand.

`source` holds it in C++, `build` compiles it, `operators` calls single operators, and `runner` runs an exported model
with nothing but NumPy.
"""
