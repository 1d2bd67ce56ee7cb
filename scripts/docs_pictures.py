"""Draw the pictures of the tutorial into docs/assets/, from the runs of `scripts/docs_outputs.py --folder FOLDER`.

python -m scripts.docs_pictures FOLDER
"""

import json
import os
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

import pealm_core
from pea import Value
from scripts.media import Chart, style

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "docs" / "assets"
SIDE, LEFT, TOP = 15, 60, 84  # of a square of a table; where the first one is


def neuron(path: Path) -> None:
    """The neuron of the first page: its loss and its parameters at each step."""
    w1, w2, bias = Value(0.5), Value(-0.5), Value(0.0)
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in ("loss", "w1", "w2", "bias")}
    for step in range(51):
        loss = ((w1 * 1.0 + w2 * 2.0 + bias).tanh() - 1.0) ** 2
        for name, value in zip(curves, (loss, w1, w2, bias), strict=True):
            curves[name].append((step, value.data))
        for p in (w1, w2, bias):
            p.zero_grad()
        loss.backward()
        for p in (w1, w2, bias):
            p.data -= 0.1 * p.grad
    chart = Chart("A neuron learns", "loss and parameters after each step of gradient descent", (0, 50), (-0.5, 2.5))
    chart.axes([(x, str(x)) for x in range(0, 51, 10)], (-0.5, 0, 0.5, 1, 1.5, 2, 2.5), "step")
    for (name, curve), colour in zip(curves.items(), ("orange", "green", "blue", "purple"), strict=True):
        chart.line(curve, colour)
        chart.label(curve[-1][1], colour, f"{name} {curve[-1][1]:.2f}")
    chart.save(path)


