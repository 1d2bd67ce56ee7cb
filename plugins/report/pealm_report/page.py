"""One HTML page about one or several runs. All of it is in the file: it opens from a disk, without a network."""

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pealm_core import PealmError
from pealm_report import machine
from pealm_report.curves import smooth, spread, thin
from pealm_report.intervals import evaluations
from pealm_report.reading import Run, is_number
from pealm_report.study import SHOWN, charts
from pealm_report.words import duration, short, size

TEMPLATES = Path(__file__).parent / "templates"
BUCKETS = 400  # of a curve: each keeps its lowest and highest value
SAMPLES = 12  # of a run, from first to last
START = b"<!doctype html>"  # of a page
NOISY = ("loss", "grad_norm", "tokens_per_second")  # drawn pale, and their mean over it


@dataclass(frozen=True)
class Row:
    """A line of a table: a name and one cell for each run. differs: whether the cells are not all the same."""

    name: str
    cells: Sequence[str]

    @property
    def differs(self) -> bool:
        return len(set(self.cells)) > 1


def write(runs: Sequence[Run], target: Path, *, study: bool = False) -> None:
    """Write the page at once or not at all. Raises PealmError where the disk refuses.

    study: the runs are a study's, the best first: the charts of settings have all, the rest of the page the first.
    """
    text, aside = render(runs, study=study), target.with_name(f".{os.urandom(6).hex()}.tmp")
    try:
        with aside.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
        aside.replace(target)
    except OSError as error:
        raise PealmError(f"{target} can't be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def is_page(path: Path) -> bool:
    """Whether a file may be replaced by a page: one that `write` made, or an empty one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(START)).lower() in (START, b"")


def render(runs: Sequence[Run], *, study: bool = False) -> str:
    """The page's text."""
    names, total = labels([run.dir for run in runs]), len(runs)
    against = charts(runs, names)
    title = f"{runs[0].model} on {runs[0].data}" if total == 1 else f"{total} runs"
    if study:
        title, runs, names = f"Study {runs[0].dir.absolute().parent.name}", runs[:SHOWN], names[:SHOWN]
    settings = [row for run_table in _tables(runs) for row in _settings(runs, run_table)]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        hidden=total - len(runs),
        against=against,
        names=names,
        headline=_headline(runs[0]) if len(runs) == 1 else "",
        summary=_summary(runs),
        settings=settings,
        differences=[row for row in settings if row.differs],
        samples=[(number, _samples(run), len(run.samples)) for number, run in enumerate(runs) if run.samples],
        evaluations=evaluations(runs),
        more=list(dict.fromkeys(name for run in runs for name in run.metrics.more)),
        warnings=_warnings(runs),
        versions=_versions(runs),
        commands=[f"pealm train --config {shlex.quote(str(run.dir / 'config.toml'))}" for run in runs],
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        data=embedded([{"name": name, **_curves(run)} for name, run in zip(names, runs, strict=True)]),
    )


def embedded(data: Any) -> Markup:
    """JSON that can stand in a script element whatever text it holds.

    >>> embedded("</script>")
    Markup('"\\\\u003c/script>"')
    """
    return Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart.

    >>> labels([Path("runs/gpt2/a"), Path("runs/gpt2/b")]), labels([Path("x/1"), Path("y/1")])
    (['a', 'b'], ['x/1', 'y/1'])
    """
    paths = [folder.absolute() for folder in folders]
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        found = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(found)) == len(set(paths)):
            break
    return found


FLOOR = "Entropy floor of documents from their start"  # a window that starts within one can't reach it: no quotient


def _headline(run: Run) -> str:
    about = _about(run)
    best, floor = about["Best validation loss"], about[FLOOR]
    parts = [f"best validation loss {best}" + (f" (floor {floor})" if floor != "–" else "")] if best != "–" else []
    return " · ".join([run.state, *parts, f"{about['Steps']} steps", f"{about['Tokens']} tokens", about["Time"]])


def _summary(runs: Sequence[Run]) -> list[Row]:
    rows: dict[str, list[str]] = {}
    for run in runs:
        for name, cell in _about(run).items():
            rows.setdefault(name, []).append(cell)
    return [Row(name, cells) for name, cells in rows.items() if any(cell != "–" for cell in cells)]


def _about(run: Run) -> dict[str, str]:
    """What the summary says of a run; "–" where it is not known."""
    metrics, facts, best = run.metrics, run.facts, run.metrics.best
    steps = f" of {run.steps:,}" if run.steps else ""
    about = machine.read(run.dir)
    bits = dict(metrics.more.get("val_bits_per_byte", ())).get(best[0]) if best else None
    speeds = [speed for speed in metrics.columns["tokens_per_second"] if math.isfinite(speed)]
    return {
        "Model": run.model,
        "Parameters": "–" if (parameters := run.number("parameters")) is None else f"{parameters:,}",
        "Data": run.data,
        "Data drawn": run.drawn or "–",
        "State": run.state,
        "Best validation loss": f"{best[1]:.4f}" if best else "–",
        "at step": f"{metrics.at('step', best[0]):,.0f}" if best else "–",
        FLOOR: f"{run.floor:.4f}" if run.floor else "–",
        "Bits per byte at the best": f"{bits:.4f}" if bits is not None else "–",
        "Validation loss before": f"{run.before:.4f}" if run.before is not None else "–",
        "Validation loss at the end": f"{metrics.val[-1][1]:.4f}" if metrics.val else "–",
        "Steps": f"{metrics.at('step', -1):,.0f}{steps}" if len(metrics) else "–",
        "Tokens": short(metrics.at("tokens", -1)) if len(metrics) else "–",
        "Time": duration(metrics.at("seconds", -1) if (seconds := run.number("seconds")) is None else seconds),
        "Tokens per second (median)": f"{median(speeds):,.0f}" if speeds else "–",
        "Computed on": ", ".join(str(facts[key]) for key in ("device", "dtype") if key in facts) or "–",
        "Machine": machine.described(about),
        "Git commit": str(about.get("git") or "–"),
        "Study": run.study.name if run.study else "–",
        "Processes": str(facts.get("processes", "–")),
        "Size on disk": size(run.summary.size),
    }


def _warnings(runs: Sequence[Run]) -> list[str]:
    """Say why the losses of several runs can't be compared."""
    tables = {name: {_key(run, name) for run in runs} for name in ("tokenizer", "objective", "input")}
    sizes = {run.facts.get("vocab_size") for run in runs}
    found = []
    if len(tables["tokenizer"]) > 1 or len(sizes) > 1:
        found.append("The runs have different tokenizers: losses per token can't be compared; bits per byte can.")
    if len(tables["objective"]) > 1:
        found.append("The runs have different objectives: their losses can't be compared.")
    if len(tables["input"]) > 1:
        found.append("The runs have different data: their validation losses are of different texts.")
    return found


