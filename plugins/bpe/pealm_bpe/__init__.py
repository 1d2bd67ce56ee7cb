"""Byte-pair encoding learned from the training text."""
