"""Running on a cluster: submission of one target as one job.

This room does not know what a job computes. Jobs are commands that take files and make files (see `intaglio.cli`).
"""
