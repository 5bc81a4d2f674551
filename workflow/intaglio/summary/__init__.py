"""The summary of a study: its runs gathered into tables, with statistics over seeds and test examples."""
