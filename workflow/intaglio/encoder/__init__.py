"""One post-LN encoder for BERT, RoBERTa, ELECTRA and DistilBERT checkpoints, written once over an arithmetic."""
