"""Commands that evaluate and compare models, and evaluations during training."""