def _key(run: Run, name: str) -> str:
    return repr([(table, sorted(t.items())) for table, t in run.config.items() if table.partition(".")[0] == name])


def _tables(runs: Sequence[Run]) -> list[str]:
    """The tables of settings that any of the runs has."""
    found = dict.fromkeys(table for run in runs for table in run.config)
    return [table for table in found if table not in ("versions", "plugins")]


def _settings(runs: Sequence[Run], table: str) -> list[Row]:
    keys = dict.fromkeys(key for run in runs for key in run.config.get(table, {}))
    return [
        Row(f"{table}.{key}", [_shown(run.config.get(table, {}).get(key)) for run in runs])
        for key in keys
        if not isinstance(runs[0].config.get(table, {}).get(key), Mapping)
    ]


def _versions(runs: Sequence[Run]) -> list[Row]:
    known = [
        {
            **run.config.get("versions", {}),
            **{key: run.facts[key] for key in ("torch", "python") if key in run.facts},
        }
        for run in runs
    ]
    names = dict.fromkeys(name for versions in known for name in versions)
    return [Row(name, [_shown(versions.get(name)) for versions in known]) for name in names]


def _shown(value: Any) -> str:
    """A setting's value as TOML has it, text without quotes; "–" where it is not set."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _samples(run: Run) -> list[dict[str, str]]:
    lines = [run.samples[place] for place in spread(len(run.samples), SAMPLES)]
    return [
        {
            "step": f"{line['step']:,}",
            "tokens": short(line["tokens"] if is_number(line.get("tokens")) else 0),
            "prompt": str(line.get("prompt", "")),
            "text": line["text"],
        }
        for line in lines
    ]


def _curves(run: Run) -> dict[str, Any]:
    """What the charts are drawn from: [step, value, step, value, ...], and steps beside tokens and seconds."""
    metrics, columns = run.metrics, run.metrics.columns
    knots = thin(columns["seconds"], 150)

    def curve(points: Sequence[tuple[int, float]]) -> list[float]:
        return [number for place, y in points for number in (int(columns["step"][place]), _rounded(y))]

    def column(name: str, buckets: int = BUCKETS) -> list[float]:
        return curve([(place, columns[name][place]) for place in thin(columns[name], buckets)])

    return {
        "axis": {
            name: [_rounded(columns[name][place], 9) for place in knots] for name in ("step", "tokens", "seconds")
        },
        "floor": run.floor,
        "before": None if run.before is None else _rounded(run.before, 6),
        "best": curve([metrics.best] if metrics.best else []),
        "val": curve([metrics.val[place] for place in thin([y for _, y in metrics.val], BUCKETS)]),
        "lr": column("lr", 150),
        **{name: column(name) for name in NOISY},
        **{f"{name}.mean": curve(smooth(columns[name], 300)) for name in NOISY},
        **{
            f"more/{name}": curve([points[place] for place in thin([y for _, y in points], BUCKETS // 4)])
            for name, points in metrics.more.items()
        },
    }


def _rounded(value: float, digits: int = 5) -> float:
    """A number of so many digits, whole where it can be: a page is read by people.

    >>> _rounded(2.4858123), _rounded(15360.0, 9)
    (2.4858, 15360)
    """
    number = float(f"{value:.{digits}g}")
    return int(number) if number.is_integer() else number
