"""Files of other programs, for model plugins: Hugging Face's folders and GGUF."""
