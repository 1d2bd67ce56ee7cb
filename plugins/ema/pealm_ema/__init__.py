"""An average of the weights during training."""
