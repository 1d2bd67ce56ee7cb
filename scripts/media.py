"""The charts in media/, drawn from the figures in media/data/.

    python scripts/media.py                                      # draw them again
    python scripts/media.py --runs runs/weights                  # take the curves of scripts/weights.py's runs first
    python scripts/media.py --time-to-loss FOLDER/curves.csv     # and those of scripts/bench/time_to_loss.py

SVG that needs no font and no library, light or dark as the reader's system is.
"""

import argparse
import csv
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

MEDIA = Path(__file__).resolve().parent.parent / "media"
CURVES, TIMES = MEDIA / "data" / "curves.json", MEDIA / "data" / "time_to_loss.csv"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 410, 50, 184, 72, 46
POINTS = 60  # of a training loss, each the mean of the steps around it

# Okabe and Ito's colours, which the colour-blind can tell apart; the second of each is for a dark background.
COLOURS = {
    "green": ("#00805c", "#2fbf93"),
    "blue": ("#0072b2", "#56b4e9"),
    "orange": ("#c25400", "#f0883e"),
    "purple": ("#a2487f", "#d98fbd"),
    "grey": ("#6e7781", "#8b949e"),
}
TEXT, FAINT, GRID, PAPER = (
    ("#24292f", "#e6edf3"),
    ("#57606a", "#9aa4ae"),
    ("#e3e7eb", "#262c34"),
    ("#ffffff", "#11161d"),
)
SHOWN = {  # the curves of tinyshakespeare, with their colours
    "char-bigram": "grey",
    "gpt2-shakespeare": "purple",
    "char-transformer": "blue",
    "sprout-shakespeare": "green",
}

Points = Sequence[Sequence[float]]


