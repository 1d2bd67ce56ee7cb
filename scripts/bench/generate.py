"""Tokens a second beside transformers, llama.cpp and the machine's bandwidth: GPT-2 124M, or SmolLM2-135M.

    python scripts/bench/generate.py            # GPT-2 with random weights, all of it: minutes
    python scripts/bench/generate.py --layers 2 --quick
    python scripts/bench/generate.py --model smollm2 --file MODEL.gguf --llama-bench build/bin/llama-bench

Greedy, B = 1 unless a row says otherwise ("8 lengths": eight prompts, none as long as another): pealm in fp32 and
int8, transformers' `generate` with its cache, a loop without a cache, and llama.cpp's llama-bench with the same
weights as F32 and Q8_0 (`scripts/proof/llama_cpp.py` builds it). Rounds alternate; a row shows the median over the
rounds of each round's median step, and the range of those; the goals compare round by round. A new token reads every
weight of a linear layer once, and the cache: the measured bandwidth over those bytes is the limit, and "share" is how
much of it a row reaches.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pealm_core import Sampling
from pealm_core.hardware.inference_weights import bytes_per_token, prepare, read_bandwidth
from pealm_core.inference.generate import generate_steps
from pealm_formats.gguf_file import write_gguf
from pealm_gpt2 import gguf_file as gpt2_gguf
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2

GOALS = (
    ("pealm fp32", 2.0, "transformers"),
    ("pealm int8", 4.0, "transformers"),
    ("pealm fp32, B = 8", 5.0, "pealm fp32"),
    ("pealm fp32, 8 lengths", 6.0, "pealm fp32"),
    ("pealm fp32", 0.9, "llama.cpp F32"),
    ("pealm int8", 0.9, "llama.cpp Q8_0"),
)
NO_TOKENIZER = {"tokenizer.ggml.model": "none"}  # llama-bench needs none


@dataclass
class Row:
    """A way to write tokens: called with their number, it gives their ids one by one, all rows at once."""

    name: str
    write: Callable[[int], Iterator[Any]]
    reads: float  # bytes a step
    batch: int = 1
    steps: list[float] = field(default_factory=list)  # seconds, the median step of each round

    @property
    def step(self) -> float:
        """Seconds a step: the median of the rounds."""
        return median(self.steps)

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.batch / self.step


def without_cache(model: Any, prompt: list[int], tokens: int) -> Iterator[int]:
    """The whole text through the model for every token."""
    ids = torch.tensor([prompt])
    for _ in range(tokens):
        with torch.inference_mode():
            logits = model(ids, at=[-1])[0]
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        yield int(ids[0, -1])


def gpt2_of_transformers(model: GPT2) -> Any:
    """transformers' GPT-2 with the weights of ours."""
    from transformers import GPT2Config as PeerConfig
    from transformers import GPT2LMHeadModel

    c = model.config
    peer: Any = GPT2LMHeadModel(
        PeerConfig(
            vocab_size=c.vocab_size, n_positions=c.block_size, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd
        )
    )
    own = model.state_dict()
    own["wte.weight"] = own["wte.weight"][: c.vocab_size]
    flipped = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # Conv1D has its weights transposed
    state = {f"transformer.{name}": w.t() if name.endswith(flipped) else w for name, w in own.items()}
    state["lm_head.weight"] = own["wte.weight"]
    peer.load_state_dict(state)
    return peer


def llama_of_transformers(model: Any) -> Any:
    """transformers' Llama with the weights of ours."""
    from transformers import AutoModelForCausalLM

    from pealm_llama.layout import write_folder

    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), model.config, model.state_dict(), eot_id=None)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


class Peer:
    """A model of transformers; its streamer tells when a token is there."""

    def __init__(self, model: Any) -> None:
        self.model = model.train(False)

    def write(self, prompt: list[int], tokens: int, times: list[float]) -> list[int]:
        """Greedy ids; times: when each came."""
        from transformers.generation.streamers import BaseStreamer

        class Clock(BaseStreamer):  # type: ignore[misc]
            def put(self, value: Any) -> None:
                times.append(time.perf_counter())

            def end(self) -> None:
                pass

        found = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
            eos_token_id=None,
            streamer=Clock(),
        )
        ids: list[int] = found[0, len(prompt) :].tolist()
        return ids


