"""What every training shares: transformers' Trainer, made resumable to the bit and honestly timed."""
