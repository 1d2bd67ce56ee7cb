"""A character tokenizer."""
