"""What pealm-rnn provides."""

from collections.abc import Iterator

from pealm_core import ModelSpec, hookimpl


@hookimpl
def pealm_models() -> Iterator[ModelSpec]:
    """The model `rnn`."""
    yield ModelSpec(
        name="rnn",
        summary="A recurrent model: GRU layers, no attention",
        config="pealm_rnn.config:RNNConfig",
        factory="pealm_rnn.model:RNN",
        recipe={"train": {"lr": 3e-3, "warmup_steps": 20}},
    )
