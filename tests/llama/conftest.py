"""transformers' models of the family with random weights, and a small tokenizer: what ours is compared with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SIZES = {
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SMOLLM2 = {
    "hidden_size": 36,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 96,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
}
QWEN2 = {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
# name → model type and what differs from SIZES
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "all heads have keys": ("llama", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "one head has keys": ("llama", {"num_key_value_heads": 1}),
    "wide heads": ("llama", {"head_dim": 10}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5}),
    "smollm2": ("llama", SMOLLM2),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", QWEN2),
    "qwen3": ("qwen3", {"head_dim": 8}),
}


@pytest.fixture(scope="session")
def peer() -> Callable[..., Any]:
    """Makes a model: `peer("qwen2", num_hidden_layers=1)`. Biases and norms are random as well."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(kind: str = "llama", **changes: Any) -> Any:
        family, own = KINDS[kind]
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**SIZES, **own, **changes})
        model: Any = AutoModelForCausalLM.from_config(config).train(False)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += (0.3 if parameter.dim() == 1 else 0.1) * torch.randn_like(parameter)
        return model

    return make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of 280 tokens, as transformers saves it with a model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    ours: Any = Tokenizer(models.BPE())
    ours.pre_tokenizer, ours.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    ours.train_from_iterator(["the quick brown fox jumps over the lazy dog.\n" * 8], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs: Any = PreTrainedTokenizerFast(tokenizer_object=ours, eos_token="<|im_end|>")
    theirs.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    theirs.save_pretrained(folder)
    return folder
