"""The data of a task: kinds of task, examples, splits and tokens. This room makes `data` artifacts (see `store`)."""
