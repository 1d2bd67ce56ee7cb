"""Plugins: find the installed ones, load or quarantine each, resolve names, call the hooks of a run."""
