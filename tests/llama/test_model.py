"""The Llama family by itself: sizes, first weights, cache, settings that do not fit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core.checkpoints.build_model import check_model
from pealm_llama.config import LlamaConfig
from pealm_llama.model import Llama, rotary_speeds
from pealm_llama.plugin import SIZES

CONFIG = LlamaConfig(vocab_size=11, block_size=8, n_layer=2, n_head=4, n_kv_head=2, n_embd=16)


@pytest.mark.parametrize(
    ("size", "vocabulary", "count"),
    [
        ("135m", 49_152, 134_515_008),
        ("360m", 49_152, 361_821_120),
        ("0.5b", 151_936, 494_032_768),
        ("1b", 128_256, 1_235_814_400),
    ],
)
def test_the_presets_have_the_published_numbers_of_parameters(size: str, vocabulary: int, count: int) -> None:
    with torch.device("meta"):
        model = Llama(LlamaConfig(vocab_size=vocabulary, **SIZES[size]))
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_defaults_are_the_smallest_published_size() -> None:
    assert LlamaConfig() == LlamaConfig(**{**SIZES["135m"], "n_inner": None}) and LlamaConfig().inner == 1536


def test_first_weights() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, block_size=64, n_layer=3, n_head=4, n_kv_head=2, n_embd=128, tied=False, qkv_bias=True
    )
    model = Llama(config)
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if parameter.dim() == 1:
            assert torch.equal(values, torch.full_like(values, float("norm" in name))), name
        else:
            std = 0.02 / math.sqrt(6) if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert float(values.std()) == pytest.approx(std, rel=0.03), name
    _, loss = model(torch.randint(1000, (2, 64)), torch.randint(1000, (2, 64)))
    assert float(loss.detach()) == pytest.approx(math.log(1000), abs=0.1)


def test_it_keeps_the_contract() -> None:
    check_model(Llama(CONFIG), 11)


def test_the_last_block_computes_no_more_positions_than_are_asked_for() -> None:
    torch.manual_seed(0)
    model: Any = Llama(CONFIG).eval()
    idx, computed = torch.randint(11, (2, 8)), list[int]()
    whole = model(idx)[0]
    model.layers[-1].mlp.register_forward_hook(lambda module, args, y: computed.append(y.shape[1]))
    for at in ([-1], slice(2, 5), slice(0, 0)):
        torch.testing.assert_close(model(idx, at=at)[0], whole[:, at])
    assert computed == [1, 3, 0]


def test_positions_are_not_a_table() -> None:
    """A long context costs memory only when it is used."""
    with torch.device("meta"):
        model = Llama(LlamaConfig(vocab_size=11, block_size=10**9, n_layer=1, n_head=2, n_kv_head=1, n_embd=8))
    assert sum(buffer.numel() for buffer in model.buffers()) == 2


def test_llama_3_stretches_long_wavelengths_only() -> None:
    plain = rotary_speeds(LlamaConfig(head_dim=64, rope_base=500_000.0))
    scaled = rotary_speeds(LlamaConfig(head_dim=64, rope_base=500_000.0, rope_factor=32.0))
    ratio, wavelength = plain / scaled, 2 * math.pi / plain
    torch.testing.assert_close(ratio[wavelength < 8192 / 4], torch.ones_like(ratio[wavelength < 8192 / 4]))
    torch.testing.assert_close(ratio[wavelength > 8192], torch.full_like(ratio[wavelength > 8192], 32.0))
    assert bool((ratio.diff() >= -1e-4).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_kv_head": 5}, "n-kv-head 5 does not divide n-head 9"),
        ({"n_embd": 100}, "n-embd 100 is not an even multiple of n-head 9"),
        ({"n_embd": 9 * 31}, "n-embd 279 is not an even multiple of n-head 9"),
        ({"head_dim": 7}, "head-dim 7 is odd"),
        ({"rope_factor": 8.0, "rope_high": 1.0}, "rope-high 1 must be above rope-low 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlamaConfig(**changes)


def test_nano_trains_and_samples(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    line = ("--preset", "nano", "--input.text", book, "--steps", 3, "--batch-size", 2, "--eval-tokens", 100)
    small = ("--model.n-layer", 2, "--model.block-size", 32, "--warmup-steps", 0)
    done = pealm("train", "llama", *line, *small, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    for how in ((), ("--quantize", "int8"), ("--dtype", "bf16")):
        done = pealm("sample", "--ckpt", tmp_path / "run", "--prompt", "the quick", "-n", 40, *how)
        assert done.code == 0 and done.out.startswith("the quick"), done.err
