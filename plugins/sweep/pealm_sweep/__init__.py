"""Hyperparameter search over training runs."""
