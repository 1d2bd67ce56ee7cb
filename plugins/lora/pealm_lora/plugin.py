"""What pealm-lora provides."""

from collections.abc import Iterator

from pealm_core import AdapterSpec, hookimpl


@hookimpl
def pealm_adapters() -> Iterator[AdapterSpec]:
    """The adapter `lora`."""
    yield AdapterSpec(
        name="lora",
        summary="Low-rank updates of linear layers; the weights stay frozen",
        config="pealm_lora.config:LoraConfig",
        factory="pealm_lora.adapter:Lora",
    )
