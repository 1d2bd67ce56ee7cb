"""Loss, perplexity and bits per byte of any text."""
