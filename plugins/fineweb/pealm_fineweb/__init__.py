"""FineWeb-Edu, downloaded and tokenized."""
