"""Conversations as a dataset."""
