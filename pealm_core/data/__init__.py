"""Training data: token files, the token cache, and the order in which windows are drawn."""
