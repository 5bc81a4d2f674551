"""One post-LN encoder for BERT, RoBERTa, ELECTRA and DistilBERT checkpoints, in floating point or on integers."""
