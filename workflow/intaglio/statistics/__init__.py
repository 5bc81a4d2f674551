"""Statistics of differences between variants: intervals over examples and seeds, tests, non-inferiority."""
