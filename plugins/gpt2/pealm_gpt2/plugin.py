"""What pealm-gpt2 provides."""

from collections.abc import Iterator
from typing import Any

from pealm_core import FormatSpec, ModelSpec, hookimpl

# Radford et al. (2019), table 2; the paper's smallest is the default.
SIZES: dict[str, dict[str, Any]] = {
    "medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}

# To fine-tune on conversations: three passes, at a rate that keeps what was learned before.
CHAT = {
    "train": {"epochs": 3, "batch_size": 32, "micro_batch_size": 4, "lr": 5e-5, "warmup_steps": 30},
    "optimizer": {"name": "adamw", "weight_decay": 0.01},
}


@hookimpl
def pealm_models() -> Iterator[ModelSpec]:
    """The models `gpt2`, to train, and `gpt2-pretrained`, to start from OpenAI's weights."""
    yield ModelSpec(
        name="gpt2",
        summary="GPT-2, 124M to 1.5B",
        config="pealm_gpt2.config:GPT2Config",
        factory="pealm_gpt2.model:GPT2",
        tokenizer="tiktoken",
        presets={**SIZES, "chat": CHAT},
        depth="pealm_core:depth_preset",
        # 524,288 tokens a step; 19,073 steps are one epoch of 10 billion tokens.
        recipe={
            "train": {
                "steps": 19_073,
                "batch_size": 512,
                "micro_batch_size": 16,  # 512 at once would fit no GPU; what is learned is the same
                "lr": 6e-4,
                "warmup_steps": 715,
                "grad_clip": 1.0,
            },
            "schedule": {"name": "cosine", "min_lr_ratio": 0.1},
            "optimizer": {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1},
            "input": {"npy-shards": "data/fineweb_edu10B"},
        },
    )
    yield ModelSpec(
        name="gpt2-pretrained",
        summary="GPT-2 with OpenAI's weights",
        config="pealm_gpt2.config:PretrainedConfig",
        factory="pealm_gpt2.model:GPT2",
        pretrained="pealm_gpt2.pretrained:pretrained",
        vocabulary="pealm_gpt2.pretrained:vocabulary",
        family="gpt2",
        tokenizer="tiktoken",
        presets={size: {"size": size} for size in SIZES},
    )


@hookimpl
def pealm_formats() -> Iterator[FormatSpec]:
    """The formats `hf`, the folders that transformers loads and saves, and `gguf`, the files of llama.cpp."""
    yield FormatSpec(
        name="hf",
        summary="GPT-2 as transformers loads and saves it",
        exporter="pealm_gpt2.convert:export_folder",
        importer="pealm_gpt2.convert:import_folder",
        detect="pealm_gpt2.layout:is_gpt2",
        families=("gpt2",),
    )
    yield FormatSpec(
        name="gguf",
        summary="A file of llama.cpp; any precision is read as fp32",
        exporter="pealm_gpt2.convert:export_gguf",
        importer="pealm_gpt2.convert:import_gguf",
        detect="pealm_gpt2.gguf_file:is_gguf",
        families=("gpt2",),
        dtypes=("fp32", "fp16", "bf16", "q8_0"),
    )
