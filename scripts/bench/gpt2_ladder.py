"""The speed-ups of GPT-2's training one by one, each rung beside the first: a table, a CSV file and a chart.

    python scripts/bench/gpt2_ladder.py --out runs/ladder                # a GPU: 124M, 16 x 1024 tokens a step
    python scripts/bench/gpt2_ladder.py --out runs/ladder --device cpu   # the rungs that a CPU has

The ladder begins with fp32, the matrix of attention scores written out, AdamW of many kernels, a vocabulary of
exactly 50,257 and nothing else of what pealm does for speed; each rung keeps those before it. Every rung is a run of
scripts/bench/train.py in a process of its own. Batches are small enough for the first rung, which needs most memory;
options that are not the ladder's go to train.py (--batch-size, --block-size, --steps, --n-layer, ...).
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).with_name("train.py")

# What others got from such a ladder, as the issue gives it: times the first rung's tokens/s.
REFERENCES = {"RTX 3070 mobile": "2.1x, 3.5x, 4.1x", "A30": "2.8x, 6x, 7.8x, 9.3x"}


@dataclass(frozen=True)
class Rung:
    """A speed-up: the options of train.py that it takes away, and what a device must have for it."""

    name: str
    takes: str
    needs: str = ""  # tf32, bf16 or cuda


RUNGS = (
    Rung("fp32, plain", ""),
    Rung("TF32", "tf32", "tf32"),
    Rung("bf16", "--dtype", "bf16"),
    Rung("compile", "compile", "cuda"),
    Rung("flash attention", "flash", "cuda"),
    Rung("fused AdamW", "--unfused"),
    Rung("padded vocabulary", "--unpadded"),
    Rung("prefetch", "prefetch", "cuda"),
    Rung("oneDNN (AMD's CPUs)", "onednn"),
    Rung("freed memory is kept (CPUs)", "heap"),
    Rung("rare garbage collection", "gc"),
)


def climb(has: set[str]) -> list[tuple[Rung, list[str] | None]]:
    """The rungs with their options for train.py; None for one that the device does not have."""
    without = {rung.takes for rung in RUNGS if rung.takes and not rung.takes.startswith("--")}
    flags, rungs = {"--unfused", "--unpadded", "--dtype"}, list[tuple[Rung, list[str] | None]]()
    for rung in RUNGS:
        if rung.needs and rung.needs not in has:
            rungs.append((rung, None))
            continue
        without.discard(rung.takes)
        flags.discard(rung.takes)
        dtype = "fp32" if "--dtype" in flags else "bf16"
        options = ["--dtype", dtype, "--without", *sorted(without), *sorted(flags - {"--dtype"})]
        rungs.append((rung, options))
    return rungs


def run(options: Sequence[str]) -> dict[str, Any]:
    """What train.py measured; {"error": ...} where it failed."""
    done = subprocess.run([sys.executable, str(TRAIN), "--json", *options], capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["it failed without a message"])[-1]}
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def chart(rows: Sequence[dict[str, Any]], title: str, notes: Sequence[str]) -> str:
    """The rungs as horizontal bars, in SVG."""
    left, width, bar, top = 190, 430, 30, 64
    most = max(row["tokens_per_second"] for row in rows)
    height = top + bar * len(rows) + 22 * len(notes) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{height}" viewBox="0 0 860 {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="860" height="{height}" fill="white"/>',
        f'<text x="20" y="28" font-size="17" fill="#222">{escape(title)}</text>',
        f'<text x="{left}" y="{top - 12}" fill="#666">tokens/s, times the first rung, MFU, peak memory</text>',
    ]
    for number, row in enumerate(rows):
        y, length = top + bar * number, max(1.0, width * row["tokens_per_second"] / most)
        label = (
            f"{row['tokens_per_second']:,.0f} · {row['ratio']:.2f}x · "
            f"{100 * row['mfu']:.1f} % · {row['memory'] / 1e9:.2f} GB"
        )
        parts += [
            f'<text x="{left - 10}" y="{y + 18}" text-anchor="end" fill="#222">'
            f"{'+ ' if number else ''}{escape(row['rung'])}</text>",
            f'<rect x="{left}" y="{y + 4}" width="{length:.1f}" height="{bar - 10}" fill="#4a7f4e"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 18}" fill="#222">{label}</text>',
        ]
    for number, note in enumerate(notes):
        parts.append(f'<text x="20" y="{top + bar * len(rows) + 26 + 22 * number}" fill="#666">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Climb, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder for ladder.csv and ladder.svg")
    args, rest = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = run([*rest, "--steps", "0"])
    if "error" in device:
        sys.exit(device["error"])
    cuda = device["device"] == "cuda"
    there = {"cuda": cuda, "tf32": device["tf32"], "bf16": device["dtype"] == "bfloat16"}
    has = {name for name, has_it in there.items() if has_it}
    peak = f"{device['flops'] / 1e12:.3g} TFLOP/s ({device['dtype']})"
    rest = [*(["--batch-size", "16"] if cuda else []), *rest, "--measured", json.dumps(device)]
    print(f"{device['name']}, torch {device['torch']}, measured peak {peak}")
    by_cpu = "" if cuda else "   ratio by CPU time"  # where others use the machine, too, it tells more
    print(f"{'rung':<26}{'tokens/s':>12}{'ratio':>8}{'MFU':>8}{'memory':>11}{by_cpu}")
    rows: list[dict[str, Any]] = []
    for rung, options in climb(has):
        if options is None:
            print(f"{rung.name:<26}{f'skipped: no {rung.needs} here':>39}", flush=True)
            continue
        row = run([*rest, *options])
        if "error" in row:
            print(f"{rung.name:<26} failed: {row['error']}", flush=True)
            continue
        rows.append(row)
        row |= {"rung": rung.name, "ratio": row["tokens_per_second"] / rows[0]["tokens_per_second"]}
        line = f"{rung.name:<26}{row['tokens_per_second']:>12,.0f}{row['ratio']:>7.2f}x"
        line += f"{100 * row['mfu']:>6.1f} %{row['memory'] / 1e9:>8.2f} GB"
        if by_cpu:
            line += f"{rows[0]['cpu_seconds_per_step'] / row['cpu_seconds_per_step']:>19.2f}x"
        print(line, flush=True)
    if not rows:
        sys.exit("no rung ran")
    shape, batch = rows[0]["spec"]["shape"], rows[0]["spec"]["batch_size"]
    notes = [
        f"MFU: 6 N + 12 L H Q T = {rows[0]['flops_per_token'] / 1e6:,.1f} MFLOP a token (PaLM, appendix B; N: all "
        f"parameters but positions and padding) of the",
        f"measured peak, {peak}. Last rung: {rows[-1]['speed']}.",
        "Others' ladders: " + "; ".join(f"{name} {times}" for name, times in REFERENCES.items()) + ".",
    ]
    print("\n".join(notes))
    title = (
        f"GPT-2, {shape['n_layer']} layers, {shape['n_embd']} wide, {batch} x {shape['block_size']} tokens a step, "
        f"on {device['name']}"
    )
    with (args.out / "ladder.csv").open("w", newline="", encoding="utf-8") as file:
        keys = ["rung", "tokens_per_second", "ratio", "mfu", "memory", "cpu_seconds_per_step", "speed"]
        table = csv.DictWriter(file, keys, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    (args.out / "ladder.svg").write_text(chart(rows, title, notes), encoding="utf-8")
    print(f"written: {args.out / 'ladder.csv'}, {args.out / 'ladder.svg'}")


if __name__ == "__main__":
    main()
