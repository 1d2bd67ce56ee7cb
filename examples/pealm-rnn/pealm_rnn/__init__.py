"""A recurrent language model for pealm."""
