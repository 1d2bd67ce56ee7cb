"""The contract: records, hooks, protocols, settings and errors; all that the author of a plugin needs. No torch."""
