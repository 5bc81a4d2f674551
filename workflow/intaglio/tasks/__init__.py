"""What a task is made of and where it comes from: fetching sources, reading files, cutting splits.

Data and models come through one interface from three kinds of source: a hub repository, an archive of the package
registry, or the user's own files. What leaves this room are `source` and `data` artifacts (see `store`).
"""
