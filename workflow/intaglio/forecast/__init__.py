"""What a study will cost before it is submitted, and what it has used afterwards.

Estimates come from what finished jobs noted in the store; where there are none, from a probe: a few steps of the real
stages, in a temporary folder.
"""
