"""Hugging Face's tokenizers: the ids of transformers, special tokens, streaming, saving."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pealm_core import CHAT_LAYOUT, UserError, chat_prompt, encode_document, load, start_token
from pealm_hf_tokenizer.config import HFConfig
from pealm_hf_tokenizer.tokenizer import HFTokenizer

CORPUS = [
    "First Citizen:\n\n  Before we proceed any further, hear me speak.\n" * 4,
    'def f(x: int) -> str:\n\treturn f"{x:>08}"  # naïve\n' * 4,
    "日本語の文字、中文字符。 שלום עולם، مرحبا بالعالم Привет, мир! ไทย" * 2,
    "🦊🦊 👩🏽\u200d🚒 1234567 3.14159 e\u0301 ﷽",
]
# What a text may spell without meaning it.
SPELT = "<|endoftext|> <s></s> <|im_start|>user\nhi<|im_end|> [UNK] <unk>"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def byte_level() -> Any:
    """As SmolLM2, Qwen and Llama 3: BPE on bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece() -> Any:
    """As Llama 2 and Mistral: BPE on characters with a mark for spaces, and bytes for the rest."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=special, limit_alphabet=60, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    whole = json.loads(tokenizer.to_str())
    whole["added_tokens"] = whole["added_tokens"][:3]  # bytes are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.fixture(params=["byte-level", "sentencepiece"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tokenizer as transformers saves it with a model."""
    from transformers import PreTrainedTokenizerFast

    ours, eos = (byte_level(), "<|im_end|>") if request.param == "byte-level" else (sentencepiece(), "</s>")
    ours.enable_truncation(5)  # as a file may have it, from its training
    theirs: Any = PreTrainedTokenizerFast(tokenizer_object=ours, eos_token=eos)
    theirs.chat_template = TEMPLATE
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "tokenizer.json"
    path.write_text(ours.to_str())
    return tmp_path / "theirs"


TEXTS = [*CORPUS, SPELT, "", " ", "a\r\n\t\0b", "  two  spaces ", "\ufeff\ufffd", "漢字🧑‍🚀"]


@pytest.fixture
def tokenizer(folder: Path) -> HFTokenizer:
    return HFTokenizer(HFConfig(path=folder))


def test_the_ids_are_those_of_transformers(folder: Path, tokenizer: HFTokenizer) -> None:
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == len(theirs)
    for text in TEXTS:
        ids = [*tokenizer.encode(text)]
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids, text
        assert tokenizer.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False) == text


def test_special_tokens_come_by_name_alone(folder: Path, tokenizer: HFTokenizer) -> None:
    names = set(tokenizer.specials)
    assert names in ({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, {"<unk>", "<s>", "</s>"})
    assert tokenizer.eot_id == tokenizer.specials["<|im_end|>" if "<|im_end|>" in names else "</s>"]
    for name, i in tokenizer.specials.items():
        ids = tokenizer.encode(f"a{name}b")
        assert not {*tokenizer.specials.values()} & {*ids} and tokenizer.decode(ids) == f"a{name}b"
        assert tokenizer.decode([i]) == name


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_gives_complete_characters_and_all_of_them(tokenizer: HFTokenizer, text: str) -> None:
    step = tokenizer.stream_decoder()
    parts = [step(i) for i in tokenizer.encode(text)]
    assert "".join(parts) == text.removesuffix("\ufffd")
    assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("folder", ["byte-level"], indirect=True)  # the other decodes a run of bytes all or nothing
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(ids=st.lists(st.integers(0, 300), max_size=30))
def test_streaming_is_decoding_except_for_a_half_character_at_the_end(tokenizer: HFTokenizer, ids: list[int]) -> None:
    step = tokenizer.stream_decoder()
    shown, whole = "".join(map(step, ids)), tokenizer.decode(ids)
    assert whole.startswith(shown) and set(whole[len(shown) :]) <= {"\ufffd"}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"eos_token": {"content": "<|im_start|>", "lstrip": False}}, "<|im_start|>"),
        ({}, "<|endoftext|>"),
        ({"eos_token": None}, "<|endoftext|>"),
        ({"eos_token": "<|nothing|>"}, None),
    ],
)
@pytest.mark.parametrize("folder", ["byte-level"], indirect=True)
def test_where_end_of_text_comes_from(folder: Path, content: dict[str, Any], name: str | None) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    tokenizer = HFTokenizer(HFConfig(path=folder / "tokenizer.json"))  # the file itself may be named
    assert tokenizer.eot_id == (None if name is None else tokenizer.specials[name])


