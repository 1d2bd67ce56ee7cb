"""Karpathy's tinyshakespeare as a dataset."""
