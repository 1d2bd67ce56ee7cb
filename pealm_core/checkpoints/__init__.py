"""Checkpoint folders: format, tensors, building components from a config, convert, clean."""
