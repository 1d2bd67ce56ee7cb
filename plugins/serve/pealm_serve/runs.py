"""Runs as the page shows them: their checkpoints, and what they write while they train."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

Json = dict[str, Any]

MOST_LINES = 1500  # of metrics.jsonl that a page gets at first; those with a validation come in any case
KEYS = ("step", "tokens", "loss", "val_loss", "lr", "grad_norm", "tokens_per_second", "seconds")
SECONDS = 1.0  # between two looks at a run
ENDED = ("done", "interrupted", "pruned", "failed")


def run_of(path: Path) -> Path | None:
    """Return the run that a checkpoint, a file in one or a run's folder belongs to, if it is a run's."""
    return next((folder for folder in (path, *path.parents[:3]) if (folder / "metrics.jsonl").is_file()), None)


def steps_of(run: Path) -> list[Path]:
    """Return a run's complete checkpoints, oldest first."""
    return sorted(folder for folder in run.glob("checkpoints/step-*") if (folder / "state.json").is_file())


class Lines:
    """The complete lines that were added to a .jsonl file since the last look; `restarted`: it was cut since then."""

    def __init__(self, path: Path) -> None:
        self.path, self.position, self.restarted = path, 0, False

    def new(self) -> list[Json]:
        """Return the lines that are objects."""
        try:
            with self.path.open("rb") as file:
                self.restarted = file.seek(0, os.SEEK_END) < self.position
                self.position = 0 if self.restarted else self.position
                file.seek(self.position)
                text = file.read()
        except OSError:
            return []
        complete = text[: text.rfind(b"\n") + 1]
        self.position += len(complete)
        found = []
        for line in complete.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in found if isinstance(line, dict)]


def state_of(run: Path) -> Json:
    """Return the facts of run.json. A run whose process ended without saying so is "killed"."""
    try:
        facts: Json = json.loads((run / "run.json").read_bytes())
    except (OSError, ValueError):
        return {"status": "unknown"}
    status, pid = facts.get("status"), facts.get("pid")
    if status == "running" and facts.get("host") == os.uname().nodename and not Path(f"/proc/{pid}").exists():
        status = "killed" if Path("/proc/self").exists() else status
    shown = ("parameters", "entropy_floor", "device", "dtype", "training_tokens", "processes")
    return {"status": status, **{name: facts[name] for name in shown if facts.get(name) is not None}}


def thinned(lines: list[Json]) -> list[Json]:
    """Return at most about MOST_LINES lines at even distances, besides those with a validation."""
    every = -(-len(lines) // MOST_LINES) or 1
    return [line for number, line in enumerate(lines) if number % every == 0 or "val_loss" in line]


async def follow(run: Path, stopping: asyncio.Event) -> AsyncGenerator[Json, None]:
    """Yield what a run has written, and then what it adds, until it ends or the server does."""
    metrics, samples, before = Lines(run / "metrics.jsonl"), Lines(run / "samples.jsonl"), None
    while True:
        state = state_of(run)  # read before the lines: those of an ended run are complete
        lines, texts = metrics.new(), samples.new()
        update: Json = {}
        if lines or metrics.restarted:
            update["metrics"] = [{key: line[key] for key in KEYS if key in line} for line in thinned(lines)]
            update["restarted"] = metrics.restarted
        if texts:
            update["samples"] = [{key: line.get(key) for key in ("step", "prompt", "text")} for line in texts[-20:]]
        if state != before:
            update["state"] = before = state
        if update:
            yield update
        if state["status"] in (*ENDED, "killed", "unknown") or stopping.is_set():
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), SECONDS)
