"""What a run does about kills, full disks, damaged files, signals and too little memory: each provoked for real."""

import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pealm_core import PealmError, UserError
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.plugins.loading import PluginHost
from pealm_core.training.run_folder import Run
from pealm_core.training.saving import Saver, copied
from pealm_core.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8]


def steps(run: Path) -> list[int]:
    """Return the steps in metrics.jsonl, whose first line is the validation before them, step 0."""
    first, *rest = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert first == 0
    return rest


def saved(run: Path) -> list[int]:
    """The steps of the checkpoints: all of them are whole, and there is nothing beside them."""
    folders = checkpoint.steps(run)
    for folder in folders:
        checkpoint.verify(folder)
    assert sorted((run / "checkpoints").iterdir()) == folders
    assert not [path for path in run.iterdir() if path.name.endswith((".tmp", ".old"))]
    return [int(folder.name.removeprefix("step-")) for folder in folders]


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path) -> Callable[..., Any]:
    def run(out: Path, *args: object) -> Any:
        return pealm("train", "char-transformer", "--input.text", book, "--out", out, *SMALL, *args)

    return run


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, Callable[[Run], object]]], None]:
    """`at_step({4: do})` calls `do(run)` when step 4 is done, before its line is written and it is saved."""

    def install(what: Mapping[int, Callable[[Run], object]]) -> None:
        call = PluginHost.call

        def hook(self: PluginHost, hook: str, **values: Any) -> Any:
            if hook == "pealm_metrics" and values["step"] in what:
                what[values["step"]](values["trainer"].run)
            return call(self, hook, **values)

        monkeypatch.setattr(PluginHost, "call", hook)

    return install


@pytest.fixture
def in_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Trainer], object]], None]:
    """`in_update(8, do)` calls `do(trainer)` while step 8 is computed, after its gradients."""

    def install(step: int, what: Callable[[Trainer], object]) -> None:
        gradients = Trainer.gradients

        def also(self: Trainer) -> dict[str, torch.Tensor]:
            sums = gradients(self)
            given = what(self) if self.step + 1 == step else None
            return sums | ({"loss": torch.tensor(given)} if isinstance(given, float) else {})

        monkeypatch.setattr(Trainer, "gradients", also)

    return install


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every save is waited for, so that a test knows which one meets the fault."""
    save = Saver.save

    def and_wait(self: Saver, *, full: bool, best: bool) -> None:
        save(self, full=full, best=best)
        self.wait()

    monkeypatch.setattr(Saver, "save", and_wait)


class Disk:
    """A real file system of half a megabyte, to be filled up and made read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, run: Run | None = None) -> None:
        """Leave no byte."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def free(self, run: Run | None = None) -> None:
        """Make room again."""
        (self.folder / "filler").unlink()

    def read_only(self, run: Run | None = None) -> None:
        """As a disk with errors is mounted again; no file may be open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=512k", "pealm-test", str(folder)]
    if mount is None or os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs a small file system of its own: root, and the right to mount one")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# ---------------------------------------------------------------- kills and damage


