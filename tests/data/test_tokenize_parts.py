"""The token cache from independent parts: the same from workers, kept while the files are the same."""

import contextlib
import importlib
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pealm_char.tokenizer import CharTokenizer
from pealm_core import Document, PealmError, PluginError, Segment, TokenWriter, UserError, encode_document
from pealm_core.data import token_cache, tokenize_parts
from pealm_core.data.token_cache import content_of, tokenize
from pealm_data import pool
from pealm_data.pool import map_tasks
from pealm_text import dataset, reading
from pealm_text.config import TextConfig
from pealm_text.dataset import TextDataset

LETTERS = CharTokenizer()
LETTERS.fit(["abcdefghijklmnopqrstuvwxyz \nüABC"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A text that was written some time ago."""
    path = tmp_path / "old.txt"
    path.write_text("the quick brown fox\n" * 500)
    age(path)
    return path


def age(path: Path) -> None:
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now, now - 10**10))


def text(path: Path, **settings: Any) -> TextDataset:
    return TextDataset(TextConfig(str(path), **settings))


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("tokens/*/*") if p.suffix in (".bin", ".offsets", ".mask")}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> int:
    """Two CPUs, and the bytes of source for which both are used."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return 2 * pool.WORTH


def test_workers_do_the_tasks_in_order_and_raise_their_errors(two: int) -> None:
    assert list(map_tasks(math.factorial, [5, 3, 0, 7], two)) == [120, 6, 1, 5040]
    with pytest.raises(ValueError, match="negative"):
        list(map_tasks(math.factorial, [5, -3, 0], two))
    with pytest.raises(PealmError, match="a worker process died"):
        list(map_tasks(os._exit, [3, 3], two))
    assert list(map_tasks(lambda n: n + 1, [1, 2], two)) == [2, 3]  # can't be pickled: in this process


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path: Path, two: int) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
            import os
            from pealm_data.pool import map_tasks
            os.sched_getaffinity = lambda _: {{0, 1}}
            print("started")
            class Own:
                def __call__(self, n): return os.getpid()
            assert os.getpid() not in set(map_tasks(os.stat, ["."] * 3, {two}))
            assert len({{os.getpid(), *map_tasks(Own(), [1, 2, 3], {two})}}) == 1  # of this script: in this process
        """)
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["started"] and not done.stderr


@pytest.mark.parametrize("kind", ["one text", "files", "documents"])
def test_the_tokens_do_not_depend_on_the_workers(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind != "documents":  # in workers the constants are as ever, and a part's text is one piece
        monkeypatch.setattr(reading, "PIECE", 3000)
        monkeypatch.setattr(reading, "NEARBY", 100)
    monkeypatch.setattr(dataset, "RANGE", 10_000)
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range({"one text": 1, "files": 3, "documents": 150}[kind]):
        words = [f"{'abc'[i % 3] * (i % 7)} ü{'xyz'[i % 3]}\n" for i in range(number, number + 3000 // (1 + number))]
        (folder / f"{number:03d}.txt").write_text("\ufeff" * (number == 0) + "".join(words))
    made = {}
    for worth in (2**40, 1):  # bytes that are worth a worker
        monkeypatch.setattr(pool, "WORTH", worth)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setenv("PEALM_CACHE", str(cache / str(worth)))
        corpus = tokenize(text(folder), LETTERS, "mark")
        made[worth] = content(cache / str(worth)), corpus.key, corpus.characters_per_token
        for split in ("train", "val"):
            ids = getattr(corpus, split).shards[0][:].tolist()
            whole = "".join(
                document if isinstance(document, str) else "".join(part.text for part in document)
                for document in text(folder).documents(split)
            )
            assert LETTERS.decode(ids) == whole and len(whole) > 100
    assert made[1] == made[2**40] and len(made[1][0]) == 4
    assert len(text(folder).parts("train")) > 2


@dataclass(frozen=True)
class Part:
    texts: tuple[Any, ...]
    continues: bool = False
    size: int = 1

    def documents(self) -> Iterator[Any]:
        return iter(self.texts)


class Talk:
    """Documents with segments that are not learned, in parts."""

    def parts(self, split: str) -> list[Part]:
        said = (Segment("hi", learn=False), Segment("yo"))
        later = [Part((said,)), Part(("f",))] if split == "train" else []
        return [Part(("ab", "cd")), Part(("e", "fg"), continues=True), *later]

    def documents(self, split: str) -> Iterator[Any]:
        yield from ("ab", "cde", "fg")
        if split == "train":
            yield from ((Segment("hi", learn=False), Segment("yo")), "f")


class Same:
    documents = Talk.documents


class Eot(CharTokenizer):
    eot_id = 0


def test_parts_that_continue_and_masks_are_put_together(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Eot()
    tokenizer.fit(["\nabcdefghijklmnopqrstuvwxyz"])
    splits = {}
    for data in (Talk(), Same()):
        corpus = tokenize(data, tokenizer, type(data).__name__)
        splits[type(data)] = [
            [[array[:].tolist() for array in getattr(split, kind)] for kind in ("shards", "masks", "offsets")]
            for split in (corpus.train, corpus.val)
        ]
    assert splits[Talk] == splits[Same]
    ((tokens,), (mask,), (offsets,)), val = splits[Talk]
    assert tokenizer.decode(tokens).split("\n")[1:] == ["ab", "cde", "fg", "hiyo", "f"] and val[1] == []
    assert offsets == [place for place, token in enumerate(tokens) if token == 0]
    assert [place for place, learned in enumerate(mask) if not learned] == [10, 11, 12]


def test_a_later_start_does_not_read_the_text(cache: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenize(text(old), LETTERS, "mark")
    monkeypatch.setattr(TextDataset, "_survey", property(lambda self: pytest.fail("the text was read")))
    again = tokenize(text(old), LETTERS, "mark")
    assert (first.cached, again.cached) == (False, True)
    assert (again.key, again.characters_per_token) == (first.key, first.characters_per_token)
    with pytest.raises(pytest.fail.Exception):
        content_of(text(old, val_fraction=0.2))
    monkeypatch.setattr(token_cache, "_code", lambda component: "another version of the code")
    with pytest.raises(pytest.fail.Exception):
        content_of(text(old))


def test_a_changed_text_is_noticed_by_its_times(cache: Path, old: Path) -> None:
    first, facts = tokenize(text(old), LETTERS, "mark"), old.stat()
    old.write_text(old.read_text().replace("quick", "brown", 1))
    os.utime(old, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as `cp -p` or `touch -r` set it
    second = tokenize(text(old), LETTERS, "mark")
    assert old.stat().st_size == facts.st_size and second.key != first.key and not second.cached
    moved = old.rename(old.with_name("moved.txt"))
    assert (lambda third: (third.cached, third.key))(tokenize(text(moved), LETTERS, "mark")) == (True, second.key)


def test_a_file_that_was_written_just_now_is_read_every_time(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_text("abc\n" * 100)
    os.utime(path)
    assert text(path).version() is None
    first = tokenize(text(path), LETTERS, "mark")
    assert tokenize(text(path), LETTERS, "mark").key == first.key and not [*cache.glob("tokens/*/content.json")]


def test_a_file_that_changes_while_it_is_tokenized_is_a_user_error(
    cache: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changes(CharTokenizer):
        by_character = False

        def encode(self, text: str) -> Any:
            if len(text) > 5000:
                old.write_text("abc")
            return super().encode(text)

    tokenizer = Changes()
    tokenizer.fit(["abcdefghijklmnopqrstuvwxyz \n"])
    with pytest.raises(UserError, match="was changed while it was read; start again"):
        tokenize(text(old), tokenizer, "mark")
    assert not [*cache.glob("tokens/*/train.bin")]


def test_cached_tokens_are_hashed_again_only_where_a_time_differs(
    cache: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    digest = token_cache.digest
    monkeypatch.setattr(token_cache, "digest", lambda path: hashed.append(path.name) or digest(path))  # type: ignore[func-returns-value]
    tokenize(text(old), LETTERS, "mark")
    hashed.clear()
    assert tokenize(text(old), LETTERS, "mark").cached and not hashed
    shutil.copytree(cache, copy := cache.with_name("copy"))
    monkeypatch.setenv("PEALM_CACHE", str(copy))
    assert tokenize(text(old), LETTERS, "mark").cached and "train.bin" in hashed
    hashed.clear()
    assert tokenize(text(old), LETTERS, "mark").cached and not hashed
    (file,) = copy.glob("tokens/*/train.bin")
    facts = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"\1")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    lines: list[str] = []
    assert not tokenize(text(old), LETTERS, "mark", say=lines.append).cached and "is damaged" in lines[0]


ENCODING = """
class Encoding:
    vocab_size = 300

    def encode(self, text):
        return [len(word) if {changed} and "z" in word else 299 for word in text.split()]
"""


def test_a_tokenizer_whose_code_changed_tokenizes_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the first document has the same tokens; not if the file was only written again."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "changing_encoding.py"

    class Words:
        def documents(self, split: str) -> Iterator[str]:
            yield from ["one two three", "a zoo"] if split == "train" else ["zz"]

    def tokenized(changed: bool) -> tuple[list[int], bool]:
        file.write_text(ENCODING.format(changed=changed))
        monkeypatch.delitem(sys.modules, "changing_encoding", raising=False)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        corpus = tokenize(Words(), importlib.import_module("changing_encoding").Encoding(), "same")
        return corpus.train.shards[0][:].tolist(), corpus.cached

    assert tokenized(False) == ([299] * 5, False)
    assert tokenized(False) == ([299] * 5, True)
    assert tokenized(True) == ([299, 299, 299, 299, 3], False)


class Marked:
    """Characters after an end-of-text token; what has a z can't be expressed, and Q is beyond the vocabulary."""

    vocab_size, eot_id = 128, 0

    def encode(self, text: str) -> list[int]:
        if "z" in text:
            raise ValueError("z is not a token")
        return [500 if char == "Q" else ord(char) for char in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize("together", [1, 7, 10_000])
def test_texts_that_are_tokenized_together_are_written_like_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    documents: list[Document] = ["abc", "", "de", [Segment("f"), Segment("gh", learn=False)], "i", "jklmnop" * 5, "q"]
    monkeypatch.setattr(tokenize_parts, "PIECE", together)
    with contextlib.ExitStack() as stack:
        writer = TokenWriter(lambda end: stack.enter_context((tmp_path / f"x{end}").open("wb")), "uint16")
        for number, document in enumerate(documents):
            writer.add(document, Marked(), continues=number == 4)
        writer.flush(Marked())
    ids, starts, mask = list[int](), list[int](), list[bool]()
    for number, document in enumerate(documents):
        starts += [len(ids)] * (number != 4)
        for piece, learn in list(encode_document(document, Marked()))[number == 4 :]:
            ids += piece.tolist()
            mask += [learn] * len(piece)
    assert np.fromfile(tmp_path / "x.bin", "<u2").tolist() == ids
    assert np.fromfile(tmp_path / "x.offsets", "<u8").tolist() == starts
    assert np.fromfile(tmp_path / "x.mask", "u1").tolist() == mask
    assert (writer.tokens, writer.documents, writer.masked) == (len(ids), 6, True)


class Together(Marked):
    """Encodes texts together, but forgets empty ones."""

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        self.together = getattr(self, "together", 0) + 1
        return [self.encode(text) for text in texts if text]


def test_texts_are_encoded_together_where_the_tokenizer_can(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        writer = TokenWriter(lambda end: stack.enter_context((tmp_path / f"x{end}").open("wb")), "uint16")
        tokenizer = Together()
        for texts in (["ab", "c"], ["d"]):
            for text in texts:
                writer.add(text, tokenizer)
            writer.flush(tokenizer)
        assert tokenizer.together == 1
        for text in ("e", ""):
            writer.add(text, tokenizer)
        with pytest.raises(PluginError, match=r"Together.encode_many gave ids of 1 of 2 texts"):
            writer.flush(tokenizer)
    assert np.fromfile(tmp_path / "x.bin", "<u2").tolist() == [0, 97, 98, 0, 99, 0, 100]


@pytest.mark.parametrize(("text", "kind"), [("az", UserError), ("aQ", PluginError)])
def test_a_text_that_has_no_ids_among_many(tmp_path: Path, text: str, kind: type[PealmError]) -> None:
    with contextlib.ExitStack() as stack:
        writer = TokenWriter(lambda end: stack.enter_context((tmp_path / f"x{end}").open("wb")), "uint16")
        for document in ("abc", text, "de"):
            writer.add(document, Marked())
        with pytest.raises(kind, match=r"z is not a token|ids from 97 to 500"):
            writer.flush(Marked())
