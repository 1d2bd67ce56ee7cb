"""Tokens a second of GPT-2 124M with random weights, beside the machine's bandwidth and transformers.

    python scripts/bench/generate.py            # all of it: minutes
    python scripts/bench/generate.py --layers 2 --quick

Greedy, B = 1 unless a row says otherwise: pealm in fp32 and int8, transformers' `generate` with its cache, a loop
without a cache. Rounds alternate; a row shows the median step of its best round. A new token reads every weight of a
linear layer once, and the cache: the measured bandwidth over those bytes is the limit, and "share" is how much of it
a row reaches.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from pealm_core import Sampling
from pealm_core.hardware.inference_weights import bytes_per_token, prepare, read_bandwidth
from pealm_core.inference.generate import generate_ids
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2

GOALS = {
    "pealm fp32": (2.0, "transformers"),
    "pealm int8": (4.0, "transformers"),
    "pealm fp32, B = 8": (5.0, "pealm fp32"),
}
LLAMA_CPP = "llama.cpp on two such cores, seen elsewhere: 60 tokens/s with F32 weights, 137 with Q8_0"


@dataclass
class Row:
    """A way to write tokens: called with their number, it gives their ids one by one, all rows at once."""

    name: str
    write: Callable[[int], Iterator[Any]]
    reads: float  # bytes a step
    batch: int = 1
    step: float = field(default=float("inf"))  # seconds, the median step of the best round

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


class Peer:
    """transformers' GPT-2 with the weights of ours; its streamer tells when a token is there."""

    def __init__(self, model: GPT2) -> None:
        from transformers import GPT2Config as PeerConfig
        from transformers import GPT2LMHeadModel

        c = model.config
        self.model: Any = GPT2LMHeadModel(
            PeerConfig(
                vocab_size=c.vocab_size, n_positions=c.block_size, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd
            )
        )
        self.model.train(False)
        own = model.state_dict()
        own["wte.weight"] = own["wte.weight"][: c.vocab_size]
        flipped = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # Conv1D has its weights transposed
        state = {f"transformer.{name}": w.t() if name.endswith(flipped) else w for name, w in own.items()}
        state["lm_head.weight"] = own["wte.weight"]
        self.model.load_state_dict(state)

    def write(self, prompt: list[int], tokens: int, times: list[float]) -> list[int]:
        """Greedy ids; times: when each came."""
        from transformers.generation.streamers import BaseStreamer

        class Clock(BaseStreamer):
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


def measure(row: Row, tokens: int) -> list[Any]:
    """Write once; keep the median step where it is better. The prompt's own pass does not count."""
    times, ids = [], []
    for token in row.write(tokens):
        times.append(time.perf_counter())
        ids.append(token)
    if ids and isinstance(ids[0], tuple):  # the peer hands its own times back
        times, ids = [t for t, _ in ids], [i for _, i in ids]
    steps = sorted(b - a for a, b in pairwise(times))
    row.step = min(row.step, steps[len(steps) // 2])
    return ids


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="GPT-2's layers [12]")
    parser.add_argument("--tokens", type=int, default=100, help="new tokens a round [100]")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt [16]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds [3]")
    parser.add_argument("--threads", type=int, default=None, help="threads [as many as torch takes]")
    parser.add_argument("--quick", action="store_true", help="one round of 8 tokens, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.rounds = 8, 1
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=50257, block_size=1024, n_layer=args.layers)).eval()
    prompt = torch.randint(50257, (args.prompt,)).tolist()
    blocks, int8 = prepare(copy.deepcopy(model)), prepare(copy.deepcopy(model), "int8")
    held = args.prompt + args.tokens / 2  # tokens in the cache, halfway
    cache = 2 * args.layers * model.config.n_embd * 4 * held

    def ours(name: str, model: Any, batch: int = 1) -> Row:
        def write(tokens: int) -> Iterator[list[int]]:
            sampling = Sampling(max_new_tokens=tokens, temperature=0, num_samples=batch)
            return (ids.tolist() for ids in generate_ids(model, prompt, sampling))

        return Row(name, write, bytes_per_token(model) + batch * cache, batch)

    rows = [
        ours("pealm fp32", blocks),
        ours("pealm int8", int8),
        ours("pealm fp32, B = 8", blocks, 8),
        ours("pealm int8, B = 8", int8, 8),
        ours("pealm, plain F.linear", model),
        Row("loop without a cache", lambda n: without_cache(model, prompt, n), bytes_per_token(model)),
    ]
    try:
        peer = Peer(model)

        def theirs(tokens: int) -> Iterator[tuple[float, int]]:
            times: list[float] = []
            ids = peer.write(prompt, tokens, times)
            return iter(list(zip(times[-tokens:], ids, strict=True)))

        rows.append(Row("transformers", theirs, bytes_per_token(model) + cache))
    except ImportError:
        print("transformers is not installed: no row of it", file=sys.stderr)
    bandwidth, texts = 0.0, dict[str, list[Any]]()
    for turn in range(args.rounds + 1):
        bandwidth = max(bandwidth, read_bandwidth())
        for row in rows:
            texts[row.name] = measure(row, args.tokens if turn else 4)  # the first warms up
            if not turn:
                row.step = float("inf")
    print(
        f"GPT-2, {args.layers} layers, random weights; {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}; prompt {args.prompt}, {args.tokens} new tokens; reads {bandwidth / 1e9:.1f} GB/s"
    )
    print(f"{'':<24}{'tokens/s':>10}{'ms/step':>9}{'MB/step':>9}{'limit':>8}{'share':>7}")
    for row in rows:
        limit = row.batch * bandwidth / row.reads
        print(
            f"{row.name:<24}{row.speed:>10,.1f}{1000 * row.step:>9.2f}{row.reads / 1e6:>9,.1f}{limit:>8,.0f}"
            f"{100 * row.speed / limit:>6.0f}%"
        )
    by_name = {row.name: row for row in rows}
    for name, (times, other) in GOALS.items():
        if other in by_name:
            ratio = by_name[name].speed / by_name[other].speed
            met = "met" if ratio >= times else "missed"
            print(f"goal: {name} at least {times:g} times {other}: {ratio:.2f}, {met}")
    plain = [ids[0] if isinstance(ids, list) else ids for ids in texts["pealm fp32"]]
    for name in ("transformers", "loop without a cache"):
        if name in texts:
            same = sum(a == b for a, b in zip(plain, texts[name], strict=True))
            print(f"{same} of {len(plain)} greedy tokens are those of: {name}")
    print(LLAMA_CPP)


if __name__ == "__main__":
    main()
