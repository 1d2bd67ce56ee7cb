"""The contract: records, hooks, protocols, settings and errors. All that a plugin author sees; no torch."""
