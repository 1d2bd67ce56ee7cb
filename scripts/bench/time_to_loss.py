"""How fast a model learns: validation loss against wall seconds, beside nanoGPT's CPU recipe in the same run.

    python scripts/bench/time_to_loss.py TINYSHAKESPEARE [--seeds 3] [--out FOLDER] [--long]

(a) a plain GPT with AdamW, exactly as nanoGPT's documented recipe for a CPU has it: 4 layers, 4 heads, 128 wide,
block 64, batch 12, rate 1e-3 to 1e-4 (cosine) over 2,000 steps, warm-up of 100, beta2 0.99, no dropout; written here
in plain PyTorch. (b) `pealm train sprout --preset cpu` for as long as (a) took. Both are scored on the whole
validation text, each in windows of its own block size, and (b) at the end also in windows of 64, where it has the
context that (a) has. Seconds count from the start of the process, with imports and data.
With --long instead `--preset laptop` for ten minutes, as nanoGPT scores its best.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, BATCH, BLOCK = 2000, 12, 64
NANO_BEST = 1.4697  # 10.65 million parameters on an A100, as nanoGPT's README has it
Curve = list[tuple[float, float]]  # (seconds, loss)


def plain(text: Path, folder: Path, seed: int) -> None:
    """Train (a); its weights at every 100th step go to the folder, with the seconds since this process began."""
    began = float(os.environ["BEGAN"])
    import torch
    import torch.nn.functional as F
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    train, _, size = corpus(text)
    model = gpt(size)
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    for step in range(STEPS):
        rate = (
            1e-3 * (step + 1) / 101
            if step < 100
            else 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * (step - 100) / (STEPS - 100)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(train) - BLOCK, (BATCH,))
        idx = torch.stack([train[s : s + BLOCK] for s in starts])
        targets = torch.stack([train[s + 1 : s + BLOCK + 1] for s in starts])
        loss: Any = F.cross_entropy(model(idx).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            save_file(model.state_dict(), folder / f"{time.time() - began:.2f}.safetensors")


def gpt(vocab_size: int) -> Any:
    """nanoGPT's model: learned positions, pre-LayerNorm, GELU, no biases, tied head."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    width, heads, layers = 128, 4, 4

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
            self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            b, t, c = x.shape
            q, k, v = (z.view(b, t, heads, -1).transpose(1, 2) for z in self.qkv(self.ln1(x)).split(c, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
            x = x + self.proj(y)
            out: Tensor = x + self.down(F.gelu(self.up(self.ln2(x))))
            return out

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(BLOCK, width)
            self.blocks, self.ln = nn.Sequential(*(Block() for _ in range(layers))), nn.LayerNorm(width, bias=False)
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    small = name.endswith(("proj.weight", "down.weight"))
                    nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if small else 0.02)

        def forward(self, idx: Tensor) -> Tensor:
            x = self.tokens(idx) + self.positions(torch.arange(idx.shape[1]))
            return F.linear(self.ln(self.blocks(x)), self.tokens.weight)

    return GPT()


def corpus(text: Path) -> tuple[Any, Any, int]:
    """Train and validation tokens (first nine tenths, rest), and the number of characters."""
    import torch

    data = text.read_text(encoding="utf-8")
    place = {char: i for i, char in enumerate(sorted(set(data)))}
    ids = torch.tensor([place[char] for char in data])
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:], len(place)


def score(logits_of: Any, val: Any, block: int) -> float:
    """Nats per character over the whole validation text, in windows of a block that do not overlap."""
    import torch
    import torch.nn.functional as F

    count = (len(val) - 1) // block
    idx, targets = val[: count * block].view(-1, block), val[1 : count * block + 1].view(-1, block)
    total = 0.0
    with torch.no_grad():
        for part in range(0, count, 128):
            logits = logits_of(idx[part : part + 128]).flatten(0, 1).float()
            total += F.cross_entropy(logits, targets[part : part + 128].flatten(), reduction="sum").item()
    return total / int(targets.numel())


def run_plain(text: Path, folder: Path, seed: int) -> Curve:
    """(a), and its losses."""
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    env = {**os.environ, "BEGAN": str(time.time())}
    subprocess.run(
        [sys.executable, __file__, str(text), "--role", str(folder), "--seed", str(seed)], check=True, env=env
    )
    _, val, size = corpus(text)
    model, curve = gpt(size), []
    for path in folder.glob("*.safetensors"):
        model.load_state_dict(load_file(path))
        curve.append((float(path.stem), score(model, val, BLOCK)))
    return sorted(curve)


def pealm_command(text: Path, folder: Path, seed: int, preset: str) -> list[str]:
    """`pealm train` with a preset of sprout."""
    command = [
        sys.executable,
        "-m",
        "pealm",
        "train",
        "sprout",
        "--preset",
        preset,
        "--input.tinyshakespeare",
        str(text),
    ]
    return [*command, "--eval-every", "0", "--eval-tokens", "2000", "--seed", str(seed), "--out", str(folder)]


