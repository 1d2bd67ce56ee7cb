"""tiktoken's encodings: special tokens, streaming, saving, offline."""

import base64
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
import tiktoken.registry
from hypothesis import given
from hypothesis import strategies as st

from pealm_core import UserError
from pealm_tiktoken.config import TiktokenConfig
from pealm_tiktoken.files import PATTERNS
from pealm_tiktoken.tokenizer import TiktokenTokenizer

TEXTS = ["", "hello world", "naïve café", "漢字と仮名🧑‍🚀👩🏽‍🚒 ﷽", "a\r\n\t\0b", "it's  3.14 <|endoftext|>"]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tiktoken_files: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache, nothing in memory, and a network whose proxy refuses."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "no-cache"))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


def test_the_ids_are_openais(shakespeare: Path) -> None:
    tokenizer = TiktokenTokenizer()
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (50257, 50256)
    assert tokenizer.encode("hello world").tolist() == [31373, 995]
    text = shakespeare.read_text()
    ids = tokenizer.encode(text)
    assert len(ids) == 338_025
    assert tokenizer.decode(ids.tolist()) == text


def test_end_of_text_is_ordinary_text_unless_allowed() -> None:
    plain, special = TiktokenTokenizer(), TiktokenTokenizer(TiktokenConfig(allow_special=True))
    ids = plain.encode("a<|endoftext|>b").tolist()
    assert 50256 not in ids and plain.decode(ids) == "a<|endoftext|>b"
    assert special.encode("a<|endoftext|>b").tolist() == [64, 50256, 65]
    assert special.decode([50256]) == "<|endoftext|>" and plain.specials == {"<|endoftext|>": 50256}


@given(st.lists(st.text(st.sampled_from(" \na'sé漢<|>endoftx1"), max_size=20)), st.booleans())
def test_texts_encoded_together_do_not_run_into_each_other(texts: list[str], allowed: bool) -> None:
    tokenizer = TiktokenTokenizer(TiktokenConfig(allow_special=allowed))
    for several in (texts, [*texts, "a<|endoftext|> b", "  "], ["", " c", *texts, "<|endoftext|>"]):
        together = [ids.tolist() for ids in tokenizer.encode_many(several)]
        assert together == [tokenizer.encode(text).tolist() for text in several]
    with pytest.raises(ValueError, match=r"position 2\) is half of a surrogate pair"):
        tokenizer.encode_many([*texts, "ab\ud800c"])


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_gives_whole_characters_and_all_of_them(text: str) -> None:
    tokenizer = TiktokenTokenizer()
    step = tokenizer.stream_decoder()
    parts = [step(i) for i in tokenizer.encode(text).tolist()]
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


@given(st.lists(st.one_of(st.integers(0, 50256), st.integers(0, 255)), max_size=30))
def test_streaming_is_decoding_but_for_a_half_character_at_the_end(ids: list[int]) -> None:
    tokenizer = TiktokenTokenizer()
    step = tokenizer.stream_decoder()
    shown, whole = "".join(map(step, ids)), tokenizer.decode(ids)
    assert whole == tokenizer.encoding.decode(ids)
    assert whole.startswith(shown) and set(whole[len(shown) :]) <= {"\ufffd"}


def test_what_can_not_be_said_is_a_value_error() -> None:
    tokenizer = TiktokenTokenizer()
    with pytest.raises(ValueError, match=r"position 2\) is half of a surrogate pair"):
        tokenizer.encode("ab\ud800c")
    for token in (50257, -1):
        with pytest.raises(ValueError, match=f"token {token} is not among the 50,257 of gpt2"):
            tokenizer.decode([token])
        with pytest.raises(ValueError, match="is not among"):
            tokenizer.stream_decoder()(token)


