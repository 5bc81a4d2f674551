"""Products of int8 matrices: every exact kernel that a machine may have, and the choice of the fastest by size.

Training and execution share the choice, which never changes a result. `norm` is LayerNorm for training.
"""
