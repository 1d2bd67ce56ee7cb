"""Generate text and score it: sampling, key-value cache, `LM`, log-likelihoods."""
