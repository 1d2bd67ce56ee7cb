"""Checkpoint folders: format, tensors, building model and tokenizer from a config, initial weights."""
