"""Records with a column of text as a dataset: .jsonl, .csv, .parquet."""
