"""The recommendation of a study: which variant to deploy for each task, and why."""
