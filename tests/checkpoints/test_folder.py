"""Checkpoints are whole or do not count."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_optimizer, read_tensors, write_tensors
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
    checkpoint.load_model(other, folder)
    assert torch.equal(model.weight, other.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]  # no debris


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    folder = save(tmp_path / "c", model)
    assert (folder / "model.safetensors").stat().st_size < 2 * 15 * 4 + 200
    checkpoint.load_model(other, folder)
    assert torch.equal(other.head.weight, model.embedding.weight)


def test_optimizer_state_round_trips(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    folder = save(tmp_path / "c", model, optimizer=optimizer.state_dict())
    back = read_optimizer(folder / "optimizer.safetensors")
    fresh = torch.optim.AdamW(model.parameters(), lr=0.5)
    fresh.load_state_dict(back)
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(fresh.state_dict()["state"][0][key], value)
    assert fresh.param_groups[0]["lr"] == 0.1


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
    with pytest.raises(InvalidCheckpointError, match="missing"):
        checkpoint.verify(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 1}', '{"files": 3}'])
def test_a_damaged_state_is_found(tmp_path: Path, content: str) -> None:
    folder = save(tmp_path / "c")
    (folder / "state.json").write_text(content)
    with pytest.raises(InvalidCheckpointError, match=r"state\.json"):
        checkpoint.verify(folder)


def test_replacing_keeps_one_valid_folder_at_every_instant(tmp_path: Path) -> None:
    best = save(tmp_path / "best", state={"step": 1})
    save(tmp_path / "best", state={"step": 2}, replace=True)
    assert checkpoint.verify(best) == {"step": 2}
    best.rename(tmp_path / "best.old")  # as a kill between the two renames leaves it
    assert checkpoint.find(tmp_path) == tmp_path / "best.old"


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
    with pytest.raises(UserError, match="is no checkpoint"):
        checkpoint.find(tmp_path / "empty")


def test_what_does_not_fit_is_named_with_both_shapes(tmp_path: Path) -> None:
    folder = save(tmp_path / "c", nn.Linear(2, 3))
    with pytest.raises(UserError, match=r"weight is \(3, 2\) there and \(3, 4\) in the model"):
        checkpoint.load_model(nn.Linear(4, 3), folder)
    with pytest.raises(UserError, match=r"0\.weight is missing; 0\.bias is missing; .*is not the model's"):
        checkpoint.load_model(nn.Sequential(nn.Linear(2, 3)), folder)


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

    monkeypatch.setattr(checkpoint, "_digest", refuse)
    with pytest.raises(InvalidCheckpointError, match="can't be read: Input/output error"):
        checkpoint.verify(folder)


def test_no_safetensors_is_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"garbage")
    with pytest.raises(InvalidCheckpointError, match="can't be read"):
        read_tensors(tmp_path / "x")
    write_tensors(tmp_path / "y", {"a": torch.ones(2)}, {"note": [1]})
    tensors, extra = read_tensors(tmp_path / "y")
    assert tensors["a"].tolist() == [1, 1] and extra == {"note": [1]}
