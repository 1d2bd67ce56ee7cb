"""Training data: documents to tokens, the token cache, and the samples that training draws from it."""