def squares(path: Path, title: str, note: str, names: Sequence[str], table: torch.Tensor) -> None:
    """A table of values from 0 to 1 as squares; the darker, the larger."""
    parts = [f'<text class="title" x="18" y="28">{escape(title)}</text>']
    parts.append(f'<text class="faint" x="18" y="46">{escape(note)}</text>')
    for j, name in enumerate(names):
        x = LEFT + j * SIDE + SIDE / 2
        parts.append(f'<text class="faint" x="{x:.1f}" y="{TOP - 8}" text-anchor="middle">{escape(name)}</text>')
    for i, name in enumerate(names):
        y = TOP + i * SIDE
        parts.append(f'<text class="faint" x="{LEFT - 10}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(table[i].tolist()):
            if value >= 0.004:
                box = f'x="{LEFT + j * SIDE}" y="{y}" width="{SIDE - 1}" height="{SIDE - 1}"'
                parts.append(f'<rect class="box" {box} fill-opacity="{min(1.0, value**0.7):.2f}"/>')
    width, height = LEFT + len(names) * SIDE + 24, TOP + len(names) * SIDE + 20
    write(path, title, width, height, parts)


def write(path: Path, title: str, width: int, height: int, parts: Sequence[str]) -> None:
    """Write an SVG in the style of media/."""
    own = (
        ".box{fill:#00805c}.read{fill:#8b949e;fill-opacity:.25}@media(prefers-color-scheme:dark){.box{fill:#2fbf93}}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img"'
    frame = f'<rect class="paper" width="{width}" height="{height}" rx="8"/>'
    body = "\n".join([f"<style>{style()}{own}</style>", frame, *parts])
    path.write_text(f'{head} aria-label="{escape(title)}">\n{body}\n</svg>\n', encoding="utf-8")


def shown(text: str) -> str:
    """Return a character as it is drawn."""
    return {" ": "␣", "\n": "↵"}.get(text, text)


def bigram(path: Path) -> None:
    """The table of the shipped bigram model, for small letters, space and newline."""
    lm = pealm_core.load(ROOT / "weights" / "char-bigram", device="cpu")
    letters = "\n abcdefghijklmnopqrstuvwxyz"
    ids = torch.tensor([lm.encode(letter)[0] for letter in letters])
    with torch.no_grad():
        logits, _ = lm.model(ids[None])
    table = logits[0].softmax(dim=1)[:, ids]
    names = [*map(shown, letters)]
    squares(path, "What follows what", "row: a character; column: how likely it comes next", names, table)


def attention(path: Path, folder: Path) -> None:
    """The attention of the one head of the third page, on a line of the play."""
    pealm_core.use_plugin(folder / "one_head.py")
    lm = pealm_core.load(folder / "runs" / "one-head", device="cpu")
    text = "First Citizen:\nBefore we proceed"
    with torch.no_grad():
        model: Any = lm.model
        weights, _ = model.weights(model.embed(torch.tensor([lm.encode(text)])))
    names = [*map(shown, text)]
    squares(path, "Where one head looks", "row: a position; column: what it takes from", names, weights[0])


def finetune(path: Path, folder: Path) -> None:
    """Validation losses of the two fine-tunings."""
    chart = Chart("Fine-tuning on golden stories", "validation loss, nats per token", (0, 200), (0, 2))
    chart.axes([(x, str(x)) for x in range(0, 201, 50)], (0, 0.5, 1, 1.5, 2), "step")
    for name, words, colour in (("golden", "all weights", "green"), ("golden-lora", "LoRA", "blue")):
        lines = (folder / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        curve = [(row["step"], row["val_loss"]) for row in rows if "val_loss" in row]
        chart.line(curve, colour, dots=True)
        chart.label(curve[-1][1], colour, f"{words} {curve[-1][1]:.2f}")
    chart.save(path)


def chat(path: Path) -> None:
    """A conversation as tokens: what is read, and what is learned."""
    talk = [
        {"role": "user", "content": "What colour was the kite?"},
        {"role": "assistant", "content": "It was blue."},
    ]
    title = "A conversation as tokens"
    parts = [f'<text class="title" x="18" y="28">{title}</text>']
    parts.append(
        '<text class="faint" x="18" y="46">grey: read; green: learned, the model is asked to predict it</text>'
    )
    x, y, width = 18, 64, 700
    for part in pealm_core.chat_document(talk):
        for word in [part.special] if part.special else part.text.split():
            wide = 8 * len(word or "") + 14
            if x + wide > width:
                x, y = 18, y + 40
            kind = 'box" fill-opacity=".35' if part.learn else "read"
            parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{wide}" height="28" rx="5"/>')
            parts.append(
                f'<text class="title" style="font-size:13px;font-weight:400" x="{x + wide / 2}" y="{y + 19}" '
                f'text-anchor="middle">{escape(word or "")}</text>'
            )
            x += wide + 6
    write(path, title, width, y + 48, parts)


def inside(path: Path) -> None:
    """What each layer of the shipped transformer would predict after each character of a text."""
    lm = pealm_core.load(ROOT / "weights" / "char-transformer", device="cpu")
    trace = lm.trace("ROMEO:\nWhat light through")
    assert trace.hidden is not None
    title, note = "What each layer would predict", "columns: a text; rows: the likeliest next character by layer"
    parts = [f'<text class="title" x="18" y="28">{title}</text>', f'<text class="faint" x="18" y="46">{note}</text>']
    side, left, top = 24, 80, 90
    for i, token in enumerate(trace.tokens):
        x = left + i * side + side / 2
        parts.append(f'<text class="title" x="{x}" y="{top - 12}" text-anchor="middle">{shown(token)}</text>')
    for layer in range(len(trace.hidden)):
        y = top + layer * side
        name = f"layer {layer}" if layer else "embedding"
        parts.append(f'<text class="faint" x="{left - 8}" y="{y + 16}" text-anchor="end">{name}</text>')
        for i, [(best, p)] in enumerate(trace.top(1, layer=layer)):
            x = left + i * side
            place = f'x="{x}" y="{y}" width="{side - 2}" height="{side - 2}"'
            parts.append(f'<rect class="box" {place} fill-opacity="{0.05 + 0.6 * p:.2f}"/>')
            words = escape(shown(lm.tokenizer.decode([best])))
            parts.append(
                f'<text class="title" x="{x + side / 2 - 1}" y="{y + 16}" text-anchor="middle">{words}</text>'
            )
    write(path, title, left + len(trace.tokens) * side + 24, top + len(trace.hidden) * side + 20, parts)


def main() -> None:
    """Draw all of them."""
    folder = Path(sys.argv[1]).absolute()
    os.chdir(folder)
    neuron(ASSETS / "neuron.svg")
    bigram(ASSETS / "bigram.svg")
    attention(ASSETS / "attention.svg", folder)
    finetune(ASSETS / "finetune.svg", folder)
    chat(ASSETS / "chat.svg")
    inside(ASSETS / "inside.svg")


if __name__ == "__main__":
    main()
