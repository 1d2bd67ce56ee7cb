"""`pealm convert`."""
