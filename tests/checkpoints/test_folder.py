"""Checkpoints are whole or do not count."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import (
    flatten,
    load_model,
    load_tensors,
    read_tensors,
    read_tree,
    write_tensors,
    write_tree,
)
from pealm_core.contract.errors import InvalidCheckpointError, PealmError, UserError


class Vocabulary:
    vocab_size = 2

    def encode(self, text: str) -> list[int]:
        return [0]

    def decode(self, ids: object) -> str:
        return ""

    def save(self, folder: Path) -> None:
        (folder / "words.txt").write_text("a b")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def save(folder: Path, model: nn.Module | None = None, **changes: object) -> Path:
    parts = {"config": {"model": {"name": "x"}}, "tokenizer": Vocabulary(), "state": {"step": 3}, **changes}
    checkpoint.save(folder, model=(model or nn.Linear(2, 2)).state_dict(), **parts)  # type: ignore[arg-type]
    return folder


def test_a_checkpoint_round_trips(tmp_path: Path) -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    folder = save(tmp_path / "c", model)
    assert checkpoint.verify(folder) == {"step": 3}
    assert (folder / "tokenizer" / "words.txt").read_text() == "a b"
    load_model(other, folder / checkpoint.MODEL)
    assert torch.equal(model.weight, other.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]  # no debris


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    folder = save(tmp_path / "c", model)
    assert (folder / "model.safetensors").stat().st_size < 2 * 15 * 4 + 200
    load_model(other, folder / checkpoint.MODEL)
    assert torch.equal(other.head.weight, model.embedding.weight)


def test_optimizer_state_round_trips(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    folder = save(tmp_path / "c", model, optimizer=optimizer.state_dict())
    back = read_tree(folder / "optimizer.safetensors")
    fresh = torch.optim.AdamW(model.parameters(), lr=0.5)
    fresh.load_state_dict(back)
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(fresh.state_dict()["state"][0][key], value)
    assert fresh.param_groups[0]["lr"] == 0.1


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


def test_state_of_any_structure_comes_back_exactly(tmp_path: Path) -> None:
    """Shampoo keeps lists of matrices for each parameter, others nested dicts; schedule-free has a flag in its groups."""
    tied = torch.arange(3.0)
    tree = {
        "state": {0: {"factors": [torch.eye(2), torch.eye(3)], "empty": [], "step": torch.tensor(3)}, 7: {}},
        "param_groups": [{"params": [0, 7], "betas": (0.9, 0.99), "train_mode": True, "lr": 1e-3, "none": None}],
        "a.b": tied,
        "a": {"b": tied, "c": torch.ones(2, dtype=torch.bfloat16), "bad": float("nan"), "far": -float("inf")},
        0: "whole",
        "0": "text",
        "__metadata__": torch.zeros(0),
    }
    folder = save(tmp_path / "c", optimizer=tree, extra={"ema": tree, "count": 3})
    assert same(read_tree(folder / "optimizer.safetensors"), tree)
    back = read_tree(folder / checkpoint.EXTRA)
    assert same(back, {"ema": tree, "count": 3})
    assert back["ema"]["a.b"].data_ptr() == back["ema"]["a"]["b"].data_ptr()
    assert (save(tmp_path / "d", extra={"ema": tree}) / "extra.safetensors").read_bytes() == (
        save(tmp_path / "e", extra={"ema": back["ema"]}) / "extra.safetensors"
    ).read_bytes()
    assert not (save(tmp_path / "without") / checkpoint.EXTRA).exists()


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        ({1, 2}, "builtins.set"),
        (torch.Generator(), "torch._C.Generator"),
        (torch.eye(2).to_sparse(), "tensor of torch.float32, torch.sparse_coo"),
        (torch.zeros(1, dtype=torch.complex128), "tensor of torch.complex128"),
        ({torch.ones(1): 2}, "builtins.dict"),
    ],
)
def test_state_that_can_not_be_saved_is_refused_by_place(tmp_path: Path, leaf: Any, kind: str) -> None:
    tree = {"state": {0: {"factors": [torch.eye(2), leaf]}}}
    message = rf"optimizer\.state\.0\.factors\.1 can't be saved: it is a {kind}"
    with pytest.raises(PealmError, match=message):
        flatten(tree, "optimizer")
    with pytest.raises(PealmError, match=message):
        save(tmp_path / "c", optimizer=tree)
    assert [*tmp_path.iterdir()] == []
    around: list[Any] = []
    around.append(around)
    with pytest.raises(PealmError, match="contains itself"):
        flatten(around, "x")


def test_a_tree_that_was_not_written_here_is_refused(tmp_path: Path) -> None:
    for tree in (["set", []], ["tensor", "none"], ["dict", 3]):
        write_tensors(tmp_path / "o", {}, {"tree": tree})
        with pytest.raises(InvalidCheckpointError, match="o can't be read"):
            read_tree(tmp_path / "o")


@pytest.mark.parametrize("name", ["model.safetensors", "config.toml", "tokenizer/words.txt"])
def test_any_flipped_bit_and_any_missing_end_is_found(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "c")
    path = folder / name
    data = path.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], bytes([data[0] ^ 1]) + data[1:], data + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(InvalidCheckpointError, match=path.name):
            checkpoint.verify(folder)
    path.unlink()
    with pytest.raises(InvalidCheckpointError, match="No such file"):
        checkpoint.verify(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"step": 1}',
        '{"files": 3}',
        '{"files": {"x": [1e400, ""]}}',
        '{"files": {"../x": [1, ""]}}',
        '{"files": {"/etc/passwd": [1, ""]}}',
        r'{"files": {"\u0000": [1, ""]}}',
        r'{"files": {"\ud800": [1, ""]}}',
    ],
)
def test_a_damaged_state_is_found(tmp_path: Path, content: str) -> None:
    folder = save(tmp_path / "c")
    (folder / "state.json").write_text(content)
    with pytest.raises(InvalidCheckpointError, match=r"state\.json"):
        checkpoint.verify(folder)


def test_replacing_keeps_one_valid_folder_at_every_instant(tmp_path: Path) -> None:
    best = save(tmp_path / "best", state={"step": 1})
    save(tmp_path / "best", state={"step": 2}, replace=True)
    assert checkpoint.verify(best) == {"step": 2}
    best.rename(tmp_path / ".best.0a.old")  # as a kill between the two renames leaves it
    assert checkpoint.find(tmp_path) == tmp_path / ".best.0a.old"
    checkpoint.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"] and checkpoint.verify(best) == {"step": 2}


def test_find_takes_a_run_a_folder_or_a_file(tmp_path: Path) -> None:
    old = save(tmp_path / "checkpoints" / "step-00000005")
    new = save(tmp_path / "checkpoints" / "step-00000010")
    assert checkpoint.find(tmp_path) == new
    assert checkpoint.find(old) == old
    assert checkpoint.find(old / "model.safetensors") == old
    best = save(tmp_path / "best")
    assert checkpoint.find(tmp_path) == best
    with pytest.raises(UserError, match="no such file"):
        checkpoint.find(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoint.find(tmp_path / "empty")


def test_what_does_not_fit_is_named_with_both_shapes(tmp_path: Path) -> None:
    folder = save(tmp_path / "c", nn.Linear(2, 3))
    with pytest.raises(UserError, match=r"weight is \(3, 2\) there and \(3, 4\) in the model"):
        load_model(nn.Linear(4, 3), folder / checkpoint.MODEL)
    with pytest.raises(UserError, match=r"0\.weight is missing; 0\.bias is missing; .*is not in the model"):
        load_model(nn.Sequential(nn.Linear(2, 3)), folder / checkpoint.MODEL)


def test_a_disk_that_refuses_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = save(tmp_path / "best", state={"step": 1})

    class Full(Vocabulary):
        def save(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(PealmError, match="No space left"):
        save(tmp_path / "best", state={"step": 2}, tokenizer=Full(), replace=True)
    assert checkpoint.verify(best) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_what_is_not_to_be_replaced_stays_and_so_does_what_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "c.old").mkdir()
    (tmp_path / "c.old" / "mine").write_text("x")
    save(tmp_path / "c", state={"step": 1})
    with pytest.raises(PealmError, match="could not be written"):
        save(tmp_path / "c", state={"step": 2})
    assert checkpoint.verify(tmp_path / "c") == {"step": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "c.old"]
    assert (tmp_path / "c.old" / "mine").exists()


def test_a_file_that_the_disk_does_not_give_is_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "c")

    def refuse(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "digest", refuse)
    with pytest.raises(InvalidCheckpointError, match="can't be read: Input/output error"):
        checkpoint.verify(folder)


def test_only_the_named_files_are_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "c", optimizer=torch.optim.SGD(nn.Linear(2, 2).parameters()).state_dict())
    (folder / "optimizer.safetensors").write_bytes(b"")
    names = (checkpoint.MODEL, checkpoint.CONFIG, checkpoint.TOKENIZER)
    assert checkpoint.verify(folder, *names) == {"step": 3}
    (folder / "tokenizer" / "words.txt").write_text("a c")
    with pytest.raises(InvalidCheckpointError, match=r"words\.txt is damaged"):
        checkpoint.verify(folder, *names)
    with pytest.raises(InvalidCheckpointError, match=r"extra\.safetensors can't be read"):
        checkpoint.verify(folder, "extra.safetensors")


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """safetensors writes several keys of metadata in an order that differs from call to call."""
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    model.embedding(torch.tensor([1])).sum().backward()
    optimizer.step()
    parts = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(parts, tmp_path / "parts.pt")
    code = (
        "import sys, torch; from pathlib import Path; from pealm_core.checkpoints.tensors import *\n"
        "parts = torch.load(sys.argv[1]); out = Path(sys.argv[2]); out.mkdir()\n"
        "write_tensors(out / 'model', parts['state_dict'], {'b': 1, 'a': 2}); "
        "write_tree(out / 'optimizer', parts['optimizer'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "parts.pt"), str(tmp_path / "other")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    for name in ("one", "two"):  # in this process, whose hashes differ
        (tmp_path / name).mkdir()
        write_tensors(tmp_path / name / "model", parts["state_dict"], {"b": 1, "a": 2})
        write_tree(tmp_path / name / "optimizer", parts["optimizer"])
    one, two, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two == other and len(one) == 2


def test_metadata_of_other_programs_is_ignored(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x", {"license": "mit", "values": "many", "format": "pt"})
    tensors, extra = read_tensors(tmp_path / "x")
    assert tensors["a"].tolist() == [1, 1] and extra == {}
    for notes in ("{", "3", "[1]", '{"aliases": {"b": "c"}}', "[" * 9999):
        save_file({"a": torch.ones(2)}, tmp_path / "x", {"pealm": notes})
        with pytest.raises(InvalidCheckpointError, match="x can't be read"):
            read_tensors(tmp_path / "x")


def test_two_checkpoints_of_one_moment_share_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    best = save(tmp_path / "best", model, replace=True)
    step = save(tmp_path / "checkpoints" / "step-00000003", model, replace=True, same_model=best)
    assert (best / "model.safetensors").samefile(step / "model.safetensors")
    assert checkpoint.verify(step) == {"step": 3}
    save(tmp_path / "best", nn.Linear(2, 2), replace=True)  # replaces the file, and does not change it
    assert checkpoint.verify(step) == {"step": 3}

    def refuse(*args: object, **options: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    again = save(tmp_path / "checkpoints" / "step-00000004", model, same_model=step)
    assert (again / "model.safetensors").read_bytes() == (step / "model.safetensors").read_bytes()


def test_file_systems_without_modes_and_synced_folders_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", files_only)
    monkeypatch.setattr(Path, "chmod", refuse)
    save(tmp_path / "c", replace=True)
    assert checkpoint.verify(save(tmp_path / "c", replace=True)) == {"step": 3}


def test_a_damaged_checkpoint_is_put_aside_and_kept(tmp_path: Path) -> None:
    for step in (3, 6):
        save(tmp_path / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "checkpoints" / "step-00000006" / "config.toml").unlink()
    newest, wrong = checkpoint.newest(tmp_path)
    assert newest == tmp_path / "checkpoints" / "step-00000003" and "config.toml can't be read" in wrong[0]
    checkpoint.set_aside(tmp_path, newest)
    checkpoint.tidy(tmp_path)
    assert checkpoint.steps(tmp_path) == [newest]
    (aside,) = checkpoint.temporary_folders(tmp_path)
    assert aside.name.startswith(".step-00000006.") and (aside / "model.safetensors").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "outside")
    save(tmp_path / "outside" / "step-00000001")
    (tmp_path / "outside" / ".step-00000001.a.tmp").mkdir()
    with pytest.raises(UserError, match="is a symbolic link"):
        checkpoint.tidy(run)
    assert {p.name for p in (tmp_path / "outside").iterdir()} == {"step-00000001", ".step-00000001.a.tmp"}
    (run / "best").symlink_to(tmp_path / "outside")
    save(run / "best", replace=True)
    assert not (run / "best").is_symlink() and len(list((tmp_path / "outside").iterdir())) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.bias[1] = value
    with pytest.raises(UserError, match="bias has values that are NaN or infinite"):
        load_model(nn.Linear(2, 2), save(tmp_path / "c", model) / checkpoint.MODEL)


def test_an_infinite_mask_among_the_buffers_is_fine(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2,), -torch.inf))
    load_model(model, save(tmp_path / "c", model) / checkpoint.MODEL)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_other_kinds_of_numbers_are_refused(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match=rf"bias is {dtype} there and torch\.float32 in the model"):
        load_tensors(model, {**model.state_dict(), "bias": torch.ones(2, dtype=dtype)}, "w.pt")


def test_no_safetensors_is_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"garbage")
    with pytest.raises(InvalidCheckpointError, match="can't be read"):
        read_tensors(tmp_path / "x")
    write_tensors(tmp_path / "y", {"a": torch.ones(2)}, {"note": [1]})
    tensors, extra = read_tensors(tmp_path / "y")
    assert tensors["a"].tolist() == [1, 1] and extra == {"note": [1]}


def test_numbers_in_8_bits_are_refused_by_name(tmp_path: Path) -> None:
    write_tensors(tmp_path / "y", {"a": torch.ones(2).to(torch.float8_e4m3fn)})
    with pytest.raises(InvalidCheckpointError, match=r"a is torch\.float8_e4m3fn"):
        read_tensors(tmp_path / "y")
