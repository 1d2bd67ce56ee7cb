"""Tokens a second with guessed tokens over those without, on text with repetition and on text without.

    python scripts/bench/speculate.py            # GPT-2 124M's shape with random weights: minutes
    python scripts/bench/speculate.py --ckpt RUN --prompt TEXT --temperature 0

Without --ckpt: the best case are weights whose residual branches are zero, which write one token again and again;
the worst case is noise, from random weights at temperature 1. Rounds alternate; ratios are of each round's total
time, the prompt's pass left out.
"""

import argparse
import copy
import dataclasses
import time
from statistics import median
from typing import Any

import torch

from pealm_core import Sampling, load
from pealm_core.hardware.inference_weights import prepare
from pealm_core.inference.generate import generate_steps
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2


def measure(model: Any, prompt: list[int], sampling: Sampling) -> tuple[float, int, list[int]]:
    """Return seconds after the first token, passes of the model, and the ids."""
    passes, ids, started = 0, list[int](), 0.0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    hook = model.register_forward_hook(count)
    for token, _ in generate_steps(model, [prompt], sampling):
        started = started or time.perf_counter()
        ids.append(int(token))
    hook.remove()
    return time.perf_counter() - started, passes, ids


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="a run or checkpoint [GPT-2 with random weights]")
    parser.add_argument("--prompt", default="", help="its prompt")
    parser.add_argument("--temperature", type=float, default=0.0, help="of its text [0]")
    parser.add_argument("--quantize", choices=("int8", "int4"), help="quantize the weights")
    parser.add_argument("--layers", type=int, default=12, help="GPT-2's layers [12]")
    parser.add_argument("--tokens", type=int, default=100, help="new tokens a round [100]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds [3]")
    parser.add_argument("--guess", type=int, default=8, help="most tokens guessed at a time [8]")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.ckpt:
        lm = load(args.ckpt, device="cpu", dtype="fp32", quantize=args.quantize)
        prompt, cases = lm.encode(args.prompt), [("text", args.temperature, lm.model)]
    else:
        plain = GPT2(GPT2Config(vocab_size=50257, block_size=1024, n_layer=args.layers)).eval()
        repeating = copy.deepcopy(plain)
        for name, parameter in repeating.named_parameters():
            if "c_proj" in name:
                parameter.data.zero_()
        prompt = torch.randint(50257, (16,)).tolist()
        cases = [
            ("repetition", 0.0, prepare(repeating, args.quantize)),
            ("noise", 1.0, prepare(plain, args.quantize)),
        ]
    for what, temperature, model in cases:
        sampling = Sampling(max_new_tokens=args.tokens, temperature=temperature, seed=1)
        guessing = dataclasses.replace(sampling, speculate=args.guess)
        ratios, results = [], []
        for _ in range(args.rounds):
            results = [measure(model, prompt, chosen) for chosen in (sampling, guessing)]
            ratios.append(results[0][0] / results[1][0])
        (_, before, text), (_, after, same) = results
        print(
            f"{what}: {median(ratios):.2f} times ({min(ratios):.2f}-{max(ratios):.2f}) as fast with "
            f"guesses; {before} and {after} passes; the text is {'the same' if text == same else 'another'}"
        )


if __name__ == "__main__":
    main()
