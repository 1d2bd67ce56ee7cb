"""The training loop, and a run from its job to its last line."""
