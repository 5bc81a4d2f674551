"""The data of a task: kinds of task, sources, readers of files, splits and tokens.

Data and models come from three kinds of source: a hub repository, an archive of the package registry, or the user's own
files. This room makes `source` and `data` artifacts (see `store`).
"""
