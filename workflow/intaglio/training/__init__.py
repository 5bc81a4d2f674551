"""What all training stages share: transformers' Trainer with bit-exact resumption and precise timing."""