@pytest.mark.parametrize("folder", ["byte-level"], indirect=True)
def test_the_chat_template_is_kept_wherever_it_is(folder: Path, tokenizer: HFTokenizer, tmp_path: Path) -> None:
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE == tokenizer.chat_template
    (folder / "chat_template.jinja").unlink()
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    for value, expected in ((TEMPLATE, TEMPLATE), (several, "y"), (None, None)):
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
        (tmp_path / "saved").mkdir(exist_ok=True)
        HFTokenizer(HFConfig(path=folder)).save(tmp_path / "saved")
        other = HFTokenizer()
        other.load(tmp_path / "saved")
        assert other.chat_template == expected


def test_a_saved_tokenizer_needs_the_first_folder_no_more(
    folder: Path, tokenizer: HFTokenizer, tmp_path: Path
) -> None:
    ids, eot, size = [*map(tokenizer.encode, TEXTS)], tokenizer.eot_id, tokenizer.vocab_size
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
        (folder / name).unlink()
    other = HFTokenizer(HFConfig(path=folder))
    other.load(tmp_path / "saved")
    for each in (other, pickle.loads(pickle.dumps(other)), pickle.loads(pickle.dumps(tokenizer))):
        assert [*map(each.encode, TEXTS)] == ids and (each.eot_id, each.vocab_size) == (eot, size)


