"""Windows, their order, and the token cache."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pealm_core.contract.errors import UserError
from pealm_core.contract.training_protocols import IGNORE
from pealm_core.data import documents, tokenize_parts
from pealm_core.data.order import permute
from pealm_core.data.token_cache import fingerprint, tokenize
from pealm_core.data.token_stream import Shard, Split
from pealm_core.data.windows import FixedWindows, Windows


@pytest.mark.parametrize("n", [1, 2, 3, 10, 64, 65, 1000, 4097])
@pytest.mark.parametrize("key", [0, 1, 12345])
def test_permute_is_a_permutation(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_permute_depends_on_the_key_and_mixes() -> None:
    a, b = permute(np.arange(1000), 1000, 1), permute(np.arange(1000), 1000, 2)
    assert (a == b).mean() < 0.02
    assert abs(np.corrcoef(np.arange(1000), a.astype(float))[0, 1]) < 0.1


def test_permute_needs_no_memory_for_a_huge_range() -> None:
    out = permute(np.array([0, 1, 10**12]), 10**12 + 1, 5)
    assert len(set(out.tolist())) == 3 and (out <= 10**12).all()


def stream(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.uint16)


def cut(length: int, *sizes: int) -> list[np.ndarray]:
    """A stream of distinct tokens in shards of these sizes, over and over."""
    tokens, shards = stream(length), []
    while len(tokens):
        for size in sizes:
            shards.append(tokens[:size])
            tokens = tokens[size:]
    return shards


def windows(length: int, block: int, seed: int = 0) -> Windows:
    return Windows(Split([stream(length)]), block, seed=seed)


def step(data: Windows, number: int, size: int) -> torch.Tensor:
    """The inputs of a step: samples number * size and those after it."""
    return data.rows(range(number * size, (number + 1) * size))["idx"]


@pytest.mark.parametrize(("length", "sizes"), [(160, (160,)), (160, (103, 57)), (250, (25,)), (250, (3, 40, 0, 7))])
@pytest.mark.parametrize("block", [8, 10])
def test_an_epoch_is_the_whole_stream_but_less_than_two_blocks(
    length: int, sizes: tuple[int, ...], block: int
) -> None:
    data = Windows(Split(cut(length, *sizes)), block, seed=3)
    assert len(data) == length // block - 1  # 30 of 10 shards of 25 tokens
    firsts = set()
    for epoch in range(4):
        batch = data.rows(range(epoch * len(data), (epoch + 1) * len(data)))
        rows = batch["idx"]
        assert torch.equal(batch["targets"], rows + 1)
        first = int(rows.min())
        assert first < block and sorted(rows.flatten().tolist()) == [*range(first, first + len(data) * block)]
        firsts.add(first)
    assert len(firsts) > 1  # the phase differs from epoch to epoch


def test_the_windows_of_one_long_shard_stay_as_they_are() -> None:
    rows = torch.cat([step(windows(1000, 8, seed=1337), number, 5)[:, 0] for number in (0, 24, 25)])
    assert rows.tolist() == [716, 116, 108, 468, 4, 636, 652, 436, 500, 952, 680, 736, 56, 0, 264]


def test_windows_of_one_epoch_do_not_overlap() -> None:
    data = windows(1000, 16, seed=9)
    flat = step(data, 0, len(data)).flatten().tolist()
    assert len(set(flat)) == len(flat)


def test_rows_are_a_pure_function_of_seed_and_sample() -> None:
    one, two = windows(5000, 8, seed=1), windows(5000, 8, seed=1)
    for number in (0, 7, 400):
        assert torch.equal(step(one, number, 12), step(two, number, 12))
    assert torch.equal(one.rows([77, 3])["idx"], torch.cat([one.rows([77])["idx"], two.rows([3])["idx"]]))
    assert not torch.equal(step(one, 0, 12), step(windows(5000, 8, seed=2), 0, 12))


def test_a_step_may_span_epochs() -> None:
    data = windows(50, 10)
    assert step(data, 0, 3 * len(data)).shape == (3 * len(data), 10)


@pytest.mark.parametrize("length", [11, 12, 19, 20, 21])
def test_the_shortest_texts(length: int) -> None:
    batch = windows(length, 10).rows(range(4))
    assert (batch["targets"] - batch["idx"] == 1).all() and int(batch["targets"].max()) < length


@pytest.mark.parametrize("source", [Windows, FixedWindows])
def test_too_short_a_text_says_how_short(source: type) -> None:
    with pytest.raises(ValueError, match="10 tokens are too few for a block of 10, which needs 11"):
        source(Split([stream(10)]), 10)


def test_fixed_windows_are_every_window_of_each_shard_in_order() -> None:
    lengths = (25, 8, 9, 0, 100, 11, 300)
    data = FixedWindows(Split([stream(length) for length in lengths]), 8)
    starts = [start for length in lengths for start in range(0, length - 8, 8)]
    batch = data.rows(range(len(data)))
    assert batch["idx"][:, 0].tolist() == starts and torch.equal(batch["targets"], batch["idx"] + 1)
    assert torch.equal(data.rows([7, 2])["idx"], batch["idx"][[7, 2]])
    assert data.tokens == Windows(data.split, 8).tokens == sum(lengths)
    assert FixedWindows(Split([stream(length) for length in (3, 0, 1, 2)]), 1).rows(range(3))["idx"].tolist() == [
        [0],
        [1],
        [0],
    ]


def test_a_batch_of_one_row_has_tensors_of_its_own() -> None:
    """A row's inputs and targets overlap in the stream; a mask must change the targets only."""
    tokens = np.arange(5)
    one = Split([tokens], [np.array([0, 0, 1, 0, 1])]).rows([[(0, 5)]], 4)
    assert one["idx"].tolist() == [[0, 1, 2, 3]]
    assert one["targets"].tolist() == [[IGNORE, 2, IGNORE, 4]]
    assert tokens.tolist() == [0, 1, 2, 3, 4]