@pytest.fixture(scope="module")
def fault_storm() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fault_storm", ROOT / "scripts" / "proof" / "fault_storm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_small_storm_of_kills_loses_nothing_and_damage_is_found(
    fault_storm: ModuleType, pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, book: Path
) -> None:
    monkeypatch.setattr(fault_storm, "KINDS", {"in a save": 0.7, "in a step": 0.2, "resuming": 0.1, "starting": 0})
    straight, stormy, draw = tmp_path / "straight", tmp_path / "stormy", random.Random(3)
    assert pealm(*fault_storm.command(straight, 300)[3:]).code == 0
    began = time.monotonic()
    fault_storm.storm(stormy, 4, 300, draw, began)
    assert "bit-identical: 301 lines" in fault_storm.compare(straight, stormy)
    assert "all found, none loaded" in fault_storm.damage(stormy, 25, draw)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "config.toml", "tokenizer/chars.json", "state.json"]
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    run = tmp_path / "r"
    train(run, "--steps", 6, "--save-every", 3)
    newest = run / "checkpoints" / "step-00000006"
    path = newest / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if name != "state.json" else data[: len(data) // 2])
    sampled = pealm("sample", "--ckpt", newest, "-n", 1)
    if name == "optimizer.safetensors":  # which sampling does not read
        assert sampled.code == 0
    else:
        assert sampled.code == 2 and not sampled.out and str(newest) in sampled.err
    result = pealm("train", "--out", run)
    assert result.code == 0 and f"skipped: {path}" in result.out and "step-00000003" in result.out
    assert steps(run) == [1, 2, 3, 4, 5, 6]


# ---------------------------------------------------------------- the disk


def untouched(run: Path, expected: list[int]) -> None:
    assert saved(run) == expected


def test_a_full_disk_costs_a_save_and_not_the_run(
    train: Callable[..., Any], disk: Disk, at_step: Callable[..., None], waiting: None
) -> None:
    run = disk.folder / "r"
    at_step({21: disk.fill, 45: lambda _: untouched(run, [20]), 50: disk.free})
    result = train(run, "--steps", 60, "--save-every", 20, "--keep", 2, "--eval-every", 0)
    assert result.code == 0, result.err
    (line,) = [line for line in (result.out + result.err).splitlines() if "No space left" in line]
    assert "step-00000040: the checkpoint could not be written" in line
    assert "training continues, and the next save tries again" in line
    assert saved(run) == [20, 60]
    assert steps(run) == list(range(1, 61))  # those of the full disk were kept until there was room


def test_a_last_save_that_fails_is_a_failed_run(
    train: Callable[..., Any], pealm: Callable[..., Any], disk: Disk, at_step: Callable[..., None], waiting: None
) -> None:
    run = disk.folder / "r"
    faults = {21: disk.fill}
    at_step(faults)
    result = train(run, "--steps", 40, "--save-every", 20, "--eval-every", 0)
    assert result.code == 1
    assert (
        result.err.count("the checkpoint could not be written") == 1
        and "training continues" not in result.out + result.err
    )
    disk.free()
    faults.clear()
    untouched(run, [20])
    assert pealm("train", "--out", run).code == 0
    assert saved(run) == [20, 40] and steps(run) == list(range(1, 41))


def test_a_best_that_could_not_be_written_is_not_taken_for_written(
    train: Callable[..., Any],
    disk: Disk,
    at_step: Callable[..., None],
    waiting: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses, validate = iter([4.0, 3.0, 1.0, 2.0, 2.5]), Trainer.validate

    def scripted(self: Trainer) -> float:
        validate(self)
        self.val_loss = next(losses)
        return self.val_loss

    monkeypatch.setattr(Trainer, "validate", scripted)
    run = disk.folder / "r"
    at_step({11: disk.fill, 21: disk.free})  # full when the loss is 1.0
    assert train(run, "--steps", 40, "--save-every", 0, "--eval-every", 10).code == 0
    state = checkpoint.verify(run / "best")
    assert (state["step"], state["val_loss"], state["best_loss"]) == (30, 2.0, 2.0)


def test_a_best_that_is_on_the_disk_counts_though_the_step_beside_it_failed(
    train: Callable[..., Any],
    at_step: Callable[..., None],
    tmp_path: Path,
    waiting: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses, validate, save = iter([4.0, 3.0, 1.0, 2.0, 2.5]), Trainer.validate, checkpoint.save
    told: list[str] = []
    call = PluginHost.call

    def scripted(self: Trainer) -> float:
        validate(self)
        self.val_loss = next(losses)
        return self.val_loss

    def refuse(folder: Path, **parts: Any) -> None:
        if folder.name == "step-00000020":
            raise PealmError(f"{folder}: the checkpoint could not be written: No space left on device")
        save(folder, **parts)

    def listen(self: PluginHost, hook: str, **values: Any) -> Any:
        if hook == "pealm_checkpoint_saved":
            told.append(values["path"].name)
        return call(self, hook, **values)

    monkeypatch.setattr(Trainer, "validate", scripted)
    monkeypatch.setattr(checkpoint, "save", refuse)
    monkeypatch.setattr(PluginHost, "call", listen)
    assert train(tmp_path / "r", "--steps", 40, "--save-every", 10, "--eval-every", 10).code == 0
    state = checkpoint.verify(tmp_path / "r" / "best")
    assert (state["step"], state["val_loss"]) == (20, 1.0)
    assert told == ["best", "step-00000010", "best", "step-00000030", "step-00000040"]


@pytest.mark.parametrize("call", range(1, 9))
def test_a_disk_that_refuses_at_any_moment_leaves_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    class Words:
        vocab_size = 2

        def encode(self, text: str) -> list[int]:
            return [0]

        def decode(self, ids: object) -> str:
            return ""

        def save(self, folder: Path) -> None:
            (folder / "words.txt").write_text("a b")

    def save(step: int) -> None:
        model = torch.nn.Linear(2, 2).state_dict()
        checkpoint.save(
            tmp_path / "best", model=model, config={}, tokenizer=Words(), state={"step": step}, replace=True
        )

    save(1)
    calls, fsync = 0, os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    refused = False
    try:
        save(2)
    except Exception as error:
        refused = True
        assert "could not be written" in str(error) and "No space left" in str(error)
    assert refused == (call <= 7)  # model, config, words, state, two folders, and the folder above
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert checkpoint.verify(tmp_path / "best")["step"] == (1 if call <= 6 else 2)


def test_a_read_only_disk_is_the_users_to_know(
    train: Callable[..., Any], pealm: Callable[..., Any], disk: Disk
) -> None:
    run = disk.folder / "r"
    assert train(run, "--steps", 3).code == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    disk.read_only()
    for result in (pealm("train", "--out", run, "--steps", 5), train(disk.folder / "new", "--steps", 3)):
        assert result.code == 2 and len(result.err.splitlines()) == 1
        assert "can't be written: Read-only file system" in result.err
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_the_users_to_know(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r").chmod(0o555)
    result = train(tmp_path / "r", "--steps", 3)
    assert result.code == 2 and "can't be written: Permission denied" in result.err


def test_a_run_below_a_file_is_the_users_mistake(train: Callable[..., Any], tmp_path: Path, book: Path) -> None:
    result = train(book / "r", "--steps", 3)
    assert result.code == 2 and len(result.err.splitlines()) == 1 and str(book / "r") in result.err


def test_a_run_whose_folder_vanishes_ends_and_makes_no_new_one(
    train: Callable[..., Any], tmp_path: Path, at_step: Callable[..., None]
) -> None:
    at_step({4: lambda run: shutil.rmtree(run.dir)})
    result = train(tmp_path / "r", "--steps", 9, "--save-every", 6)
    assert result.code == 1 and f"{tmp_path / 'r'} has vanished while the run was training" in result.err
    assert not (tmp_path / "r").exists()


def test_another_run_that_took_the_place_is_left_alone(
    train: Callable[..., Any], tmp_path: Path, at_step: Callable[..., None]
) -> None:
    def replace(run: Run) -> None:
        run.dir.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", run.dir)

    at_step({4: replace})
    result = train(tmp_path / "r", "--steps", 9, "--save-every", 6)
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert steps(tmp_path / "r") == [1, 2, 3] and not (tmp_path / "r" / "checkpoints").exists()


def test_a_text_that_shrinks_while_it_is_read_is_named(
    train: Callable[..., Any], tmp_path: Path, at_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))

    def shrink(run: Run) -> None:
        (shard,) = (tmp_path / "cache").glob("tokens/*/train.bin")
        os.truncate(shard, 100)

    at_step({4: shrink})
    result = train(tmp_path / "r", "--steps", 9, "--save-every", 3)
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert "train.bin has become shorter" in result.err
    assert saved(tmp_path / "r") == [3]


# ---------------------------------------------------------------- memory, numbers, signals


def exhaust(*_: object) -> None:
    torch.empty(2**58)  # the allocator refuses, as it does on a machine that is full


@pytest.mark.parametrize("where", ["forward", "optimizer", "validation"])
@pytest.mark.parametrize(
    ("args", "advice"),
    [
        ((), "8 sequences of 16 tokens in a pass; try --micro-batch-size 4"),
        (("--micro-batch-size", 1), "1 sequences of 16 tokens in a pass; try --block-size 8"),
    ],
)
def test_out_of_memory_says_what_to_halve(
    train: Callable[..., Any],
    tmp_path: Path,
    in_update: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    args: tuple[object, ...],
    advice: str,
) -> None:
    if where == "forward":
        in_update(8, exhaust)
    elif where == "optimizer":  # whose state comes with the first step
        in_update(8, lambda trainer: monkeypatch.setattr(trainer.optimizer, "step", exhaust))
    else:
        in_update(8, lambda trainer: monkeypatch.setattr(trainer.model, "forward", exhaust))
    result = train(tmp_path / "r", "--steps", 9 if where != "validation" else 8, "--save-every", 5, *args)
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert "out of memory on cpu at step" in result.err and "(rank 0)" in result.err
    assert advice in result.err or where == "validation"
    assert saved(tmp_path / "r") == [5]


def infinite(trainer: Trainer) -> None:
    next(trainer.model.parameters()).grad[0, 0] = float("inf")  # type: ignore[index]


@pytest.mark.parametrize(("fault", "what"), [(lambda _: float("nan"), "loss"), (infinite, "gradient norm")])
def test_what_is_not_finite_changes_nothing(
    train: Callable[..., Any], tmp_path: Path, in_update: Callable[..., None], fault: Any, what: str
) -> None:
    kept: dict[str, Any] = {}

    def break_it(trainer: Trainer) -> object:
        kept["model"], kept["before"] = trainer.model, {k: v.clone() for k, v in trainer.model.state_dict().items()}
        return fault(trainer)

    in_update(8, break_it)
    result = train(tmp_path / "r", "--steps", 9, "--save-every", 5)
    assert result.code == 1 and f"the {what} is not finite at step 8 (rank 0)" in result.err
    assert len(result.err.splitlines()) == 1 and steps(tmp_path / "r") == [1, 2, 3, 4, 5, 6, 7]
    assert all(torch.equal(value, kept["before"][key]) for key, value in kept["model"].state_dict().items())
    assert saved(tmp_path / "r") == [5]
    weights, _ = read_tensors(tmp_path / "r" / "checkpoints" / "step-00000005" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_a_second_ctrl_c_ends_at_once_and_loses_nothing_older(
    train: Callable[..., Any], tmp_path: Path, in_update: Callable[..., None], waiting: None
) -> None:
    def twice(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        pytest.fail("the step went on")

    in_update(8, twice)
    result = train(tmp_path / "r", "--steps", 9, "--save-every", 5)
    assert result.code == 130 and result.err.strip() == "pealm: interrupted"
    assert checkpoint.newest(tmp_path / "r") == (tmp_path / "r" / "checkpoints" / "step-00000005", [])


INTERRUPTED = """
import os, signal, sys, torch
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.cli import main
from pealm_core.training.trainer import Trainer

save, gradients = checkpoint.save, Trainer.gradients

def endless(folder, **parts):
    while folder.name == "step-00000004":
        torch.ones(300_000).sort()
    save(folder, **parts)

def twice(self):
    if self.step == 5:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    return gradients(self)

checkpoint.save, Trainer.gradients = endless, twice
main()
"""


def test_a_second_ctrl_c_in_the_middle_of_a_save_is_no_crash(tmp_path: Path, book: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    command = [sys.executable, tmp_path / "interrupted.py", "train", "char-transformer", "--input.text", book]
    command += [*SMALL, "--steps", 9, "--save-every", 2, "--eval-every", 0, "--out", tmp_path / "r"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (130, "pealm: interrupted")
    assert checkpoint.newest(tmp_path / "r") == (tmp_path / "r" / "checkpoints" / "step-00000002", [])


# ---------------------------------------------------------------- saves beside the steps


def test_training_goes_on_beside_a_slow_save_which_holds_the_weights_of_its_step(
    train: Callable[..., Any], tmp_path: Path, at_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--steps", 12, "--save-every", 6, "--eval-every", 0]
    assert train(tmp_path / "quick", *args).code == 0
    gate, save, seen = threading.Event(), checkpoint.save, []

    def slow(folder: Path, **parts: Any) -> None:
        if folder.name == "step-00000006":
            assert gate.wait(60)
        save(folder, **parts)

    def open_gate(run: Run) -> None:
        seen.extend([steps(run.dir), checkpoint.steps(run.dir)])
        gate.set()

    monkeypatch.setattr(checkpoint, "save", slow)
    at_step({10: open_gate})
    assert train(tmp_path / "slow", *args).code == 0
    assert seen == [list(range(1, 10)), []]
    assert saved(tmp_path / "slow") == saved(tmp_path / "quick") == [6, 12]
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, two = (read_tensors(tmp_path / run / "checkpoints/step-00000006" / name)[0] for run in ("quick", "slow"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_copies_for_a_save_overwrite_those_of_the_one_before() -> None:
    model, device = torch.nn.Linear(3, 2), torch.device("cpu")
    state = {"model": model.state_dict(), "steps": torch.zeros(()), "none": torch.zeros(0, 2)}
    first, memory = copied(state, device)
    memory.append(other := torch.zeros(7))
    with torch.no_grad():
        model.weight.fill_(7)
    free = memory
    second, memory = copied(state, device, free)
    assert len(free) == 1 and free[0] is other  # the rest is used
    assert second["model"]["weight"].eq(7).all() and second["model"]["weight"] is not model.weight
    assert second["model"]["weight"].data_ptr() == first["model"]["weight"].data_ptr() != model.weight.data_ptr()
    state["none"] = torch.zeros(2, 0)
    third, _ = copied(state, device, memory)
    assert third["none"].shape == (2, 0) and third["steps"].data_ptr() == first["steps"].data_ptr()


def test_saves_reuse_their_memory_and_each_holds_its_own_step(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories, save = [], Saver.save

    def watched(self: Saver, *, full: bool, best: bool) -> None:
        save(self, full=full, best=best)
        memories.append({tensor.data_ptr() for tensor in self._memory})

    monkeypatch.setattr(Saver, "save", watched)
    args = ["--steps", 4, "--save-every", 1, "--eval-every", 0, "--keep", 4]
    assert train(tmp_path / "run", *args).code == 0
    assert memories[0] and all(memory == memories[0] for memory in memories)
    weights = [read_tensors(folder / "model.safetensors")[0] for folder in checkpoint.steps(tmp_path / "run")]
    assert len(weights) == 4
    assert not any(torch.equal(one[name], two[name]) for one, two in itertools.pairwise(weights) for name in one)


@pytest.mark.parametrize("fault", [UserError("a bad shard"), RuntimeError("a bug"), SystemExit("an exit")])
def test_a_save_that_is_under_way_is_finished_when_the_training_fails(
    book: Path,
    tmp_path: Path,
    in_update: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: BaseException,
) -> None:
    from pealm_core.cli import main

    gate, save = threading.Event(), checkpoint.save

    def slow(folder: Path, **parts: Any) -> None:
        assert gate.wait(60)
        save(folder, **parts)

    def fail(trainer: Trainer) -> None:
        threading.Timer(0.5, gate.set).start()
        raise fault

    monkeypatch.setattr(checkpoint, "save", slow)
    in_update(6, fail)
    command = ["train", "char-transformer", "--input.text", book, "--out", tmp_path / "r", *SMALL]
    with pytest.raises(SystemExit):
        main([str(word) for word in (*command, "--steps", 9, "--save-every", 5)])
    assert str(fault) in capfd.readouterr().err
    assert saved(tmp_path / "r") == [5]


@pytest.mark.parametrize(
    ("fault", "cached"),
    [(KeyError("no such thing"), True), (SystemExit("no such thing"), True), (KeyError("no such thing"), False)],
)
def test_a_tokenizer_that_fails_to_save_is_a_failed_save(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, cached: bool
) -> None:
    from pealm_char.tokenizer import CharTokenizer

    save = CharTokenizer.save
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    if cached:  # what it has learned
        assert train(tmp_path / "other", "--steps", 1).code == 0

    def broken(self: CharTokenizer, folder: Path) -> None:
        if ".tmp" in str(folder):
            raise fault
        save(self, folder)

    monkeypatch.setattr(CharTokenizer, "save", broken)
    result = train(tmp_path / "r", "--steps", 3)
    assert result.code != 0 and "no such thing" in result.err
    assert not [*tmp_path.glob("r/**/*.tmp")]


@pytest.mark.parametrize("facts", [{"status": "pruned"}, {"status": "interrupted"}, {"cleaned": True}, {}])
def test_a_run_with_only_its_best_weights_left_is_not_started_again(
    train: Callable[..., Any], tmp_path: Path, facts: Mapping[str, Any]
) -> None:
    """Without those facts, it was killed before its first checkpoint."""
    run = tmp_path / "r"
    assert train(run, "--steps", 2, "--eval-every", 1).code == 0
    shutil.rmtree(run / "checkpoints")
    (run / "run.json").write_text(json.dumps(facts))
    result = train(run, "--steps", 3)
    if facts:
        assert result.code == 2 and f"start a new run from its weights: --init {run}" in result.err
    else:
        assert result.code == 0


def test_without_another_thread_a_save_is_made_in_the_foreground(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "pealm-checkpoint":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert train(tmp_path / "r", "--steps", 4, "--save-every", 2).code == 0
    assert saved(tmp_path / "r") == [2, 4]


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "best/x", "checkpoints/step-00000001/x"])
def test_a_folder_with_files_named_as_ours_is_refused(train: Callable[..., Any], tmp_path: Path, name: str) -> None:
    path = tmp_path / "r" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    result = train(tmp_path / "r", "--steps", 2)
    assert result.code == 2 and "choose another --out" in result.err and path.read_text() == "mine"


def test_a_checkpoint_is_not_a_run(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train(tmp_path / "r", "--steps", 2).code == 0
    result = train(tmp_path / "r" / "best", "--steps", 3)
    assert result.code == 2 and "is a checkpoint, not a run; --init" in result.err
