"""The data of a task: examples and splits. This room makes `data` artifacts (see `store`)."""
