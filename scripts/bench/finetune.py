"""Fine-tuning beside what others use: LoRA beside `peft`, all weights beside a plain loop over transformers.

    python scripts/bench/finetune.py                # GPT-2's shape of 124M, random weights, fp32; needs peft
    python scripts/bench/finetune.py --full         # all weights are trained; needs no peft

Both train the same weights on the same batches, with the same targets, rank, initial updates and AdamW, each in a
process of its own, in turns. pealm runs as users run it (`pealm train`), the other is a loop over GPT2LMHeadModel:
forward, backward, clipping, fused AdamW. As in conversations, half of the tokens are read and not scored; with
`--scored 1` all are. Printed are the ratio of their tokens/s (the median over the turns and its spread),
the peak memory of each, and both loss curves.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

WORKER = Path(__file__).with_name("finetune_worker.py")
TURN = 64  # tokens of a question and its answer
GOAL = 1.2  # times the tokens/s of peft
LR = {False: 3e-4, True: 3e-5}  # by whether all weights are trained


class Trainer:
    """A process that trains; a line of JSON on its pipe says what a turn took."""

    def __init__(self, name: str, spec: dict[str, Any], command: list[str]) -> None:
        self.name, self.rows = name, list[dict[str, Any]]()
        (ours, go), (answer, theirs) = os.pipe(), os.pipe()
        environment = {**os.environ, "FINETUNE": json.dumps({**spec, "go": ours, "answer": theirs})}
        self._process = subprocess.Popen(
            command, env=environment, pass_fds=(ours, theirs), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        os.close(ours)
        os.close(theirs)
        self._go, self._answer = os.fdopen(go, "w", buffering=1), os.fdopen(answer)

    def turn(self) -> None:
        """Let it do some steps. Exits with its last words if it fails."""
        with suppress(BrokenPipeError):
            print("go", file=self._go)
        line = self._answer.readline()
        if not line:
            sys.exit(f"{self.name} failed:\n{self._process.communicate()[1].decode()[-2000:]}")
        self.rows.append(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._go.close()
        self._answer.close()

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [loss for row in self.rows for loss in row["losses"]]


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Write the base in both layouts, tokens that can be learned a little, and the updates' first matrices."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(args.seed)
    sizes = {"n_layer": args.n_layer, "n_head": args.n_head, "n_embd": args.n_embd, "n_positions": args.block_size}
    ends = {"vocab_size": args.vocab_size, "bos_token_id": None, "eos_token_id": None}
    model: Any = GPT2LMHeadModel(GPT2Config(**sizes, **ends))
    model.save_pretrained(folder / "theirs")
    ours, updates = dict(model.transformer.state_dict()), {}
    for name, module in model.transformer.named_modules():
        if type(module).__name__ == "Conv1D":  # whose matrix is (in, out)
            rows = module.weight.shape[0]
            updates[name] = torch.randn(args.rank, rows) * rows**-0.5
            ours[f"{name}.weight"] = module.weight.detach().t().contiguous()
    save_file(ours, folder / "ours.safetensors")
    save_file(updates, folder / "updates.safetensors")
    (folder / "tokens").mkdir()
    random = np.random.default_rng(args.seed)
    for split, count in (("train", 400_000), ("val", 20_000)):
        tokens = np.minimum(random.zipf(1.3, size=count) - 1, args.vocab_size - 1).astype(np.uint16)
        np.save(folder / "tokens" / f"{split}-00000.npy", tokens)
        mask = np.arange(count) % TURN >= TURN * (1 - args.scored)
        mask.astype(np.uint8).tofile(folder / "tokens" / f"{split}-00000.mask")


def pealm(folder: Path, args: argparse.Namespace) -> list[str]:
    """Return the command that trains the base in pealm."""
    adapter = ["--adapter", "lora", "--adapter.rank", str(args.rank), "--adapter.alpha", str(2 * args.rank)]
    steps = args.warmup + args.rounds * args.steps
    return [
        *(sys.executable, "-m", "pealm", "--plugin", str(WORKER), "train", "gpt2"),
        *(
            "--init",
            str(folder / "ours.safetensors"),
            "--input.npy-shards",
            str(folder / "tokens"),
            "--tokenizer",
            "ids",
        ),
        *(
            "--model.n-layer",
            str(args.n_layer),
            "--model.n-head",
            str(args.n_head),
            "--model.n-embd",
            str(args.n_embd),
        ),
        *("--model.block-size", str(args.block_size)),
        *("--batch-size", str(args.batch_size), "--lr", str(args.lr), "--grad-clip", "1", "--warmup-steps", "0"),
        *("--schedule", "constant", "--optimizer.weight-decay", "0", "--optimizer.beta2", "0.999"),
        *("--dtype", "fp32", "--eval-every", "0", "--eval-tokens", str(max(args.block_size, TURN))),
        *("--steps", str(steps + 1), "--save-every", "0", "--out", str(folder / "run"), "--device", "cpu"),
        *([] if args.full else [*adapter, "--adapter.targets", args.targets]),
    ]


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="train all weights")
    parser.add_argument("--targets", choices=("attention", "all"), default="attention")
    parser.add_argument("--scored", type=float, default=0.5, help="fraction of the tokens that are answers [0.5]")
    parser.add_argument("--lr", type=float, help="[3e-4; 3e-5 with --full]")
    for name, default, help_ in (
        ("rank", 8, "of the updates"),
        ("n-layer", 12, "blocks"),
        ("n-head", 12, "heads"),
        ("n-embd", 768, "width"),
        ("vocab-size", 50257, "tokens"),
        ("batch-size", 4, "sequences a step"),
        ("block-size", 256, "tokens a sequence"),
        ("warmup", 2, "steps before the first turn"),
        ("rounds", 5, "turns of each"),
        ("steps", 2, "steps of a turn"),
        ("seed", 1, "of weights and data"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{help_} [{default}]")
    args = parser.parse_args()
    args.lr = args.lr or LR[args.full]
    return args


def main() -> None:
    """Measure and print."""
    args = options()
    other = "transformers" if args.full else "peft"
    if find_spec(other) is None:
        sys.exit(f"{other} is not installed: pip install {other}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args)
        spec = {**vars(args), "folder": name}
        commands = {"pealm": pealm(folder, args), other: [sys.executable, str(WORKER)]}
        trainers = [Trainer(key, spec, command) for key, command in commands.items()]
        for number in range(args.rounds + 1):  # the first turn warms up
            for trainer in trainers[:: 1 if number % 2 else -1]:
                trainer.turn()
        for trainer in trainers:
            trainer.close()
    what = "all weights" if args.full else f"LoRA, rank {args.rank}, {args.targets}"
    shape = f"{args.n_layer} layers, {args.n_embd} wide"
    batch = f"{args.batch_size} x {args.block_size} tokens, {args.scored:.0%} of them scored"
    print(f"GPT-2, {shape}; {what}; {batch}; fp32")
    cpu = [median(r["cpu"] for r in trainer.rows[1:]) for trainer in trainers]
    tokens, seconds = args.batch_size * args.block_size, [[r["seconds"] for r in t.rows[1:]] for t in trainers]
    for trainer, times in zip(trainers, seconds, strict=True):
        memory = trainer.rows[-1]["memory"] / 2**20
        print(f"{trainer.name:<13}{tokens / median(times):8,.0f} tokens/s  peak memory {memory:7,.0f} MiB")
    ratios = sorted(theirs / ours for ours, theirs in zip(*seconds, strict=True))
    goal = "" if args.full else f"; the goal is at least {GOAL}"
    print(f"tokens/s: {median(ratios):.2f} times {other} ({ratios[0]:.2f} to {ratios[-1]:.2f}){goal}")
    print(f"tokens for a second of processor time: {cpu[1] / cpu[0]:.2f} times {other}")
    ours, theirs = (trainer.losses for trainer in trainers)
    for trainer in trainers:
        print(f"{trainer.name:<13}losses {' '.join(f'{loss:.4f}' for loss in trainer.losses)}")
    print(f"largest difference of a step's losses: {max(abs(a - b) for a, b in zip(ours, theirs, strict=True)):.1e}")


if __name__ == "__main__":
    main()
