"""From a study to its plan: jobs, what each depends on, what decides its result, and where it lies."""
