"""Any dataset to token shards, in parallel; and a look at tokens and data."""
