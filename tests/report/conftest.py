"""Run folders as a training leaves them, with numbers that a test knows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIG = """
[train]
steps = {steps}
lr = {lr}

[model]
name = "sprout"
n-layer = 2

[input]
kindergarten = 1

[versions]
pealm-core = "0.1.0"
"""


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run: `make_run("a", steps=100)`, validated before the first step and at every tenth step."""

    def make(name: str, *, steps: int = 50, done: int = 50, lr: float = 0.01, **facts: Any) -> Path:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.toml").write_text(CONFIG.format(steps=steps, lr=lr))
        (run / "run.json").write_text(
            json.dumps({"status": "done", "entropy_floor": 0.5, "first_val_loss": 7.0, **facts})
        )
        with (run / "metrics.jsonl").open("w") as file:
            file.write('{"step": 0, "tokens": 0, "val_loss": 7.0, "seconds": 0.0}\n')
            for step in range(1, done + 1):
                line = {"step": step, "tokens": 100 * step, "loss": 1 + 6 / step, "lr": lr, "grad_norm": 0.5}
                line |= {"tokens_per_second": 1000.0, "seconds": 0.1 * step}
                line |= {"val_loss": 1 + 8 / step if step < 50 else 2.5} if step % 10 == 0 else {}
                file.write(json.dumps(line) + "\n")
        return run

    return make


@pytest.fixture
def add_samples() -> Callable[..., None]:
    """Writes samples.jsonl: `add_samples(run, "text", "another")`."""

    def add(run: Path, *texts: str, prompt: str = "") -> None:
        lines = [{"step": n, "tokens": 100 * n, "prompt": prompt, "text": text} for n, text in enumerate(texts, 1)]
        (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return add


@pytest.fixture
def add_evaluation() -> Callable[..., None]:
    """Writes what `pealm eval --output` does: `add_evaluation(run, "hellaswag", acc=(0.3, 0.01))`."""

    def add(run: Path, name: str, **metrics: tuple[float, float]) -> None:
        values = {key: {"value": value, "stderr": stderr} for key, (value, stderr) in metrics.items()}
        (run / f"{name}.json").write_text(json.dumps({"evaluation": name, "n": 200, "metrics": values}))

    return add
