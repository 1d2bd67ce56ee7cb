"""The Llama family: the model, published weights, and Hugging Face's format both ways."""
