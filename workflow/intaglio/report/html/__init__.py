"""The report that people show: one HTML file, made by templates, which needs no network and no other file."""
