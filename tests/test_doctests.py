"""Every worked example in a docstring of ours is right."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = (
    "pea",
    "pealm_bpe",
    "pealm_char",
    "pealm_char_bigram",
    "pealm_char_transformer",
    "pealm_chat",
    "pealm_clean",
    "pealm_convert",
    "pealm_conversations",
    "pealm_core",
    "pealm_cpu",
    "pealm_data",
    "pealm_ema",
    "pealm_estimate",
    "pealm_evals",
    "pealm_files",
    "pealm_fineweb",
    "pealm_formats",
    "pealm_fsdp",
    "pealm_gpt2",
    "pealm_hellaswag",
    "pealm_hf_datasets",
    "pealm_hf_tokenizer",
    "pealm_kindergarten",
    "pealm_llama",
    "pealm_lm_eval",
    "pealm_lora",
    "pealm_multiple_choice",
    "pealm_muon",
    "pealm_npy_shards",
    "pealm_perplexity",
    "pealm_records",
    "pealm_report",
    "pealm_schedules",
    "pealm_serve",
    "pealm_sprout",
    "pealm_sweep",
    "pealm_tensorboard",
    "pealm_testing",
    "pealm_text",
    "pealm_tiktoken",
    "pealm_tinyshakespeare",
    "pealm_wandb",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings(package: str) -> None:
    root = importlib.import_module(package)
    names = [info.name for info in pkgutil.walk_packages(root.__path__, package + ".")]
    for name in [package, *(name for name in names if not name.endswith("__main__"))]:
        assert doctest.testmod(importlib.import_module(name)).failed == 0, name