@dataclass
class Chart:
    """A chart under way. x, y: the ranges of the axes; log: whether x is logarithmic."""

    title: str
    note: str
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    parts: list[str] = field(default_factory=list)
    labels: list[tuple[float, str, str]] = field(default_factory=list)  # (height, colour, text) at the right edge

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture; what is off the axes lies at their ends."""
        low, high = self.x
        share = math.log(max(x, low) / low) / math.log(high / low) if self.log else (x - low) / (high - low)
        height = (y - self.y[0]) / (self.y[1] - self.y[0])
        share, height = min(max(share, 0.0), 1.0), min(max(height, 0.0), 1.0)
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM)

    def axes(self, x: Iterable[tuple[float, str]], y: Iterable[float], unit: str) -> None:
        """Lines across at the values of y, names below at those of x."""
        for value in y:
            _, place = self.at(self.x[0], value)
            self.parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>')
            self.text(LEFT - 10, place + 4, f"{value:g}", "end")
        for value, name in x:
            self.text(self.at(value, self.y[0])[0], HEIGHT - BOTTOM + 20, name, "middle")
        self.text(WIDTH - RIGHT, HEIGHT - 8, unit, "end")

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "faint") -> None:
        """Words in the picture."""
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def line(self, points: Points, colour: str, *, kind: str = "line", dots: bool = False) -> None:
        """A curve; kind: line, thin or dashed."""
        places = [self.at(x, y) for x, y in points if self.x[0] <= x and y <= self.y[1]]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        self.parts.append(f'<path class="{kind} {colour}" d="M{path}"/>')
        if dots:
            self.parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places]

    def label(self, y: float, colour: str, words: str) -> None:
        """Words at the right edge, at the height of y or near it."""
        self.labels.append((self.at(self.x[0], y)[1], colour, words))

    def save(self, path: Path) -> None:
        """Write the picture."""
        last = -math.inf
        for height, colour, words in sorted(self.labels):
            last = max(height, last + 17)
            self.text(WIDTH - RIGHT + 12, last + 4, words, kind=f"label {colour}")
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        title = f'<text class="title" x="18" y="28">{escape(self.title)}</text>'
        note = f'<text class="faint" x="18" y="45">{escape(self.note)}</text>'
        frame = f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        body = "\n".join([f"<style>{style()}</style>", frame, title, note, *self.parts])
        path.write_text(f'{head} aria-label="{escape(self.title)}">\n{body}\n</svg>\n', encoding="utf-8")


def style() -> str:
    """The style sheet, for both schemes."""
    fixed = (
        "text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
        "text.title{font-size:15px;font-weight:600}text.label{font-weight:600}"
        "path{fill:none;stroke-linejoin:round;stroke-linecap:round}"
        ".line{stroke-width:2.2}.thin{stroke-width:1.2;opacity:.45}.dashed{stroke-width:1.4;stroke-dasharray:1 5}"
    )
    schemes = []
    for scheme in (0, 1):
        rules = [f".paper{{fill:{PAPER[scheme]}}}.grid{{stroke:{GRID[scheme]}}}"]
        rules += [f".title{{fill:{TEXT[scheme]}}}.faint{{fill:{FAINT[scheme]}}}"]
        for name, colours in COLOURS.items():
            rules.append(
                f"path.{name}{{stroke:{colours[scheme]}}}text.{name},circle.{name}{{fill:{colours[scheme]}}}"
            )
        schemes.append("".join(rules))
    return f"{fixed}{schemes[0]}@media(prefers-color-scheme:dark){{{schemes[1]}}}"


def collect(runs: Path) -> None:
    """Take the curves of the runs in a folder into media/data: of each, (characters seen, bits per character)."""
    curves = json.loads(CURVES.read_text()) if CURVES.exists() else {}
    for log in sorted(runs.glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        ratio = characters_per_token(log.parent)
        scaled = [(row["tokens"] * ratio, row["loss"] / ratio / math.log(2), row.get("val_loss")) for row in rows]
        curves[log.parent.name] = {
            "train": [[round(x), round(y, 4)] for x, y in thinned([(x, y) for x, y, _ in scaled])],
            "val": [[round(x), round(v / ratio / math.log(2), 4)] for x, _, v in scaled if v is not None],
        }
    CURVES.parent.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(name)}: {json.dumps(curve)}" for name, curve in sorted(curves.items())]
    CURVES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def characters_per_token(run: Path) -> float:
    """Of the run's validation text (all of which is ASCII: a character is a byte)."""
    import pealm_core
    from pealm_kindergarten.dataset import Kindergarten
    from pealm_tinyshakespeare.dataset import Tinyshakespeare

    lm = pealm_core.load(run, device="cpu")
    dataset = Kindergarten() if "kindergarten" in lm.config["input"] else Tinyshakespeare()
    texts = list(dataset.documents("val"))
    starts = 0 if lm.eot_id is None else len(texts)
    return sum(map(len, texts)) / (starts + sum(len(lm.encode(text)) for text in texts))


def thinned(points: Points) -> list[tuple[float, float]]:
    """Means over stretches of x that are as long on a logarithmic scale."""
    low, high = math.log(points[0][0]), math.log(points[-1][0]) + 1e-9
    stretches: dict[int, list[Sequence[float]]] = {}
    for point in points:
        stretches.setdefault(int((math.log(point[0]) - low) / (high - low) * POINTS), []).append(point)
    return [(sum(p[0] for p in s) / len(s), sum(p[1] for p in s) / len(s)) for s in stretches.values()]


def shakespeare(curves: dict[str, dict[str, Points]], path: Path) -> None:
    """The shipped models of tinyshakespeare."""
    names = [name for name in SHOWN if name in curves]
    most = max(curves[name]["val"][-1][0] for name in names)
    title, note = "Learning Shakespeare", "bits per character of tinyshakespeare: validation (dots), training (thin)"
    chart = Chart(title, note, (3e4, most * 1.1), (1.5, 4.5), log=True)
    ticks = [(10.0**n, name) for n, name in ((5, "100,000"), (6, "a million"), (7, "ten million"))]
    chart.axes([(x, name) for x, name in ticks if x <= most], (1.5, 2, 2.5, 3, 3.5, 4, 4.5), "characters seen")
    for name in names:
        curve, colour = curves[name], SHOWN[name]
        chart.line(curve["train"], colour, kind="thin")
        chart.line(curve["val"], colour, dots=True)
        chart.label(curve["val"][-1][1], colour, f"{name.removesuffix('-shakespeare')} {best(curve):.2f}")
    chart.save(path)