def bench(program: Path, model: Path, threads: int) -> Callable[[int], Iterator[tuple[float, int]]]:
    """Return a way to write tokens by llama-bench, which tells their mean speed only."""

    def write(tokens: int) -> Iterator[tuple[float, int]]:
        words = ["-m", model, "-t", threads, "-p", 0, "-n", tokens, "-r", 1, "-o", "json"]
        done = subprocess.run([str(program), *map(str, words)], check=True, capture_output=True)
        step = 1 / json.loads(done.stdout)[0]["avg_ts"]
        return ((i * step, 0) for i in range(tokens))

    return write


def measure(row: Row, tokens: int) -> list[Any]:
    """Write once and keep the median step. The prompt's own pass does not count."""
    times, ids = [], []
    for token in row.write(tokens):
        times.append(time.perf_counter())
        ids.append(token)
    if ids and isinstance(ids[0], tuple):  # the peer hands its own times back
        times, ids = [t for t, _ in ids], [i for _, i in ids]
    row.steps.append(median(b - a for a, b in pairwise(times)))
    return ids


def smollm2(file: Path) -> Any:
    """Read SmolLM2 from a GGUF file."""
    from pealm_llama.gguf_file import read_gguf
    from pealm_llama.model import Llama

    config, state = read_gguf(file)
    model = Llama(config).eval()
    model.load_state_dict(state)
    return model


