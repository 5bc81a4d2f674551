"""Summaries of a study: one row a run, one row a variant with its uncertainty, plots, and pages for the report."""