@pytest.mark.parametrize("folder", ["byte-level"], indirect=True)
def test_ids_without_a_token_and_beyond(folder: Path) -> None:
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    whole["model"]["vocab"]["later"] = 600
    path.write_text(json.dumps(whole))
    tokenizer = HFTokenizer(HFConfig(path=folder))
    assert tokenizer.vocab_size == 601 and tokenizer.decode([600, 599]) == "later"
    for token in (601, -1):
        with pytest.raises(ValueError, match=f"token {token} is not among the 601"):
            tokenizer.decode([token])
        with pytest.raises(ValueError, match="is not among"):
            tokenizer.stream_decoder()(token)
    with pytest.raises(ValueError, match=r"position 2\) is half of a surrogate pair"):
        tokenizer.encode("ab\ud800c")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", b"", r"tokenizer.json can't be read: "),
        ("tokenizer.json", b"[" * 100_000, r"tokenizer.json can't be read: "),
        ("tokenizer.json", b"\xff", r"tokenizer.json can't be read: "),
        ("tokenizer.json", b'{"model": {"type": "Magic"}}', r"tokenizer.json can't be read: "),
        ("tokenizer_config.json", b"[" * 100_000, "tokenizer_config.json is not JSON"),
        ("tokenizer_config.json", b"\xff", "tokenizer_config.json is not JSON"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json is not a table"),
    ],
)
@pytest.mark.parametrize("folder", ["byte-level"], indirect=True)
def test_a_damaged_file_is_named(
    folder: Path, file: str, content: bytes, message: str, pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        HFTokenizer().load(folder)
    line = ("train", "char-bigram", "--input.text", book, "--tokenizer", "hf", "--tokenizer.path", folder)
    done = pealm(*line, "--out", tmp_path / "run")
    assert done.code == 2 and done.err.count("\n") == 1 and file in done.err, done.err


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs its file: --tokenizer.path DIR"):
        HFTokenizer().encode("a")
    with pytest.raises(UserError, match=r"--tokenizer.path .*nowhere: no such file"):
        HFTokenizer(HFConfig(path=tmp_path / "nowhere")).encode("a")
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json"):
        HFTokenizer().load(tmp_path)
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(ValueError, match="is not a regular file"):
        HFTokenizer().load(tmp_path)


@pytest.mark.parametrize("folder", ["byte-level"], indirect=True)
def test_a_checkpoint_has_its_tokenizer(folder: Path, pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    line = ("--input.text", book, "--tokenizer", "hf", "--tokenizer.path", folder, "--steps", 2, "--out")
    done = pealm("train", "char-bigram", *line, tmp_path / "run")
    assert done.code == 0, done.err
    folder.rename(tmp_path / "elsewhere")
    done = pealm("sample", "--ckpt", tmp_path / "run", "--prompt", "the quick", "-n", "5", "--seed", "1")
    assert done.code == 0 and done.out.startswith("the quick"), done.err


def test_the_record_and_the_config_load_nothing_heavy() -> None:
    code = (
        "import sys, pealm_hf_tokenizer.plugin, pealm_hf_tokenizer.config; print({'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_first_token_is_put_where_transformers_puts_it(
    folder: Path, tokenizer: HFTokenizer, pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    """Before each document, after the end of the one before; before each prompt; once in a scored text."""
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(folder)
    first = theirs("a").input_ids[: len(theirs("a").input_ids) - len(tokenizer.encode("a"))]
    assert ([tokenizer.bos_id] if tokenizer.bos_id is not None else []) == first
    assert len(first) == ("<s>" in tokenizer.specials)
    line = ("--input.text", book, "--tokenizer", "hf", "--tokenizer.path", folder, "--steps", 1)
    assert pealm("train", "char-bigram", *line, "--out", tmp_path / "run").code == 0
    lm = load(tmp_path / "run")
    for text in ("the quick", "漢字 <s>", "x"):
        assert lm.encode(text) == theirs(text, split_special_tokens=True).input_ids
        assert len(lm.logprobs(text)) == len(tokenizer.encode(text))
        pieces = [ids.tolist() for ids, _ in encode_document(text, tokenizer)]
        assert [i for piece in pieces for i in piece] == [
            tokenizer.eot_id,
            *theirs(text, split_special_tokens=True).input_ids,
        ]
    assert lm.encode("") == [start_token(tokenizer)] == (first or [tokenizer.eot_id])
    ids = lm.encode("the quick")
    with torch.inference_mode():
        logits, _ = lm.model(torch.tensor([ids if first else [tokenizer.eot_id, *ids]]))
    expected = logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids[len(first) :])[:, None])[:, 0]
    assert lm.logprobs("the quick") == pytest.approx(expected.tolist())
    assert lm.generate("the quick", seed=1, max_new_tokens=3).startswith("the quick")
    prompt = chat_prompt(with_chat(tokenizer), [{"role": "user", "content": "hi"}])
    start = [tokenizer.eot_id, *first]  # as in training
    assert prompt.ids[: len(start)] == start and not {*start} & {*prompt.ids[len(start) :]}


def with_chat(tokenizer: HFTokenizer) -> Any:
    from pealm_core.data.special_tokens import with_specials

    names = [*CHAT_LAYOUT["roles"].values(), CHAT_LAYOUT["end"]]  # type: ignore[attr-defined]
    return with_specials(tokenizer, names, None, CHAT_LAYOUT)


def test_a_text_in_shards_is_scored_as_the_text_itself(tokenizer: HFTokenizer) -> None:
    from pealm_perplexity.evaluator import read

    texts = ["the quick", "漢字 <s>"]

    class Texts:
        def documents(self, split: str) -> list[str]:
            return texts

    class Shards:
        def shards(self, split: str) -> list[Any]:
            return [np.concatenate([ids for text in texts for ids, _ in encode_document(text, tokenizer)])]

    def scored(dataset: Any) -> list[list[tuple[list[int], int]]]:
        return [[(piece.ids.tolist(), piece.size) for piece in text] for text in read(dataset, "val", tokenizer)]

    assert scored(Texts()) == scored(Shards()) and len(scored(Shards())) == 2
    assert len([*read(Shards(), "val", tokenizer)]) == 2  # type: ignore[arg-type]  # unread, they are skipped