def test_targets_that_are_not_learned_are_ignored() -> None:
    split = Split(cut(500, 103, 57), [(shard % 5 != 0).astype(np.uint8) for shard in cut(500, 103, 57)])
    for data in (Windows(split, 8, seed=4), FixedWindows(split, 8)):
        batch = data.rows(range(len(data)))
        following = batch["idx"] + 1
        assert torch.equal(batch["targets"], torch.where(following % 5 == 0, IGNORE, following))


class Letters:
    """A tokenizer that counts how often it works."""

    vocab_size = 256
    calls = 0

    def __init__(self, eot: int | None = None) -> None:
        self.eot_id = eot

    def encode(self, text: str) -> list[int]:
        self.calls += 1
        return [ord(c) for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


class Docs:
    def __init__(self, *train: str, val: tuple[str, ...] = ("xyz",)) -> None:
        self.splits = {"train": train, "val": val}

    def documents(self, split: str) -> Iterator[str]:
        yield from self.splits[split]


def test_text_is_tokenized_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    tokenizer = Letters()
    first = tokenize(Docs("ab", "cd"), tokenizer, "mark")
    assert (first.cached, tokenizer.calls) == (False, 3)  # a call for each document
    assert [s[:].tolist() for s in first.train.shards] == [[97, 98, 99, 100]]
    again = tokenize(Docs("ab", "cd"), tokenizer, "mark")
    assert (again.cached, tokenizer.calls, again.key) == (True, 3, first.key)
    assert not tokenize(Docs("ab", "ce"), tokenizer, "mark").cached  # other text
    assert not tokenize(Docs("abc", "d"), tokenizer, "mark").cached  # other documents
    assert not tokenize(Docs("ab", "cd"), tokenizer, "other").cached  # other tokenizer


def test_end_of_text_stands_before_every_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    corpus = tokenize(Docs("ab", "c"), Letters(eot=0), "eot")
    assert corpus.train.shards[0][:].tolist() == [0, 97, 98, 0, 99]


def test_a_text_is_tokenized_in_pieces_only_by_character(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class ByCharacter(Letters):
        by_character = True

        def encode(self, text: str) -> list[int]:
            if "!" in text:
                raise ValueError("no !")
            return super().encode(text)

    text = "abcdefg" * 10
    for module in (documents, tokenize_parts):
        monkeypatch.setattr(module, "PIECE", 8)
    for tokenizer, calls in ((Letters(eot=0), 3 + 1), (ByCharacter(eot=0), 19 + 1)):
        monkeypatch.setenv("PEALM_CACHE", str(tmp_path / type(tokenizer).__name__))
        corpus = tokenize(Docs(text, "", text[:65]), tokenizer, "mark")
        assert corpus.train.shards[0][:].tolist() == [0, *text.encode(), 0, 0, *text[:65].encode()]
        assert tokenizer.calls == calls  # train, val
    with pytest.raises(UserError, match="can't be tokenized after character 64: no !"):
        tokenize(Docs(text + "!"), ByCharacter(), "mark")


def test_a_killed_tokenization_leaves_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))

    class Dies(Letters):
        def encode(self, text: str) -> list[int]:
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().encode(text)

    with pytest.raises(KeyboardInterrupt):
        tokenize(Docs("ab"), Dies(), "mark")
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [".pealm"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", "\xff", None])
def test_a_damaged_meta_json_is_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str | None
) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    tokenize(Docs("ab"), Letters(), "mark")
    (meta,) = tmp_path.glob("tokens/*/meta.json")
    meta.unlink() if damage is None else meta.write_bytes(damage.encode("latin-1"))
    lines: list[str] = []
    again = tokenize(Docs("ab"), Letters(), "mark", say=lines.append)
    assert not again.cached and again.train.shards[0][:].tolist() == [97, 98]
    assert lines == [f"{meta.parent} in the token cache is damaged; it is written again", "tokenizing 5 characters"]
    assert tokenize(Docs("ab"), Letters(), "mark").cached


