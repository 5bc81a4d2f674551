"""What it takes to run on a cluster: submission of one target here, limits, preemption and ranks as they come.

Nothing here knows what a job computes. It is made of commands that take files and leave files (see `intaglio.cli`).
"""