def write_files(model: Any, folder: Path) -> dict[str, Path]:
    """Write a model for llama.cpp; return the files by the names of their rows."""
    from pealm_llama import gguf_file as llama_gguf

    own: Any = gpt2_gguf if isinstance(model, GPT2) else llama_gguf
    family = "gpt2" if own is gpt2_gguf else "llama"
    fields = {**own.fields_of(model.config), **NO_TOKENIZER, ".vocab_size": model.config.vocab_size}
    files = {f"llama.cpp {name}": folder / f"{name}.gguf" for name in ("F32", "Q8_0")}
    for path, dtype in zip(files.values(), ("fp32", "q8_0"), strict=True):
        write_gguf(path, family, fields, own.tensors_of(model.config, model.state_dict()), dtype)
    return files


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("gpt2", "smollm2"), default="gpt2", help="which model [gpt2]")
    parser.add_argument("--file", type=Path, help="SmolLM2-135M-Instruct as GGUF (scripts/proof/smollm2.py)")
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's program of this name, for rows of it")
    parser.add_argument("--layers", type=int, default=12, help="GPT-2's layers [12]")
    parser.add_argument("--tokens", type=int, default=100, help="new tokens a round [100]")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt [16]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds [3]")
    parser.add_argument("--threads", type=int, default=None, help="threads [as many as torch takes]")
    parser.add_argument("--only", nargs="*", help="rows by name [all]")
    parser.add_argument("--quick", action="store_true", help="one round of 8 tokens, to see that it runs")
    args = parser.parse_args()
    if args.model == "smollm2" and args.file is None:
        parser.error("--model smollm2 needs --file MODEL.gguf")
    if args.quick:
        args.tokens, args.rounds = 8, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder))


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Measure all rows in turns and print them."""
    torch.manual_seed(0)
    model: Any = smollm2(args.file) if args.model == "smollm2" else None
    model = model or GPT2(GPT2Config(vocab_size=50257, block_size=1024, n_layer=args.layers)).eval()
    config = model.config
    prompt = torch.randint(config.vocab_size, (args.prompt,)).tolist()
    fast, int8 = prepare(copy.deepcopy(model)), prepare(copy.deepcopy(model), "int8")
    cached = args.prompt + args.tokens / 2  # tokens in the cache, halfway
    width = config.n_embd if args.model == "gpt2" else config.kv_heads * config.width
    cache = 2 * config.n_layer * width * 4 * cached

    def ours(name: str, model: Any, batch: int = 1, prompts: int = 1) -> Row:
        def write(tokens: int) -> Iterator[list[int]]:
            sampling = Sampling(max_new_tokens=tokens, temperature=0, num_samples=batch // prompts)
            texts = [(prompt * 2)[: len(prompt) + number] for number in range(prompts)]
            return (ids.tolist() for ids, _ in generate_steps(model, texts, sampling))

        return Row(name, write, bytes_per_token(model) + batch * cache, batch)

    rows = [
        ours("pealm fp32", fast),
        ours("pealm int8", int8),
        ours("pealm fp32, B = 8", fast, 8),
        ours("pealm int8, B = 8", int8, 8),
        ours("pealm fp32, 8 lengths", fast, 8, 8),
        ours("pealm int8, 8 lengths", int8, 8, 8),
        ours("pealm, plain F.linear", model),
        Row("loop without a cache", lambda n: without_cache(model, prompt, n), bytes_per_token(model)),
    ]
    try:
        peer = Peer(gpt2_of_transformers(model) if args.model == "gpt2" else llama_of_transformers(model))

        def theirs(tokens: int) -> Iterator[tuple[float, int]]:
            times: list[float] = []
            ids = peer.write(prompt, tokens, times)
            return iter(list(zip(times[-tokens:], ids, strict=True)))

        rows.append(Row("transformers", theirs, bytes_per_token(model) + cache))
    except ImportError:
        print("transformers is not installed: no row of it", file=sys.stderr)
    if args.llama_bench:
        threads = torch.get_num_threads()
        for name, path in write_files(model, folder).items():
            rows.append(Row(name, bench(args.llama_bench, path, threads), path.stat().st_size + cache))
    rows = [row for row in rows if not args.only or row.name in args.only]
    bandwidth, texts = 0.0, dict[str, list[Any]]()
    for turn in range(args.rounds + 1):
        bandwidth = max(bandwidth, read_bandwidth())
        for row in rows:
            texts[row.name] = measure(row, args.tokens if turn else 4)  # the first warms up
            if not turn:
                row.steps.clear()
    show(args, rows, bandwidth)
    plain = [ids[0] if isinstance(ids, list) else ids for ids in texts.get("pealm fp32", [])]
    for name in ("transformers", "loop without a cache"):
        if plain and name in texts:
            same = sum(a == b for a, b in zip(plain, texts[name], strict=True))
            print(f"{same} of {len(plain)} greedy tokens are those of: {name}")


def show(args: argparse.Namespace, rows: list[Row], bandwidth: float) -> None:
    """Print the rows, and whether the goals are met."""
    what = "SmolLM2-135M" if args.model == "smollm2" else f"GPT-2, {args.layers} layers, random weights"
    print(
        f"{what}; {torch.get_num_threads()} thread(s), torch {torch.__version__}; prompt {args.prompt}, "
        f"{args.tokens} new tokens, {args.rounds} round(s); reads {bandwidth / 1e9:.1f} GB/s"
    )
    print(f"{'':<24}{'tokens/s':>10}{'ms/step':>9}{'range':>16}{'MB/step':>9}{'limit':>8}{'share':>7}")
    for row in rows:
        limit = row.batch * bandwidth / row.reads
        spread = f"{1000 * min(row.steps):.2f}-{1000 * max(row.steps):.2f}"
        print(
            f"{row.name:<24}{row.speed:>10,.1f}{1000 * row.step:>9.2f}{spread:>16}{row.reads / 1e6:>9,.1f}"
            f"{limit:>8,.0f}{100 * row.speed / limit:>6.0f}%"
        )
    by_name = {row.name: row for row in rows}
    for name, times, other in GOALS:
        if name in by_name and other in by_name:
            one, two = by_name[name], by_name[other]
            ratios = [(b / two.batch) / (a / one.batch) for a, b in zip(one.steps, two.steps, strict=True)]
            ratio = median(ratios)
            print(
                f"goal: {name} at least {times:g} times {other}: {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}), "
                f"{'met' if ratio >= times else 'missed'}"
            )


if __name__ == "__main__":
    main()