@pytest.mark.parametrize("content", [b"", b"a\0", b"a\0c\0", b"a\0b\0c\0", None])
def test_damaged_tokens_are_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    used = tokenize(Docs("ab"), Letters(), "mark")
    (file,) = tmp_path.glob("tokens/*/train.bin")
    file.rename(file.with_name("old"))
    if content is not None:
        file.write_bytes(content)
    again = tokenize(Docs("ab"), Letters(), "mark")
    assert not again.cached and again.train.shards[0][:].tolist() == used.train.shards[0][:].tolist() == [97, 98]
    assert tokenize(Docs("ab"), Letters(), "mark").cached


def test_the_token_cache_is_on_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    fsync, synced = os.fsync, set()

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        named = any(not path.parent.name.startswith(".") for path in tmp_path.glob("tokens/*/meta.json"))
        synced.add((os.fstat(descriptor).st_ino, named))

    monkeypatch.setattr(os, "fsync", watched)
    tokenize(Docs("ab"), Letters(), "mark")
    (folder,) = (path for path in (tmp_path / "tokens").iterdir() if path.is_dir())
    assert synced == {
        (path.stat().st_ino, path == folder.parent) for path in (*folder.iterdir(), folder, folder.parent)
    }


def test_the_token_cache_has_the_mode_of_the_umask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    old = os.umask(0o002)
    try:
        tokenize(Docs("ab"), Letters(), "mark")
    finally:
        os.umask(old)
    (meta,) = tmp_path.glob("tokens/*/meta.json")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (meta.parent, meta)] == [0o775, 0o664]


def test_another_process_may_write_the_same_text_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))

    class Slow(Letters):
        def encode(self, text: str) -> list[int]:
            if self.calls == 0:
                shards.extend(tokenize(Docs("ab"), Letters(), "mark").train.shards)
            return super().encode(text)

    shards: list[Shard] = []
    assert tokenize(Docs("ab"), Slow(), "mark").train.shards[0][:].tolist() == shards[0][:].tolist() == [97, 98]
    assert [path.name for path in (tmp_path / "tokens").glob("*.tmp")] == []


def test_a_cache_that_cannot_be_written_is_a_user_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set PEALM_CACHE"):
        tokenize(Docs("ab"), Letters(), "mark")


def test_the_fingerprint_is_of_what_is_saved() -> None:
    class Saves(Letters):
        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

        def save(self, folder: Path) -> None:
            (folder / "words").write_text(self.words)

    assert fingerprint("a", {}, Saves("x")) == fingerprint("a", {}, Saves("x"))
    assert fingerprint("a", {}, Saves("x")) != fingerprint("a", {}, Saves("y"))
    assert fingerprint("a", {"k": 1}, Saves("x")) != fingerprint("a", {}, Saves("x"))
