"""From a study to its plan: jobs, their dependencies, the keys of their results, and the paths of these."""
