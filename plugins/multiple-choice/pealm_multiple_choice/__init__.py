"""Multiple-choice questions of your own as an evaluation."""