def stories(curves: dict[str, dict[str, Points]], floor: float, path: Path) -> None:
    """The story model, and what no model can beat."""
    curve = curves["sprout-stories"]
    most = curve["val"][-1][0]
    title, note = (
        "Learning to tell stories",
        "bits per character, in blocks that cut stories in two: validation (dots), training (thin)",
    )
    chart = Chart(title, note, (3e4, most * 1.1), (0.0, 2.5), log=True)
    ticks = [(10.0**n, name) for n, name in ((5, "100,000"), (6, "a million"), (7, "ten million"))]
    chart.axes([(x, name) for x, name in ticks if x <= most], (0, 0.5, 1, 1.5, 2, 2.5), "characters seen")
    chart.line([(chart.x[0], floor), (chart.x[1], floor)], "grey", kind="dashed")
    chart.label(floor, "grey", f"entropy floor {floor:.3f}")
    chart.line(curve["train"], "green", kind="thin")
    chart.line(curve["val"], "green", dots=True)
    chart.label(best(curve), "green", f"sprout {best(curve):.3f}")
    chart.save(path)


def best(curve: dict[str, Points]) -> float:
    """The lowest validation."""
    return min(y for _, y in curve["val"])


def time_to_loss(rows: Iterable[dict[str, str]], path: Path) -> None:
    """Loss against wall seconds: nanoGPT's recipe for a CPU (runs a), sprout (runs b)."""
    runs: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append((float(row["seconds"]), float(row["loss"])))
    most = max(seconds for curve in runs.values() for seconds, _ in curve)
    ends = {kind: [curve[-1][1] for name, curve in runs.items() if name[0] == kind] for kind in "ab"}
    means = {kind: sum(values) / len(values) for kind, values in ends.items()}
    there = [next((s for s, v in c if v <= means["a"]), None) for name, c in runs.items() if name[0] == "b"]
    when = sum(s for s in there if s) / len(there) if all(there) else math.inf
    many = f", mean of {len(there)} seeds" if len(there) > 1 else ""
    note = f"validation loss, nats per character, contexts 64 and 128{many}"
    if when < math.inf:
        note += f"; sprout needs {when:.0f} s for nanoGPT's final loss"
    chart = Chart("The same seconds on the same cores", note, (0, most), (1.4, 3.0))
    step = next(step for step in (5, 10, 20, 50, 100, 200, 500) if most / step <= 8)
    chart.axes([(x, str(x)) for x in range(0, int(most) + 1, step)], (1.4, 1.8, 2.2, 2.6, 3.0), "wall seconds")
    names, colours = {"a": "nanoGPT's recipe", "b": "pealm's sprout"}, {"a": "grey", "b": "green"}
    for name, curve in runs.items():
        chart.line([p for p in curve if p[1] <= 3.0], colours[name[0]], kind="line")
    if when < math.inf:
        chart.line([(when, means["a"]), (most, means["a"])], "grey", kind="dashed")
    for kind in "ab":
        chart.label(means[kind], colours[kind], f"{names[kind]} {means[kind]:.2f}")
    chart.save(path)


def main() -> None:
    """Take new figures, draw all that there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="a folder of runs whose curves to take")
    parser.add_argument("--time-to-loss", type=Path, metavar="CSV", help="curves of scripts/bench/time_to_loss.py")
    parser.add_argument("--out", type=Path, default=MEDIA, help="where the pictures go")
    given = parser.parse_args()
    if given.runs:
        collect(given.runs)
    if given.time_to_loss:
        shutil.copyfile(given.time_to_loss, TIMES)
    given.out.mkdir(parents=True, exist_ok=True)
    if CURVES.exists():
        from pealm_kindergarten.corpus import entropy_floor

        curves = json.loads(CURVES.read_text())
        shakespeare(curves, given.out / "shakespeare.svg")
        stories(curves, entropy_floor() / math.log(2), given.out / "stories.svg")
    if TIMES.exists():
        with TIMES.open(newline="") as file:
            time_to_loss(csv.DictReader(file), given.out / "time-to-loss.svg")


if __name__ == "__main__":
    main()
