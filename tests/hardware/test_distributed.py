"""Several processes: the same learning, one voice, and no hang when one fails; restarts and signals under torchrun."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_tensors, read_tree

SMALL = ["--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8]
CONSTANT = ["--warmup-steps", 0, "--schedule.min-lr-ratio", 1]  # a rate that does not know the run's length
PEALM = ("-m", "pealm")
WALL_CLOCK = {"seconds", "tokens_per_second"}
PATIENCE = 150  # seconds; whoever needs as many hangs


def all_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps; the first line is the validation before them."""
    return all_rows(run)[1:]


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in all_rows(run)]


def torchrun(processes: int, *args: object, restarts: int = 0, logs: Path | None = None) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    command += [f"--log-dir={logs}", "--redirects=3"] if logs else []
    return [*command, *map(str, args)]


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    def run(processes: int, *args: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        process = subprocess.Popen(
            torchrun(processes, *args, **options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def short_book(tmp_path: Path) -> Path:
    """49 windows of 16 tokens: an epoch of 6 steps and a bit."""
    path = tmp_path / "short.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    return path


def test_the_number_of_processes_does_not_change_what_is_learned(
    pealm: Callable[..., Any], ranks: Callable[..., Any], tmp_path: Path, short_book: Path
) -> None:
    begin = ["train", "char-transformer", "--input.text", short_book, *SMALL, *CONSTANT, "--dtype", "fp32"]
    begin += ["--eval-every", 3, "--eval-tokens", 48]  # three windows: with four processes, one has none
    assert pealm(*begin, "--out", tmp_path / "straight", "--steps", 6).code == 0
    # Begun with two and accumulation, ended with one; begun with one, ended with two; four all the way.
    halves = ranks(2, *begin, "--out", tmp_path / "2-1", "--steps", 3, "--micro-batch-size", 2)
    assert [done.code for done in halves] == [0, 0]
    assert pealm("train", "--out", tmp_path / "2-1", "--steps", 6).code == 0
    assert pealm(*begin, "--out", tmp_path / "1-2", "--steps", 3).code == 0
    assert [done.code for done in ranks(2, "train", "--out", tmp_path / "1-2", "--steps", 6)] == [0, 0]
    four = ranks(4, *begin, "--out", tmp_path / "4", "--steps", 6)
    assert [(done.code, done.err) for done in four] == 4 * [(0, "")]
    straight = rows(tmp_path / "straight")
    for name in ("2-1", "1-2", "4"):
        run = rows(tmp_path / name)
        assert [row["step"] for row in run] == [1, 2, 3, 4, 5, 6], name
        for one, other in zip(straight, run, strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5), name
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4), name
            assert other["tokens"] == one["tokens"] and other["lr"] == one["lr"]
            assert other.keys() == one.keys()
            assert other.get("val_loss", 0) == pytest.approx(one.get("val_loss", 0), rel=1e-5), name
    assert four[0].out.count(", 4 processes") == 1 and [done.out for done in four[1:]] == 3 * [""]
    assert checkpoint.verify(tmp_path / "4" / "checkpoints" / "step-00000006")["world_size"] == 4


def test_two_processes_that_stop_and_go_on_end_with_the_same_bits(
    ranks: Callable[..., Any], tmp_path: Path, short_book: Path
) -> None:
    begin = ["train", "char-transformer", "--input.text", short_book, *SMALL, "--model.dropout", 0.2]
    begin += ["--micro-batch-size", 2, "--eval-every", 2, "--save-every", 3, "--keep", 0, "--steps", 8]
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert [done.code for done in ranks(2, *begin, "--out", straight)] == [0, 0]
    shutil.copytree(straight, parts)
    for step in (6, 8):  # as the disk is where the run was stopped after step 3, in the middle of an epoch
        shutil.rmtree(parts / "checkpoints" / f"step-{step:08d}")
    done = ranks(2, "train", "--out", parts)[0]
    assert f"resuming from {parts}/checkpoints/step-00000003" in done.out, done.err
    assert timeless(parts) == timeless(straight)
    for folder in ("checkpoints/step-00000006", "checkpoints/step-00000008", "best"):
        a, b = straight / folder, parts / folder
        one, two = checkpoint.verify(a), checkpoint.verify(b)
        for state in (one, two):
            del state["seconds"], state["eval_seconds"]
        assert one == two
        for name in ("model.safetensors", "optimizer.safetensors"):
            if folder == "best" and name.startswith("optimizer"):
                continue
            first, second = read_tensors(a / name)[0], read_tensors(b / name)[0]
            assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
            if name.startswith("optimizer"):
                assert read_tree(a / name)["param_groups"] == read_tree(b / name)["param_groups"]


# What goes wrong on rank 1, one fault for each time that torchrun starts the processes, and what it must say.
FAULTS = {
    "settings": "the processes differ: [train] lr is 0.003 on rank 0 and 0.5 on rank 1",
    "shard": "pealm: rank 1: shard_7.npy has become shorter",
    "nan": "the loss is not finite at step 4 (rank 1): nan",
}
FAULTY = f"""
import os, sys
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
fault = {list(FAULTS)!r}[attempt] if rank == 1 else None
if fault == "settings":
    sys.argv += ["--lr", "0.5"]
from pealm_core import UserError
from pealm_core.cli import main
from pealm_core.training.trainer import Trainer

gradients = Trainer.gradients

def failing(self):
    if self.step == 3:
        if fault == "shard":
            raise UserError("shard_7.npy has become shorter")
    sums = gradients(self)
    return {{name: value * float("nan") for name, value in sums.items()}} if self.step == 3 and fault == "nan" else sums

Trainer.gradients = failing
main()
"""


def test_a_rank_that_fails_ends_all_with_its_own_message(
    launch: Callable[..., Any],
    tmp_path: Path,
    book: Path,
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    args = ["train", "char-transformer", "--input.text", book, *SMALL, "--steps", 6, "--out", "r", "--eval-every", 3]
    done = launch(2, tmp_path / "faulty.py", *args, restarts=len(FAULTS) - 1, logs=tmp_path / "logs")
    assert done.returncode == 1
    for attempt, (fault, message) in enumerate(FAULTS.items()):
        (folder,) = (tmp_path / "logs").glob(f"*/attempt_{attempt}")
        first, second = ((folder / rank / "stderr.log").read_text() for rank in ("0", "1"))
        assert "Traceback" not in first + second, (fault, first, second)
        if fault == "nan":  # which both ranks know of, and say
            assert message in first + second
            continue
        assert (first + second).count(message) == 1 and len((first + second).splitlines()) == 1, (
            fault,
            first,
            second,
        )
        assert not first or fault == "settings", (fault, first)
    assert [row["step"] for row in rows(tmp_path / "r")] == [1, 2, 3]


UNUSED = """
import os
import torch
from torch import nn
from torch.nn import functional as F

class Odd(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        self.unused = nn.Linear(4, 4)
        self.passes = 0

    def forward(self, idx, targets=None, *, cache=None, at=None):
        logits = self.table(idx) if at is None else self.table(idx)[:, at]
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.passes += self.training
        where = {"all": "", "one": os.environ["RANK"] == "0", "later": self.passes < 3, "last": self.passes % 2,
                 "last of one": self.passes % 2 or os.environ["RANK"] == "0"}[os.environ["UNUSED"]]
        return logits, loss + 0 * self.unused(torch.ones(4)).sum() if where else loss
"""
PLUGIN = """
from dataclasses import dataclass
from pealm_core import ModelSpec, hookimpl

@dataclass(frozen=True)
class Config:
    vocab_size: int = 0
    block_size: int = 16

@hookimpl
def pealm_models():
    return ModelSpec(name="odd", summary="odd", config="odd_plugin:Config", factory="odd_model:Odd")
"""


@pytest.mark.parametrize(("where", "step"), [("all", 1), ("one", 1), ("later", 3), ("last", 1), ("last of one", 1)])
def test_an_unused_parameter_is_the_plugins_defect(
    ranks: Callable[..., Any], tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch, where: str, step: int
) -> None:
    """DistributedDataParallel would wait for its gradient, and say so in a hundred lines."""
    info = tmp_path / "site" / "pealm_odd-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("[pealm]\nodd = odd_plugin\n")
    (info.parent / "odd_plugin.py").write_text(PLUGIN)
    (info.parent / "odd_model.py").write_text(UNUSED)
    monkeypatch.syspath_prepend(info.parent)
    args = ["train", "odd", "--input.text", book, "--steps", 5, "--batch-size", 4, "--out", tmp_path / "r"]
    if "last" in where:  # the first of two passes gives it a gradient, and the second doesn't
        args += ["--micro-batch-size", 1]
    done = ranks(2, *args, UNUSED=where)
    (line,) = "".join(rank.err for rank in done).splitlines()  # once
    assert f"pealm-odd: step {step}: the model gives unused.weight, unused.bias no gradient" in line
    assert 3 in {rank.code for rank in done}
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "failed"


FREEZING = """
from pealm_core import hookimpl
@hookimpl
def pealm_run_start(trainer):
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(name != "norm.weight")
"""


def test_a_parameter_frozen_after_wrapping_is_one_line(ranks: Callable[..., Any], tmp_path: Path, book: Path) -> None:
    (tmp_path / "freeze.py").write_text(FREEZING)
    start = ["char-transformer", "--input.text", book, *SMALL, "--steps", 3, "--out", tmp_path / "r"]
    done = ranks(2, "--plugin", tmp_path / "freeze.py", "train", *start)
    (line,) = "".join(rank.err for rank in done).splitlines()  # once
    assert "step 1: the model gives" in line and "norm.weight" in line and 3 in {rank.code for rank in done}
    assert "requires_grad=False when the model is made" in line


def test_gradients_in_bf16_teach_nearly_the_same(
    pealm: Callable[..., Any], ranks: Callable[..., Any], tmp_path: Path, short_book: Path
) -> None:
    begin = ["train", "char-transformer", "--input.text", short_book, *SMALL, *CONSTANT, "--dtype", "fp32"]
    begin += ["--eval-tokens", 48, "--steps", 6, "--strategy.gradients", "bf16", "--micro-batch-size", 2]
    assert [done.code for done in ranks(2, *begin, "--out", tmp_path / "two")] == [0, 0]
    assert pealm(*begin, "--out", tmp_path / "one").code == 0  # one process exchanges nothing
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert one[0]["grad_norm"] == pytest.approx(two[0]["grad_norm"], rel=0.01)
    assert one[0]["grad_norm"] != pytest.approx(two[0]["grad_norm"], rel=1e-6)  # in fp32, it would be this near
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=0.01)


REFUSING = """
from pealm_core import UserError, hookimpl
@hookimpl
def pealm_run_start(trainer):
    raise UserError("choose another file")
@hookimpl
def pealm_step_end(trainer):
    raise AssertionError
"""
SLOW = """
import time
from pealm_core import hookimpl
@hookimpl
def pealm_run_end(trainer, status):
    time.sleep(1 if trainer.world.main else 0)  # the process with the message is the last
"""


def test_an_observer_refuses_the_run_of_two_processes(ranks: Callable[..., Any], tmp_path: Path, book: Path) -> None:
    (tmp_path / "refusing.py").write_text(REFUSING)
    (tmp_path / "slow.py").write_text(SLOW)
    plugins = ["--plugin", tmp_path / "refusing.py", "--plugin", tmp_path / "slow.py"]
    done = ranks(2, *plugins, "train", "char-bigram", "--input.text", book, "--out", tmp_path / "r")
    assert [line for rank in done for line in rank.err.splitlines() if "waiting" not in line] == [
        "pealm: file:refusing.py/refusing: choose another file"
    ]
    assert 2 in {rank.code for rank in done}
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "failed"


KILLABLE = """
import os, pathlib
pathlib.Path(f"rank{os.environ['RANK']}.pid").write_text(str(os.getpid()))
from pealm_core.cli import main
main()
"""


def test_a_killed_worker_is_started_again_and_a_signal_ends_with_a_checkpoint(
    pealm: Callable[..., Any], tmp_path: Path, book: Path
) -> None:
    (tmp_path / "killable.py").write_text(KILLABLE)
    args = ["train", "char-transformer", "--input.text", book, *SMALL, "--steps", 1_000_000, "--save-every", 20]
    out, log = tmp_path / "out.txt", tmp_path / "err.txt"
    with out.open("w") as stdout, log.open("w") as stderr:
        process = subprocess.Popen(
            torchrun(2, "killable.py", *args, restarts=1), cwd=tmp_path, stdout=stdout, stderr=stderr
        )
    try:
        until(process, lambda: len(list(tmp_path.glob("runs/*/*/checkpoints/step-*"))) > 1, log)
        (run,) = tmp_path.glob("runs/char-transformer/*")  # without --out: it must find the same folder again
        os.kill(int((tmp_path / "rank1.pid").read_text()), signal.SIGKILL)
        until(process, lambda: "resuming from" in out.read_text(), log)
        begun = len((run / "metrics.jsonl").read_bytes())
        until(process, lambda: len((run / "metrics.jsonl").read_bytes()) > begun + 2000, log)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
    assert [*tmp_path.glob("runs/*/*")] == [run]
    last = rows(run)[-1]["step"]
    assert [row["step"] for row in rows(run)] == list(range(1, last + 1))
    assert checkpoint.newest(run) == (run / "checkpoints" / f"step-{last:08d}", [])
    assert out.read_text().count("interrupted; resume with: pealm train --out") == 1
    assert "pealm:" not in log.read_text() and "pealm_core" not in log.read_text()  # no word, no traceback of ours
    assert not [*run.glob("**/*.tmp")]
    assert pealm("train", "--out", run, "--steps", last + 2).code == 0  # as long as it is now known to be
    assert [row["step"] for row in rows(run)] == list(range(1, last + 3))


def until(process: "subprocess.Popen[bytes]", ready: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
