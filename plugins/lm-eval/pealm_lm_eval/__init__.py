"""EleutherAI's lm-evaluation-harness: its tasks on models of pealm, and these models in its own commands."""
