"""`pealm chat`."""
