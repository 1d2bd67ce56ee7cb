"""Checks for models."""

from pealm_testing.model.forward import ForwardChecks
from pealm_testing.model.sampling import SamplingChecks
from pealm_testing.model.training import TrainingChecks


class ModelConformance(SamplingChecks, TrainingChecks, ForwardChecks):
    """A small model on the CPU.

    config: sizes small enough that a step takes milliseconds. vocab_size: number of different tokens.
    start_loss: how far the initial loss may be from ln(vocab_size).
    context: how many tokens the model sees, 1 for a bigram; None: its block size.
    fit_lr, fit_steps: learning rate and steps to overfit one batch. tolerance: of logits computed in two ways.
    """