def test_a_saved_vocabulary_needs_no_cache_and_no_network(
    tmp_path: Path, offline: None, tiktoken_files: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))
        saver = TiktokenTokenizer()
        saver.save(tmp_path)
        ids = [saver.encode(text).tolist() for text in TEXTS]
    tiktoken.registry.ENCODINGS.clear()
    first = (tmp_path / "ranks.tiktoken").read_bytes().splitlines()[0]
    assert first == b"IQ== 0"  # "!" is GPT-2's token 0
    tokenizer = TiktokenTokenizer()
    tokenizer.load(tmp_path)
    assert [tokenizer.encode(text).tolist() for text in TEXTS] == ids
    assert [tokenizer.decode(row) for row in ids] == TEXTS
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (50257, 50256)
    other = pickle.loads(pickle.dumps(tokenizer))  # what a worker process gets
    assert other.encode(TEXTS[3]).tolist() == ids[3]
    again = tmp_path / "again"
    again.mkdir()
    other.save(again)
    for name in ("ranks.tiktoken", "tokenizer.json"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_offline_without_a_cache_one_line_says_how(offline: None) -> None:
    tokenizer = TiktokenTokenizer()  # touches neither disk nor network
    assert isinstance(pickle.loads(pickle.dumps(tokenizer)), TiktokenTokenizer)
    with pytest.raises(UserError, match=r"can't download them .* TIKTOKEN_CACHE_DIR=DIR python -c") as error:
        tokenizer.encode("a")
    assert "\n" not in str(error.value)


def test_why_a_download_failed_is_what_the_system_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        try:
            raise OSError("Name or service not known")
        except OSError as error:
            raise ConnectionError(f"Max retries exceeded {'x' * 300}") from error

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(UserError, match=r"can't download them \(OSError: Name or service not known\); where"):
        TiktokenTokenizer().encode("a")


def test_an_unknown_encoding_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"--tokenizer.encoding gpt3: .* known: gpt2, "):
        _ = TiktokenTokenizer(TiktokenConfig(encoding="gpt3")).vocab_size


def test_ids_without_a_token_can_be_shown(tmp_path: Path) -> None:
    """Encodings such as cl100k_base leave gaps, and a model may sample from one."""
    TiktokenTokenizer().save(tmp_path)
    rest = json.loads((tmp_path / "tokenizer.json").read_text())
    rest["special_tokens"]["<|later|>"] = 50260
    (tmp_path / "tokenizer.json").write_text(json.dumps(rest))
    tokenizer = TiktokenTokenizer()
    tokenizer.load(tmp_path)
    assert tokenizer.vocab_size == 50261
    assert tokenizer.decode([64, 50258, 50260]) == "a\ufffd<|later|>"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("ranks.tiktoken", (b"IQ== 0\n", b"IQ==\n"), r"ranks.tiktoken, line 1: b'IQ==' is not a token and a rank"),
        ("ranks.tiktoken", (b"IQ== 0\n", b"I!== 0\n"), "line 1"),
        ("ranks.tiktoken", (b"IQ== 0\n", b""), "no token for byte 0x21"),
        ("ranks.tiktoken", (b"IQ== 0\n", b"IQ== 1\n"), "distinct"),
        ("ranks.tiktoken", (b"IQ== 0\n", b"IQ== -1\n"), "rank must be from 0"),
        ("tokenizer.json", (b'"gpt2"', b'"gpt3"'), "is of encoding 'gpt3', not 'gpt2'"),
        ("tokenizer.json", (b"{", b""), "is not JSON"),
        ("tokenizer.json", (b"{", b"[" * 100_000), "is not JSON"),
        ("tokenizer.json", (b"pat_str", b"pattern"), 'no "pat_str"'),
        ("tokenizer.json", (b'"pat_str": "', b'"pat_str": "('), "pat_str"),
        ("tokenizer.json", (b"50256", b'"x"'), "give every token an id"),
        ("tokenizer.json", (b"50256", b"50255"), "special token has the id 50255, that of a token"),
        ("tokenizer.json", (b"50256", b"99999999999"), "give every token an id"),
    ],
)
def test_a_broken_vocabulary_is_named(tmp_path: Path, file: str, change: tuple[bytes, bytes], message: str) -> None:
    TiktokenTokenizer().save(tmp_path)
    data = (tmp_path / file).read_bytes()
    assert change[0] in data
    (tmp_path / file).write_bytes(data.replace(*change, 1))
    with pytest.raises(ValueError, match=message):
        TiktokenTokenizer().load(tmp_path)


