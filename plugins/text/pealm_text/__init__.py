"""Plain text files as a dataset."""
