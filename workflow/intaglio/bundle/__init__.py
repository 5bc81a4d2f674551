"""Bundles: a finished run as a folder to deploy, with its model, tokenizer, model card, checksums and an example."""