def startup(text: Path, folder: Path, preset: str) -> float:
    """The seconds from the start of a process to the zero of its own clock."""
    began = time.time()
    subprocess.run([*pealm_command(text, folder, 1, preset), "--steps", "1"], check=True, stdout=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    return metrics.stat().st_mtime - began - float(json.loads(metrics.read_text().splitlines()[-1])["seconds"])


def run_pealm(text: Path, folder: Path, seed: int, preset: str, seconds: float, every: int) -> Curve:
    """(b), and its losses at its own block size. seconds: all that it gets until the last step, as (a) counts."""
    import pealm_core
    from pealm_core.checkpoints import folder as checkpoint

    ahead = startup(text, folder.with_name(f"{folder.name}-start"), preset) + 0.3  # a start is not always as fast
    command = [*pealm_command(text, folder, seed, preset), "--max-seconds", f"{seconds - ahead:.1f}", "--keep", "0"]
    command += ["--save-every", str(every)]
    began = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wall = time.time() - began
    print(f"    wall {wall:.1f} s for {rows[-1]['seconds']:.1f} s of its own clock, {rows[-1]['step']:,} steps")
    own = {row["step"]: row["seconds"] for row in rows}
    saved = {checkpoint.verify(path)["step"]: path for path in checkpoint.steps(folder)}
    # What the wall clock says beyond the run's own is start-up and the writing.
    start = min((path / "state.json").stat().st_mtime - began - own[step] for step, path in saved.items())
    _, val, _ = corpus(text)
    curve = []
    for step, path in sorted(saved.items()):
        model: Any = pealm_core.load(path, device="cpu").model
        loss = score(lambda idx, m=model: m(idx)[0], val, model.config.block_size)
        curve.append((own[step] + start, loss))
    short = score(lambda idx: model(idx)[0], val, BLOCK)
    print(f"    the last model in windows of {model.config.block_size}: {loss:.4f}, of {BLOCK}: {short:.4f}")
    return curve


def when(curve: Curve, loss: float) -> float:
    """The seconds after which the loss was reached."""
    return next((seconds for seconds, value in curve if value <= loss), math.inf)


def chart(curves: dict[str, Curve], path: Path) -> None:
    """Loss against seconds as an SVG, both axes linear."""
    width, height, left, bottom = 720, 420, 60, 40
    most = max(seconds for curve in curves.values() for seconds, _ in curve)
    low, high = 1.4, 3.0

    def x(seconds: float) -> float:
        return left + seconds / most * (width - left - 20)

    def y(loss: float) -> float:
        return 20 + (high - min(max(loss, low), high)) / (high - low) * (height - bottom - 20)

    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
    parts = [f'{head} font-size="12">', f'<rect width="{width}" height="{height}" fill="white"/>']

    def write(at_x: float, at_y: float, text: object, anchor: str = "middle", colour: str = "black") -> None:
        parts.append(f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>')

    for tick in (1.4, 1.6, 1.8, 2.0, 2.4, 2.8):
        parts.append(f'<path d="M{left} {y(tick):.1f}H{width - 20}" stroke="#ddd"/>')
        write(left - 8, y(tick) + 4, tick, "end")
    for tick in range(0, int(most) + 1, 20):
        write(x(tick), height - 20, tick)
    write(width / 2, height - 4, "wall seconds")
    colours = {"a": "#888888", "b": "#1a7f37"}
    for number, (name, curve) in enumerate(curves.items()):
        points, colour = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in curve), colours[name[0]]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        write(width - 30, 30 + 16 * number, f"{name}: {curve[-1][1]:.3f}", "end", colour)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def main() -> None:
    """Run, print the table, write CSV and chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for curves.csv and curves.svg")
    parser.add_argument("--long", action="store_true", help="the ten minutes instead")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--role", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        plain(given.text, given.role, given.seed)
        return
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    curves: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(1, given.seeds + 1):
            if given.long:
                c = run_pealm(given.text, Path(name) / f"c{seed}", seed, "laptop", 600, 500)
                best = f"nanoGPT's best on an A100: {NANO_BEST}"
                print(f"seed {seed}: laptop: {c[-1][1]:.4f} after {c[-1][0]:.1f} s ({best})", flush=True)
                curves[f"b laptop, seed {seed}"] = c
                continue
            a = run_plain(given.text, Path(name) / f"a{seed}", seed)
            seconds = a[-1][0]
            print(f"seed {seed}: (a) nanoGPT's recipe: {a[-1][1]:.4f} after {seconds:.1f} s")
            b = run_pealm(given.text, Path(name) / f"b{seed}", seed, "cpu", seconds, 50)
            reached = when(b, a[-1][1])
            print(
                f"        (b) sprout: {b[-1][1]:.4f} after {b[-1][0]:.1f} s; (a)'s final loss after {reached:.1f} s, "
                f"{seconds / reached:.1f} times as fast",
                flush=True,
            )
            curves |= {f"a seed {seed}": a, f"b seed {seed}": b}
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        with (given.out / "curves.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["run", "seconds", "loss"])
            writer.writerows([run, f"{s:.2f}", f"{v:.4f}"] for run, curve in curves.items() for s, v in curve)
        chart(curves, given.out / "curves.svg")


if __name__ == "__main__":
    main()
