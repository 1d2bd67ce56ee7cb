"""Packing whole documents into rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pealm_core.contract.errors import UserError
from pealm_core.contract.training_protocols import IGNORE
from pealm_core.data import packing
from pealm_core.data.packing import Packed, pack, write_index
from pealm_core.data.token_stream import Split


def split(*lengths: int, shards: int = 1, learned: list[int] | None = None) -> Split:
    """Documents of these lengths, over and over in each shard; a token is its place in the stream plus 1."""
    size = sum(lengths)
    offsets = np.cumsum([0, *lengths[:-1]]).astype(np.uint64)
    tokens = np.arange(1, shards * size + 1, dtype=np.uint32)
    masks = [] if learned is None else [np.isin(np.arange(size), learned).astype(np.uint8)] * shards
    return Split(np.split(tokens, shards), masks, [offsets] * shards)


def packed(data: Split, block: int, folder: Path, seed: int | None = None) -> Packed:
    folder.mkdir(exist_ok=True)
    write_index(data, block, folder)
    return Packed(data, block, folder, seed=seed)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_every_piece_is_in_one_row_that_has_room_for_it(lengths: list[int]) -> None:
    pieces = [(1000 * i, length) for i, length in enumerate(lengths)]
    rows = pack(pieces, 20)
    assert sorted(piece for row in rows for piece in row) == pieces
    sizes = [sum(length for _, length in row) for row in rows]
    assert all(size <= 20 for size in sizes)
    assert sum(2 * size <= 20 for size in sizes) <= 1  # two rows that are half empty would have been one
    assert rows == pack(pieces, 20)


def targets_of(source: Packed) -> list[int]:
    targets = source.rows(range(len(source)))["targets"]
    return sorted(targets[targets != IGNORE].tolist())


def test_every_token_is_a_target_unless_a_row_begins_with_its_document(tmp_path: Path) -> None:
    source = packed(split(5, 30, 2, 2, 9, shards=3), 8, tmp_path / "i")
    batch = source.rows(range(len(source)))
    missing = set(range(1, 3 * 48 + 1)) - set(targets_of(source))
    firsts = {base + offset for base in (0, 48, 96) for offset in (1, 6, 36, 38, 40)}  # of the documents
    assert missing <= firsts & set(batch["idx"][:, 0].tolist())
    padded = batch["targets"] == IGNORE
    assert padded.any() and (batch["idx"][:, 1:][padded[:, :-1]] == 0).all()


def test_the_documents_that_are_cut_are_counted(tmp_path: Path) -> None:
    assert write_index(split(5, 10, 2, 9, 30, 8, shards=3), 8, tmp_path) == 6  # 10 and 30 tokens; 9 fit


def test_offsets_may_repeat_and_leave_out_the_start_of_a_shard(tmp_path: Path) -> None:
    data = split(3, 4, 2)
    for number, offsets in enumerate(([0, 3, 7], [3, 7], [3, 3, 7, 9])):
        given = Split(data.shards, (), [np.array(offsets, np.uint64)])
        assert packed(given, 8, tmp_path / str(number)).rows([0])["idx"].tolist() == [[4, 5, 6, 7, 1, 2, 3, 8]]


def test_documents_are_whole_and_in_a_row_after_each_other(tmp_path: Path) -> None:
    batch = packed(split(3, 4, 2), 8, tmp_path / "i").rows([0])
    assert batch["idx"].tolist() == [[4, 5, 6, 7, 1, 2, 3, 8]]
    assert batch["targets"].tolist() == [[5, 6, 7, 1, 2, 3, 8, 9]]


def test_rows_without_a_learned_target_are_dropped(tmp_path: Path) -> None:
    data = split(9, 9, 9, learned=[4, 9])  # the second document's only learned token is its first: never a target
    batch = packed(data, 8, tmp_path / "i").rows([0])
    assert len(packed(data, 8, tmp_path / "i")) == 1
    assert batch["targets"].tolist() == [[IGNORE] * 3 + [5] + [IGNORE] * 4]
    second = packed(split(9, 9, learned=[1]), 8, tmp_path / "k").rows([0])["targets"]  # it is the first target
    assert second.tolist() == [[2] + [IGNORE] * 7]
    with pytest.raises(ValueError, match="no document has a token that is learned"):
        packed(split(9, 9, learned=[]), 8, tmp_path / "j")


def test_an_epoch_is_every_row_once_in_an_order_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "AT_ONCE", 7)
    data = split(*[3 + i % 5 for i in range(100)])
    train, val = packed(data, 8, tmp_path / "i", seed=5), packed(data, 8, tmp_path / "i")
    assert len(train) == len(val) and targets_of(val) == targets_of(train) and train.tokens == len(data) > 300
    epochs = [train.rows(range(e * len(train), (e + 1) * len(train)))["idx"] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == sorted(val.rows(range(len(val)))["idx"].tolist())
    assert not torch.equal(epochs[0], epochs[1])
    parts = [train.rows(range(5 + rank, 17, 4))["idx"] for rank in range(4)]  # four processes
    assert sorted(torch.cat(parts).tolist()) == sorted(train.rows(range(5, 17))["idx"].tolist())


def test_rows_are_filled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = packed(split(*rng.integers(2, 120, 3000).tolist()), 128, tmp_path / "i")
    targets = source.rows(range(len(source)))["targets"]
    assert (targets == IGNORE).float().mean() < 0.02


def test_offsets_out_of_order_are_refused(tmp_path: Path) -> None:
    data = split(5, 5, 5)
    wrong = Split(data.shards, (), [np.array([0, 10, 5], np.uint64)])
    with pytest.raises(UserError, match="not in order: 10 comes before 5"):
        packed(wrong, 8, tmp_path / "i")


def test_the_order_stays_what_it_was(tmp_path: Path) -> None:
    first = packed(split(*[9] * 40), 8, tmp_path / "i", seed=5).rows([0, 1, 2, 3, 4, 5, 40, 41])["idx"][:, 0]
    assert ((first - 1) // 9).tolist() == [31, 10, 28, 26, 13, 24, 11, 0]
