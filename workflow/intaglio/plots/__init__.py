"""Figures of a study, from the tables of its summary."""
