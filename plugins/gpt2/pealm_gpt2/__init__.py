"""GPT-2: the model, OpenAI's weights, and the way to Hugging Face's format and back."""
