"""loss.png: there after every run that trained, and never the end of one."""

import json
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.axes import Axes

from pealm_core import UserError
from pealm_core.training.trainer import Trainer
from pealm_report import picture, plugin
from pealm_report.picture import draw

Make = Callable[..., Path]


def size(path: Path) -> tuple[int, ...]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG") and data.rstrip(b"\0").endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path) -> Callable[..., Any]:
    def run(out: Path, *args: object) -> Any:
        return pealm("train", "char-bigram", "--input.text", book, "--out", out, "--batch-size", 4, *args)

    return run


def test_every_run_that_trained_has_one(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train(tmp_path / "done", "--steps", 5)
    assert result.code == 0 and result.err == ""
    assert size(tmp_path / "done" / "loss.png") == (1200, 780)
    assert train(tmp_path / "short", "--steps", 1).code == 0
    assert not (tmp_path / "short" / "loss.png").exists()


@pytest.mark.parametrize(
    ("what", "code", "status"),
    [("raise UserError('a bad shard')", 2, "failed"), ("signal.raise_signal(signal.SIGTERM)", 143, "interrupted")],
)
def test_a_run_that_ends_early_has_one(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int, status: str
) -> None:
    gradients = Trainer.gradients

    def failing(self: Trainer) -> Any:
        if self.step == 3:
            exec(what, {"signal": signal, "UserError": UserError})
        return gradients(self)

    monkeypatch.setattr(Trainer, "gradients", failing)
    result = train(tmp_path / "r", "--steps", 50)
    assert result.code == code and "could not be drawn" not in result.err
    assert size(tmp_path / "r" / "loss.png") == (1200, 780)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == status


def test_a_picture_that_can_t_be_drawn_is_one_line(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "r"
    (run / "loss.png").mkdir(parents=True)
    result = train(run, "--steps", 3)
    assert result.code == 0 and "validation loss" in result.out
    (line,) = result.err.splitlines()
    assert line.startswith(f"pealm: {run / 'loss.png'} could not be drawn: IsADirectoryError: ")
    assert not list(run.glob(".loss*")) and (run / "checkpoints" / "step-00000003").is_dir()

    def broken(folder: Path) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(picture, "draw", broken)
    result = train(tmp_path / "s", "--steps", 3)
    assert result.code == 0 and result.err.endswith("could not be drawn: RuntimeError: two lines\n")


def test_one_process_draws(make_run: Make) -> None:
    class Rank:
        rank, dir = 1, make_run("r")

    trainer = SimpleNamespace(run=Rank)
    plugin.pealm_run_end(trainer)  # type: ignore[arg-type]
    assert not (Rank.dir / "loss.png").exists()
    Rank.rank = 0
    plugin.pealm_run_end(trainer)  # type: ignore[arg-type]
    assert (Rank.dir / "loss.png").exists()


def test_what_it_shows(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, lines = [], []
    annotate, axhline = Axes.annotate, Axes.axhline

    def note(self: Axes, text: str, xy: tuple[float, float], *args: Any, **more: Any) -> Any:
        texts.append((text, xy))
        return annotate(self, text, xy, *args, **more)

    def level(self: Axes, y: float, *args: Any, **more: Any) -> Any:
        lines.append(y)
        return axhline(self, y, *args, **more)

    monkeypatch.setattr(Axes, "annotate", note)
    monkeypatch.setattr(Axes, "axhline", level)
    draw(make_run("r"))
    assert texts == [("best 1.2000\nstep 40", (4000, 1.2))] and lines == [0.5]


@pytest.mark.parametrize("odd", ["no validation", "constant", "negative", "no rate", "nothing scored"])
def test_odd_runs_are_drawn_too(make_run: Make, odd: str) -> None:
    run = make_run("r", entropy_floor=None, first_val_loss=None)
    metrics = {
        "no validation": '{"step": %d, "tokens": %d, "loss": 3, "lr": 0.1}\n',
        "constant": '{"step": %d, "tokens": %d, "loss": 3, "lr": 0, "val_loss": 3}\n',
        "negative": '{"step": %d, "tokens": %d, "loss": -3e9, "lr": 0.1, "val_loss": 1e9}\n',
        "no rate": '{"step": %d, "tokens": %d, "loss": 3}\n',
        "nothing scored": '{"step": %d, "tokens": %d, "loss": null, "lr": 0.1}\n',
    }[odd]
    (run / "metrics.jsonl").write_text("".join(metrics % (step, 10 * step) for step in (1, 2)))
    assert draw(run) == run / "loss.png"