def test_two_special_tokens_may_share_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As <|endofprompt|> and <|reserved_200018|> in o200k_harmony, here with the ranks of GPT-2."""
    gpt2 = tiktoken.get_encoding("gpt2")
    special = {"<|endoftext|>": 50256, "<|endofprompt|>": 50258, "<|start|>": 50257, "<|reserved_50258|>": 50258}
    encoding = tiktoken.Encoding(
        "o200k_harmony", pat_str=gpt2._pat_str, mergeable_ranks=gpt2._mergeable_ranks, special_tokens=special
    )
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "o200k_harmony", encoding)
    config = TiktokenConfig(encoding="o200k_harmony")
    TiktokenTokenizer(config).save(tmp_path)
    (tokenizer := TiktokenTokenizer(config)).load(tmp_path)
    assert tokenizer.specials == special and tokenizer.vocab_size == 50259
    for each in (tokenizer, TiktokenTokenizer(config), pickle.loads(pickle.dumps(tokenizer))):
        assert each.decode([64, 50258, 50257]) == "a<|endofprompt|><|start|>"
        assert each.encode(TEXTS[3]).tolist() == gpt2.encode_ordinary(TEXTS[3])


def test_o200k_harmony_itself_where_it_is(tmp_path: Path) -> None:
    tokenizer = TiktokenTokenizer(TiktokenConfig(encoding="o200k_harmony"))
    try:
        text = tokenizer.decode([200018])
    except UserError as error:
        pytest.skip(str(error))
    tokenizer.save(tmp_path)
    (again := TiktokenTokenizer(TiktokenConfig(encoding="o200k_harmony"))).load(tmp_path)
    assert again.specials == tokenizer.specials and again.decode([200018]) == text == "<|endofprompt|>"


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", r"\p{L}+|[^\p{L}]+"])
def test_a_file_of_ranks(tmp_path: Path, pattern: str, pealm, book: Path) -> None:  # type: ignore[no-untyped-def]
    import tiktoken_ext.openai_public as theirs

    gpt2 = tiktoken.get_encoding("gpt2")
    path, ranks = tmp_path / "my.tiktoken", {t: i for t, i in gpt2._mergeable_ranks.items() if i < 5000}
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    tokenizer = TiktokenTokenizer(TiktokenConfig(file=path, pattern=pattern, specials=("<|endoftext|>", "<|user|>")))
    assert tokenizer.specials == {"<|endoftext|>": 5000, "<|user|>": 5001} and tokenizer.eot_id == 5000
    pat_str = PATTERNS.get(pattern, pattern)
    alone = tiktoken.Encoding("x", pat_str=pat_str, mergeable_ranks=ranks, special_tokens={})
    for text in TEXTS:
        assert (
            tokenizer.encode(text).tolist() == alone.encode_ordinary(text)
            and tokenizer.decode(tokenizer.encode(text).tolist()) == text
        )
    if pattern in ("cl100k", "o200k"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(theirs, "load_tiktoken_bpe", lambda *_, **__: {})
            assert theirs.ENCODING_CONSTRUCTORS[f"{pattern}_base"]()["pat_str"] == pat_str
    if pattern == "gpt2":
        assert pat_str == gpt2._pat_str
        line = ["--tokenizer", "tiktoken", "--tokenizer.file", path, "--input.text", book, "--steps", 1]
        assert pealm("train", "char-bigram", *line, "--out", tmp_path / "run").code == 0
        path.rename(tmp_path / "elsewhere")
        told = pealm("sample", "--ckpt", tmp_path / "run", "--prompt", "the quick", "-n", "5")
        assert told.code == 0 and told.out.startswith("the quick"), told.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "no token for byte 0x00"), (b"x\n", "line 1: b'x' is not a token and a rank")],
)
def test_a_wrong_file_of_ranks_is_one_line(
    tmp_path: Path, content: bytes | None, message: str, pealm, book: Path
) -> None:  # type: ignore[no-untyped-def]
    if content is not None:
        (tmp_path / "my.tiktoken").write_bytes(content)
    line = ["--tokenizer", "tiktoken", "--tokenizer.file", tmp_path / "my.tiktoken", "--input.text", book]
    done = pealm("train", "char-bigram", *line)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json"):
        TiktokenTokenizer().load(tmp_path)


def test_a_checkpoint_samples_where_the_files_never_were(
    tmp_path: Path, book: Path, pealm, offline, tiktoken_files: Path
) -> None:  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))
        line = [
            "char-transformer",
            "--tokenizer",
            "tiktoken",
            "--input.text",
            book,
            "--steps",
            "2",
            "--model.block-size",
            "16",
            "--model.n-layer",
            "1",
            "--model.n-embd",
            "8",
        ]
        assert pealm("train", *line, "--out", tmp_path / "run").code == 0
    tiktoken.registry.ENCODINGS.clear()
    told = pealm("sample", "--ckpt", tmp_path / "run", "--prompt", "the quick", "-n", "5", "--seed", "1")
    assert told.code == 0, told.err
    assert told.out.startswith("the quick")
    failed = pealm("train", *line, "--out", tmp_path / "other")
    assert failed.code == 2
    assert failed.err.count("\n") == 1 and "TIKTOKEN_CACHE_DIR" in failed.err


def test_the_record_and_the_config_load_nothing_heavy() -> None:
    code = "import sys, pealm_tiktoken.plugin, pealm_tiktoken.config; print({'tiktoken', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
