"""`pealm clean`."""
