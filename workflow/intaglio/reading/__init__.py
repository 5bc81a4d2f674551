"""Sources of data and models, and their files as tables.

There are three kinds of source: a hub repository, an archive of the package registry, and the user's own files. This
room fetches `source` artifacts (see `store`) and reads files of data; what columns mean is the matter of `tasks`.
"""
