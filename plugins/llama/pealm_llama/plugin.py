"""What pealm-llama provides."""

from collections.abc import Iterator
from typing import Any

from pealm_core import FormatSpec, ModelSpec, hookimpl

# SmolLM2's two small sizes, Qwen2.5's and Llama 3.2's smallest.
SIZES: dict[str, dict[str, Any]] = {
    "nano": {"block_size": 256, "n_layer": 6, "n_head": 6, "n_kv_head": 2, "n_embd": 192, "rope_base": 10_000.0},
    "135m": {"n_layer": 30, "n_head": 9, "n_kv_head": 3, "n_embd": 576, "n_inner": 1536},
    "360m": {"n_layer": 32, "n_head": 15, "n_kv_head": 5, "n_embd": 960, "n_inner": 2560},
    "0.5b": {
        "n_layer": 24,
        "n_head": 14,
        "n_kv_head": 2,
        "n_embd": 896,
        "n_inner": 4864,
        "rope_base": 1_000_000.0,
        "norm_eps": 1e-6,
        "qkv_bias": True,
    },
    "1b": {
        "n_layer": 16,
        "n_head": 32,
        "n_kv_head": 8,
        "n_embd": 2048,
        "n_inner": 8192,
        "rope_base": 500_000.0,
        "rope_factor": 32.0,
    },
}

NANO = {
    "train": {"steps": 3000, "batch_size": 8, "lr": 3e-3, "warmup_steps": 100},
    "optimizer": {"beta2": 0.99},
}
# To fine-tune on conversations: three passes, at a rate that keeps what was learned before.
CHAT = {
    "train": {
        "epochs": 3,
        "batch_size": 8,
        "micro_batch_size": 4,
        "block_size": 256,
        "lr": 5e-5,
        "warmup_steps": 3,
    },
    "optimizer": {"name": "adamw", "weight_decay": 0.01},
}


@hookimpl
def pealm_models() -> Iterator[ModelSpec]:
    """The models `llama`, to train, and `llama-pretrained`, to start from published weights."""
    yield ModelSpec(
        name="llama",
        summary="The Llama family: SmolLM2, Llama 3, Qwen2 and Qwen3, Mistral",
        config="pealm_llama.config:LlamaConfig",
        factory="pealm_llama.model:Llama",
        tokenizer="bpe",
        presets=SIZES | {"nano": {**SIZES["nano"], **NANO}, "chat": CHAT},
        depth="pealm_llama.config:depth_preset",
        # 524,288 tokens a step.
        recipe={
            "train": {
                "steps": 20_000,
                "batch_size": 256,
                "micro_batch_size": 8,
                "lr": 1e-3,
                "warmup_steps": 1000,
                "grad_clip": 1.0,
            },
            "schedule": {"name": "cosine", "min_lr_ratio": 0.1},
            "optimizer": {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1},
        },
    )
    yield ModelSpec(
        name="llama-pretrained",
        summary="Published weights of the Llama family",
        config="pealm_llama.config:PretrainedConfig",
        factory="pealm_llama.model:Llama",
        pretrained="pealm_llama.pretrained:pretrained",
        vocabulary="pealm_llama.pretrained:vocabulary",
        family="llama",
        tokenizer="hf",
        presets={
            "135m": {"repo": "HuggingFaceTB/SmolLM2-135M-Instruct"},
            "360m": {"repo": "HuggingFaceTB/SmolLM2-360M-Instruct"},
            "0.5b": {"repo": "Qwen/Qwen2.5-0.5B-Instruct"},
            "1b": {"repo": "meta-llama/Llama-3.2-1B-Instruct"},
        },
    )


@hookimpl
def pealm_formats() -> Iterator[FormatSpec]:
    """The formats `hf`, the folders that transformers loads and saves, and `gguf`, the files of llama.cpp."""
    yield FormatSpec(
        name="hf",
        summary="The Llama family as transformers loads and saves it",
        exporter="pealm_llama.convert:export_folder",
        importer="pealm_llama.convert:import_folder",
        detect="pealm_llama.layout:is_llama",
        families=("llama",),
    )
    yield FormatSpec(
        name="gguf",
        summary="A file of llama.cpp; any precision is read as fp32",
        exporter="pealm_llama.convert:export_gguf",
        importer="pealm_llama.convert:import_gguf",
        detect="pealm_llama.gguf_file:is_gguf",
        families=("llama",),
        dtypes=("fp32", "fp16", "bf16", "q8_0"),
    )
