"""Any tokenizer.json of Hugging Face as a tokenizer."""
