"""A modern small transformer that learns fast."""
