"""Data as a model's tokenizer reads it, and its description. This room makes `tokens` artifacts (see `store`)."""
