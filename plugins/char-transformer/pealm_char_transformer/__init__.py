"""A plain transformer over characters."""
