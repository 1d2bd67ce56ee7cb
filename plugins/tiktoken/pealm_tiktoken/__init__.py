"""OpenAI's byte-pair encodings as a tokenizer."""
