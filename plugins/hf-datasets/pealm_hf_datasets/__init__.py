"""Datasets of the Hugging Face Hub as an input."""
