"""Shard a model over the processes of a run, with PyTorch's FSDP2."""
