"""FineWeb-Edu: its documents, and the token shards made of them."""
