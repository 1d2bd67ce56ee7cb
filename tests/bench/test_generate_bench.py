"""scripts/bench/generate.py at a tiny size: a small Llama in place of SmolLM2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "generate.py"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A Llama as GGUF, without a tokenizer."""
    from pealm_formats.gguf_file import write_gguf
    from pealm_llama.config import LlamaConfig
    from pealm_llama.gguf_file import fields_of, tensors_of
    from pealm_llama.model import Llama

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=300, n_layer=1, n_head=2, n_kv_head=1, n_embd=64, block_size=64)
    state = Llama(config).state_dict()
    write_gguf(tmp_path / "x.gguf", "llama", fields_of(config), tensors_of(config, state), None)
    return tmp_path / "x.gguf"


def run(*options: object) -> str:
    command = [sys.executable, str(SCRIPT), "--quick", "--threads", "1", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_rows_beside_transformers(small: Path) -> None:
    pytest.importorskip("transformers")
    out = run("--model", "smollm2", "--file", small)
    for words in (
        "pealm fp32, B = 8",
        "pealm int8",
        "transformers",
        "goal: pealm int8 at least 4 times transformers",
    ):
        assert words in out, words
    assert "8 of 8 greedy tokens are those of: transformers" in out


@pytest.mark.slow
def test_rows_of_llama_cpp(small: Path, tmp_path: Path) -> None:
    """A stand-in for llama-bench that reads the file it gets: the real one has to be built."""
    program = tmp_path / "llama-bench"
    program.write_text(
        f"#!{sys.executable}\nimport sys, gguf\n"
        "options = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "assert options['-t'] == '1' and options['-o'] == 'json'\n"
        "kinds = {t.tensor_type.name for t in gguf.GGUFReader(options['-m']).tensors}\n"
        "print('[{\"avg_ts\": %d}]' % (200 if 'Q8_0' in kinds else 100))\n"
    )
    program.chmod(0o755)
    out = run(
        "--model", "smollm2", "--file", small, "--llama-bench", program, "--only", "llama.cpp F32", "llama.cpp Q8_0"
    )
    rows = {line[:24].strip(): line.split() for line in out.splitlines()}
    assert "100.0" in rows["llama.cpp F32"] and "200.0" in rows["llama.cpp Q8_0"]
