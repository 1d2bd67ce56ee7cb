"""`pealm serve`: OpenAI's protocol, and a page to write with a model and look inside it."""
