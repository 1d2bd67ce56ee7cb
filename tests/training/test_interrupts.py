"""Signals, lost terminals, time limits and resuming beside a better best/: nothing is lost, and quickly."""

import errno
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.config.settings import TrainSettings
from pealm_core.data.windows import FixedWindows
from pealm_core.plugins.loading import PluginHost
from pealm_core.training import validation
from pealm_core.training.learning_rate import Budget
from pealm_core.training.trainer import READ_EVERY, Trainer

SMALL = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8)


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path) -> Callable[..., Any]:
    def run(out: Path, *args: object) -> Any:
        return pealm("train", "char-transformer", "--input.text", book, "--out", out, *SMALL, *args)

    return run


def lines(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps, without the validation before them (which a signal may have cut short)."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["step"] > 0]


def in_step(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], object]) -> None:
    gradients = Trainer.gradients

    def also(self: Trainer) -> Any:
        if self.step + 1 == step:
            do()
        return gradients(self)

    monkeypatch.setattr(Trainer, "gradients", also)


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"])
def test_a_signal_saves_at_once_and_does_not_validate(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(signal, name)
    validate, validated = Trainer.validate, list[int]()
    monkeypatch.setattr(Trainer, "validate", lambda self: validated.append(self.step) or validate(self))
    in_step(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
    result = train(tmp_path / "r", "--steps", 9, "--eval-every", 3)
    assert validated == [0]
    assert result.code == 128 + number and "interrupted; resume with" in result.out
    assert "inf" not in result.out.split()  # there is no best loss yet
    assert [line["step"] for line in lines(tmp_path / "r")] == [1, 2, 3]
    assert "val_loss" not in lines(tmp_path / "r")[-1]
    assert [path.name for path in checkpoint.steps(tmp_path / "r")] == ["step-00000003"]
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("hook", ["pealm_run_start", "pealm_checkpoint_saved"])
def test_a_signal_beside_the_loop_is_noted(
    train: Callable[..., Any],
    pealm: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hook: str,
) -> None:
    """run.json never stays at "running" unless the process was killed."""
    call = PluginHost.call

    def also(self: PluginHost, name: str, **values: Any) -> Any:
        if name == hook:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, name, **values)

    with monkeypatch.context() as patch:
        patch.setattr(PluginHost, "call", also)
        result = train(tmp_path / "r", "--steps", 4)
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (result.code, facts["status"]) in ((143, "interrupted"), (0, "done"))
    assert (facts["pid"], facts["host"]) == (os.getpid(), socket.gethostname())
    assert pealm("train", "--out", tmp_path / "r", "--steps", 5).code == 0


def test_an_interrupted_run_equals_one_that_never_stopped(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tmp_path / "straight", "--steps", 6).code == 0
    with monkeypatch.context() as patch:
        in_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train(tmp_path / "parts", "--steps", 6).code == 143
    assert pealm("train", "--out", tmp_path / "parts").code == 0
    keys = ("step", "loss", "grad_norm", "lr")
    one, two = ([[line[key] for key in keys] for line in lines(tmp_path / run)] for run in ("straight", "parts"))
    assert one == two


def test_a_second_signal_of_a_scheduler_does_not_break_off_the_save(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm warns with SIGUSR1, then sends SIGTERM, then kills."""

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)

    in_step(monkeypatch, 3, twice)
    assert train(tmp_path / "r", "--steps", 9).code == 128 + signal.SIGUSR1
    assert [path.name for path in checkpoint.steps(tmp_path / "r")] == ["step-00000003"]


def test_the_validation_before_the_first_step_can_be_interrupted(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, rows = 0, FixedWindows.rows

    def interrupt(self: FixedWindows, samples: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return rows(self, samples)

    monkeypatch.setattr(validation, "EVAL_TOKENS", 32)  # many passes
    with monkeypatch.context() as patch:
        patch.setattr(FixedWindows, "rows", interrupt)
        assert train(tmp_path / "r", "--steps", 3).code == 143
    assert passes == 2 and not (tmp_path / "r" / "checkpoints").exists()
    assert pealm("train", "--out", tmp_path / "r").code == 0
    assert [line["step"] for line in lines(tmp_path / "r")] == [1, 2, 3]


# ---------------------------------------------------------------- output that is lost, locks that don't exist


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path: Path, book: Path) -> None:
    words = ["-m", "pealm", "train", "char-bigram", "--input.text", book, "--out", tmp_path / "r", "--steps", 40]
    words += ["--eval-every", 2, "--eval-tokens", 64]
    command = " ".join(f"'{word}'" for word in (sys.executable, *words))
    shell = f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(tmp_path / "r")[-1]["step"] == 40
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "done"


def test_a_file_system_without_locks_is_a_warning(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    result = train(tmp_path / "r", "--steps", 2)
    assert result.code == 0 and "can't be locked here" in result.err


def test_a_platform_without_fcntl_trains(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    result = train(tmp_path / "r", "--steps", 2)
    assert result.code == 0 and "can't be locked here" in result.err


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "samples.jsonl"])
def test_a_link_in_a_run_leads_nowhere(train: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """A run that someone else made may hold links; nothing outside it is written."""
    (tmp_path / "precious").write_text("mine")
    assert train(tmp_path / "r", "--steps", 2).code == 0
    (tmp_path / "r" / name).unlink(missing_ok=True)
    (tmp_path / "r" / name).symlink_to(tmp_path / "precious")
    train(tmp_path / "r", "--steps", 4, "--sample-every", 1)
    assert (tmp_path / "precious").read_text() == "mine"


# ---------------------------------------------------------------- plugins that observe


def test_an_observer_that_fails_is_named_once_and_the_run_continues(
    train: Callable[..., Any], stranger: Callable[..., None], tmp_path: Path
) -> None:
    stranger(
        "pealm-a",
        """
        from pealm_core import hookimpl
        @hookimpl
        def pealm_run_start(trainer):
            raise RuntimeError("no start")
        @hookimpl
        def pealm_run_end(trainer, status):
            raise RuntimeError("no end")
        """,
    )
    stranger(
        "pealm-b",
        """
        from pealm_core import hookimpl
        @hookimpl
        def pealm_run_end(trainer, status):
            (trainer.run.dir / "end.txt").write_text(status)
        """,
    )
    result = train(tmp_path / "r", "--steps", 3)
    assert result.code == 0 and result.err.count("no start") == 1 and "pealm-a" in result.err
    assert (tmp_path / "r" / "end.txt").read_text() == "done"
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "done"


# ---------------------------------------------------------------- time limits


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30)), min_size=1))
def test_progress_never_decreases(readings: list[tuple[float, float]]) -> None:
    budget = Budget(TrainSettings(max_seconds=60, steps=None))
    progress = [budget.progress(0, seconds, eval_seconds) for seconds, eval_seconds in readings]
    assert progress == sorted(progress) and 0 <= progress[0] <= progress[-1] <= 1


def test_a_slow_first_pass_does_not_count_as_what_validations_take(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the first one compiles the model: the rate would fall to its end at once."""
    clock, rows = [0.0], FixedWindows.rows

    def advance(self: FixedWindows, samples: Any) -> Any:
        clock[0] += 50 if clock[0] < 1 else 0.001
        return rows(self, samples)

    def look() -> float:
        clock[0] += 0.0001
        return clock[0]

    monkeypatch.setattr(validation, "EVAL_TOKENS", 32)
    monkeypatch.setattr(FixedWindows, "rows", advance)
    monkeypatch.setattr("pealm_core.training.trainer.time.perf_counter", look)
    in_step(monkeypatch, 5, lambda: clock.__setitem__(0, clock[0] + 15))
    result = train(tmp_path / "r", "--max-seconds", 60, "--warmup-steps", 0)
    assert result.code == 0
    rates = [line["lr"] for line in lines(tmp_path / "r")]
    assert len(rates) == 5 and min(rates) > rates[0] / 2


# ---------------------------------------------------------------- numbers that are read late


def test_reading_losses_late_changes_no_number(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--steps", 25, "--save-every", 7, "--eval-every", 9, "--grad-clip", 0)
    assert train(tmp_path / "now", *args).code == 0
    monkeypatch.setitem(READ_EVERY, "cpu", 10)
    assert train(tmp_path / "late", *args).code == 0
    times = ("seconds", "tokens_per_second")
    one, two = (
        [{k: v for k, v in line.items() if k not in times} for line in lines(tmp_path / r)] for r in ("now", "late")
    )
    assert one == two


def test_a_loss_that_is_read_late_and_not_finite_leaves_the_last_good_checkpoint(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READ_EVERY, "cpu", 10)
    gradients = Trainer.gradients

    def broken(self: Trainer) -> dict[str, torch.Tensor]:
        return gradients(self) | ({"loss": torch.tensor(math.nan)} if self.step == 7 else {})

    monkeypatch.setattr(Trainer, "gradients", broken)
    result = train(tmp_path / "r", "--steps", 20, "--save-every", 5)
    assert result.code == 1 and "the loss is not finite at step 8 (rank 0)" in result.err
    assert [path.name for path in checkpoint.steps(tmp_path / "r")] == ["step-00000005"]


# ---------------------------------------------------------------- best/


def test_a_better_best_is_not_replaced_by_a_worse_one(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed between two saves: best/ is of a later step than the newest step checkpoint."""

    def script(*losses: float) -> Callable[[Trainer], float]:
        values = iter(losses)

        def validate(self: Trainer) -> float:
            self.val_loss = next(values)
            return self.val_loss

        return validate

    run = tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", script(4.0, 3.0, 1.0, 2.0))
        assert train(run, "--steps", 6, "--eval-every", 2, "--save-every", 2).code == 0
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    before = (run / "best" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", script(2.0, 1.5))
        assert pealm("train", "--out", run).code == 0
    assert checkpoint.verify(run / "best")["val_loss"] == 1.0
    assert (run / "best" / "model.safetensors").read_bytes() == before


def test_a_run_of_which_only_best_is_left_is_not_started_again(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "r"
    assert train(run, "--steps", 4, "--eval-every", 2).code == 0
    assert pealm("clean", run, "--keep-best", "--yes").code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = pealm("train", "--out", run, "--steps", 9)
    assert result.code == 2 and f"--init {run}" in result.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert train(tmp_path / "new", "--steps", 2, "--init", run).code == 0
