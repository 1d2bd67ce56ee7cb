"""Training from the command line: what is learned, what is on disk, and how a run goes on."""

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core.checkpoints.tensors import read_tensors, read_tree
from pealm_core.contract.errors import UserError
from pealm_core.contract.training_protocols import IGNORE, Batch
from pealm_core.data.windows import Windows
from pealm_core.training.run_folder import Run, new_folder
from pealm_core.training.trainer import Trainer

SMALL = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8)
TIMES = ("tokens_per_second", "seconds")


def all_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lines(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps; the first line is the validation before them."""
    return all_lines(run)[1:]


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in all_lines(run)]


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def same_tensors(a: Path, b: Path) -> bool:
    one, two = read_tensors(a)[0], read_tensors(b)[0]
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path) -> Callable[..., Any]:
    def run(out: Path, *args: object, model: str = "char-transformer") -> Any:
        return pealm("train", model, "--input.text", book, "--out", out, *SMALL, "--eval-every", 5, *args)

    return run


def test_a_run_learns_and_leaves_what_it_promises(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train(tmp_path / "r", "--steps", 60, "--lr", 0.01, "--warmup-steps", 5)
    assert result.code == 0, result.err
    first, *rows = all_lines(tmp_path / "r")
    assert set(first) == {"step", "tokens", "val_loss", "val_bits_per_byte", "seconds"}
    assert first["step"] == first["tokens"] == 0
    assert first["val_loss"] == pytest.approx(rows[0]["loss"], abs=0.1)
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert set(rows[0]) == {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "seconds"}
    assert "val_loss" in rows[4] and rows[-1]["val_loss"] < 1.0 < rows[0]["loss"]
    assert rows[-1]["tokens"] == 60 * 8 * 16
    assert (tmp_path / "r" / "best" / "model.safetensors").exists()
    assert not (tmp_path / "r" / "best" / "optimizer.safetensors").exists()
    assert "validation loss" in result.out and f"pealm sample --ckpt {tmp_path / 'r'}" in result.out


def test_the_rate_warms_up_and_follows_the_cosine(train: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path / "r", "--steps", 21, "--lr", 0.01, "--warmup-steps", 4, "--schedule.min-lr-ratio", 0.1)
    rates = [row["lr"] for row in lines(tmp_path / "r")]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    for step in range(4, 21):
        share = (step - 4) / 17
        assert rates[step] == pytest.approx(0.01 * (0.1 + 0.45 * (1 + math.cos(math.pi * share))))


def test_the_first_loss_is_that_of_knowing_nothing(train: Callable[..., Any], tmp_path: Path, book: Path) -> None:
    train(tmp_path / "r", "--steps", 1)
    assert lines(tmp_path / "r")[0]["loss"] == pytest.approx(math.log(len(set(book.read_text()))), abs=0.1)


def test_accumulation_changes_nothing(train: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path / "a", "--steps", 6, "--dtype", "fp32")
    train(tmp_path / "b", "--steps", 6, "--dtype", "fp32", "--micro-batch-size", 2)
    for one, two in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("extra", [(), ("--model.dropout", "0.2", "--micro-batch-size", "4")])
def test_a_run_that_stops_and_goes_on_equals_one_that_never_stopped(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, extra: tuple[str, ...]
) -> None:
    args = (
        "--warmup-steps",
        0,
        "--schedule.min-lr-ratio",
        1.0,
        *extra,
    )  # a constant rate: the length does not matter
    train(tmp_path / "straight", "--steps", 12, *args)
    train(tmp_path / "parts", "--steps", 5, *args)
    assert pealm("train", "--out", tmp_path / "parts", "--steps", 7).code == 0
    assert "resuming from" in pealm("train", "--out", tmp_path / "parts", "--steps", 12).out
    a, b = newest(tmp_path / "straight"), newest(tmp_path / "parts")
    assert same_tensors(a / "model.safetensors", b / "model.safetensors")
    assert same_tensors(a / "optimizer.safetensors", b / "optimizer.safetensors")
    groups = [read_tree(c / "optimizer.safetensors")["param_groups"] for c in (a, b)]
    assert groups[0] == groups[1]
    # The parts also validated where they ended.
    for one, two in zip(timeless(tmp_path / "straight"), timeless(tmp_path / "parts"), strict=True):
        two = two if "val_loss" in one else {k: v for k, v in two.items() if not k.startswith("val_")}
        assert one == two


def test_a_saved_config_repeats_the_run(train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path / "a", "--steps", 6, "--seed", 5)
    result = pealm("train", "--config", tmp_path / "a" / "config.toml", "--out", tmp_path / "b")
    assert result.code == 0 and "tokens from the cache" in result.out
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    assert (tmp_path / "a" / "config.toml").read_text() == (tmp_path / "b" / "config.toml").read_text()


def test_a_finished_run_is_a_no_op_with_a_word(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    train(tmp_path / "r", "--steps", 3)
    names = ("metrics.jsonl", "config.toml")
    before = [(tmp_path / "r" / name).read_text() for name in names]
    for words in ((), ("--steps", 2)):
        result = pealm("train", "--out", tmp_path / "r", *words)
        assert result.code == 0 and "is finished: 3 steps" in result.out
        assert [(tmp_path / "r" / name).read_text() for name in names] == before


def test_going_on_with_another_setting_is_an_error_that_names_it(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, book: Path
) -> None:
    train(tmp_path / "r", "--steps", 3)
    result = pealm("train", "--out", tmp_path / "r", "--batch-size", 4, "--steps", 5)
    assert result.code == 2 and "was started with [train] batch-size = 8, not 4" in result.err
    before = (tmp_path / "r" / "config.toml").read_text()
    book.write_text(book.read_text() + "more")
    result = pealm("train", "--out", tmp_path / "r", "--steps", 5)
    assert result.code == 2 and "has changed since the run was started" in result.err
    assert (tmp_path / "r" / "config.toml").read_text() == before


def test_a_run_resumes_with_another_rate_and_says_so(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    """More steps raise the cosine's rate above the last step's; another --lr counts from the next step on."""
    train(tmp_path / "r", "--steps", 10, "--warmup-steps", 0, "--lr", 0.01)
    more = pealm("train", "--out", tmp_path / "r", "--steps", 20)
    assert more.code == 0 and "learning rate 0.0012 → 0.0055 from step 11" in more.out
    assert "(to stay there: --schedule constant --lr 0.0012)" in more.out
    assert lines(tmp_path / "r")[10]["lr"] == pytest.approx(0.0055)
    other = pealm("train", "--out", tmp_path / "r", "--steps", 30, "--lr", 0.1, "--schedule", "wsd")
    assert other.code == 0 and lines(tmp_path / "r")[20]["lr"] == pytest.approx(0.1 * (0.1 + 0.9 * (1 / 3) / 0.6))
    same = pealm("train", "--out", tmp_path / "r", "--keep", 2)
    assert same.code == 0 and "is finished" in same.out
    assert "learning rate" not in same.out and "changed settings" not in same.out


def test_a_setting_that_is_newer_than_the_run_keeps_nothing_from_going_on(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    train(tmp_path / "r", "--steps", 3)
    config = tmp_path / "r" / "config.toml"
    text, count = re.subn(r"(?m)^dropout = .*\n", "", config.read_text())
    assert count == 1
    config.write_text(text)
    result = pealm("train", "--out", tmp_path / "r", "--steps", 4, "--model.dropout", 0.5)
    assert result.code == 2 and "was started with [model] dropout = None, not 0.5" in result.err
    assert pealm("train", "--out", tmp_path / "r", "--steps", 4).code == 0
    assert [row["step"] for row in lines(tmp_path / "r")] == [1, 2, 3, 4]


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    train(tmp_path / "r", "--steps", 6, "--save-every", 3)
    broken = newest(tmp_path / "r") / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    result = pealm("train", "--out", tmp_path / "r", "--steps", 8)
    assert result.code == 0 and f"skipped: {broken}" in result.out and "step-00000003" in result.out
    assert [row["step"] for row in lines(tmp_path / "r")] == list(range(1, 9))
    broken = tmp_path / "r" / "best" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    result = pealm("sample", "--ckpt", tmp_path / "r")
    assert result.code == 2 and str(broken) in result.err


@pytest.mark.parametrize(("keep", "left"), [(2, [8, 10]), (0, [2, 4, 6, 8, 10])])
def test_only_the_newest_checkpoints_are_kept(
    train: Callable[..., Any], tmp_path: Path, keep: int, left: list[int]
) -> None:
    assert train(tmp_path / "r", "--steps", 10, "--save-every", 2, "--keep", keep).code == 0
    names = [path.name for path in sorted((tmp_path / "r" / "checkpoints").iterdir())]
    assert names == [f"step-{step:08d}" for step in left]
    assert (tmp_path / "r" / "best").is_dir()


def test_a_run_in_use_is_left_alone(train: Callable[..., Any], tmp_path: Path) -> None:
    holder = Run(tmp_path / "r", {})
    result = train(tmp_path / "r", "--steps", 3)
    assert result.code == 2 and f"in use by process {os.getpid()}" in result.err
    holder.close()


def test_a_run_that_another_process_began_and_ended_meanwhile_is_left_alone(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, take = tmp_path / "r", Run.__init__

    def late(self: Run, folder: Path, *args: Any, **kwargs: Any) -> None:
        folder.mkdir()
        (folder / "config.toml").write_text("[model]\n")
        take(self, folder, *args, **kwargs)

    monkeypatch.setattr(Run, "__init__", late)
    result = train(out, "--steps", 3)
    assert result.code == 2 and f"{out} was just started by another process" in result.err
    assert (out / "config.toml").read_text() == "[model]\n" and not (out / "metrics.jsonl").exists()


def test_two_runs_of_one_second_have_a_folder_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pealm_core.training.run_folder.time.strftime", lambda _: "now")
    assert [str(new_folder("x/y")) for _ in range(3)] == ["runs/x-y/now", "runs/x-y/now-2", "runs/x-y/now-3"]
    (tmp_path / "runs" / "z").write_text("")
    with pytest.raises(UserError, match="runs/z/now: the run folder can't be written"):
        new_folder("z")


def test_what_else_is_in_the_folder_stays(train: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "r"
    kept = ["data", "data.old", ".x.tmp", "notes.old", "best.old", ".best.notes.tmp", "checkpoints/step-00000009.old"]
    ours = [".best.7.old", ".best.7.tmp", "checkpoints/.step-00000009.a.old", "checkpoints/.step-00000009.tmp"]
    for name in [*kept, *ours, "best", "checkpoints/step-00000009"]:
        (run / name).mkdir(parents=True)
    assert train(run, "--steps", 2).code == 0
    assert all((run / name).is_dir() for name in kept)
    assert not any((run / name).exists() for name in ours)


def test_training_by_time_ends_with_a_validation_and_a_checkpoint(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, validate = itertools.count(), Trainer.validate
    monkeypatch.setattr(
        "pealm_core.training.trainer.time.perf_counter", lambda: 0.01 * next(clock)
    )  # each look takes 10 ms

    def slow(self: Trainer) -> float:
        loss, self.eval_seconds = validate(self), 0.3
        return loss

    monkeypatch.setattr(Trainer, "validate", slow)  # so that the run ends well before its time
    result = train(tmp_path / "r", "--max-seconds", 1.5)
    assert result.code == 0, result.err
    rows = lines(tmp_path / "r")
    assert "val_loss" in rows[-1] and rows[-1]["lr"] < rows[len(rows) // 2]["lr"]
    assert newest(tmp_path / "r").name == f"step-{rows[-1]['step']:08d}"
    again = pealm("train", "--out", tmp_path / "r")
    assert again.code == 0 and f"is finished: {len(rows)} steps. A larger --max-seconds" in again.out
    assert lines(tmp_path / "r") == rows
    more = pealm("train", "--out", tmp_path / "r", "--max-seconds", 2.5)
    assert more.code == 0 and len(lines(tmp_path / "r")) > len(rows)


def test_a_loss_that_is_not_finite_stops_before_the_update(train: Callable[..., Any], tmp_path: Path) -> None:
    result = train(tmp_path / "r", "--steps", 60, "--lr", 1e30, "--warmup-steps", 0, "--grad-clip", 0)
    assert result.code == 1
    assert "is not finite at step" in result.err and "(rank 0)" in result.err


def test_a_step_without_a_scored_token_is_skipped_and_says_so(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Windows.rows

    def masked(self: Windows, samples: Iterable[int]) -> Batch:
        batch = rows(self, numbers := list(samples))
        if 8 in numbers:  # the second step
            batch["targets"].fill_(IGNORE)
        return batch

    monkeypatch.setattr(Windows, "rows", masked)
    result = train(tmp_path / "r", "--steps", 3, "--eval-every", 1)
    assert result.code == 0, result.err
    assert "step 2: no token of the batch is scored; the step is skipped" in result.out
    one, two, three = lines(tmp_path / "r")
    assert two["loss"] is None and two["val_loss"] == one["val_loss"] != three["val_loss"]
    assert "train none  val" in result.out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on(
    tmp_path: Path, book: Path, pealm: Callable[..., Any], number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "pealm", "train", "char-transformer", "--input.text", str(book)]
    command += ["--out", str(tmp_path / "r"), "--steps", "1000000", *map(str, SMALL)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "r" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.stat().st_size > 500:
            break
        time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    assert "interrupted; resume with: pealm train --out" in out and "Traceback" not in out
    step = lines(tmp_path / "r")[-1]["step"]
    assert newest(tmp_path / "r").name == f"step-{step:08d}"
    assert pealm("train", "--out", tmp_path / "r", "--steps", step + 2).code == 0
    assert lines(tmp_path / "r")[-1]["step"] == step + 2


def test_lifecycle_hooks_get_the_run(
    train: Callable[..., Any], stranger: Callable[..., None], tmp_path: Path
) -> None:
    stranger(
        "pealm-log",
        """
        from pealm_core import hookimpl
        def note(trainer, text):
            with (trainer.run.dir / "hooks.txt").open("a") as file:
                file.write(text + "\\n")
        @hookimpl
        def pealm_run_start(trainer):
            run = trainer.run
            note(trainer, f"start {run.rank} {run.config['model']['name']}")
        @hookimpl
        def pealm_step_end(trainer):
            note(trainer, f"step {trainer.step}")
        @hookimpl
        def pealm_metrics(trainer, step, metrics):
            note(trainer, f"metrics {step} {metrics['tokens']}")
            metrics["twice"] = 2 * metrics["loss"]
        @hookimpl
        def pealm_validation_end(trainer, loss):
            note(trainer, f"validation {trainer.step} {loss == trainer.val_loss}")
        @hookimpl
        def pealm_checkpoint_saved(trainer, path):
            note(trainer, f"saved {path.name} {path.exists()}")
        @hookimpl
        def pealm_run_end(trainer, status):
            note(trainer, f"end {status}")
        """,
    )
    assert train(tmp_path / "r", "--steps", 2).code == 0
    assert (tmp_path / "r" / "hooks.txt").read_text().splitlines() == [
        "start 0 char-transformer",
        "validation 0 True",
        "step 1",
        "metrics 1 128",
        "step 2",
        "validation 2 True",
        "metrics 2 256",
        "saved best True",
        "saved step-00000002 True",
        "end done",
    ]
    assert all(line["twice"] == 2 * line["loss"] for line in lines(tmp_path / "r"))
