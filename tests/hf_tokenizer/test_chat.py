"""Chat templates: the ids of transformers, what is learned, and templates that misbehave."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pealm_core
from pealm_core import UserError, chat_prompt
from pealm_hf_tokenizer.config import HFConfig
from pealm_hf_tokenizer.tokenizer import HFTokenizer

TEMPLATES = Path(__file__).parent / "templates"
CORPUS = (
    "user\nassistant system model You are a helpful AI assistant. [INST] What is it? [/INST] It is what it is.\n" * 4
)
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
WORDS = ["<unk>", "<s>", "</s>"]
# template, its tokenizer, special tokens, bos, eos, whether it takes a system message, what ends an answer
FAMILIES: dict[str, tuple[str, list[str], str | None, str, bool, str]] = {
    "chatml": ("bytes", CHATML, "<|im_start|>", "<|im_end|>", True, "<|im_end|>"),
    "qwen25": ("bytes", CHATML, None, "<|im_end|>", True, "<|im_end|>"),
    "qwen3": ("bytes", CHATML, None, "<|im_end|>", True, "<|im_end|>"),
    "generation": ("bytes", CHATML, None, "<|im_end|>", True, "<|im_end|>"),
    "llama3": ("bytes", LLAMA3, "<|begin_of_text|>", "<|eot_id|>", True, "<|eot_id|>"),
    "gemma": ("first", GEMMA, "<bos>", "<eos>", False, "<end_of_turn>"),
    "zephyr": ("first", WORDS, "<s>", "</s>", True, "</s>"),
    "mistral": ("each", WORDS, "<s>", "</s>", False, "</s>"),
    "llama2": ("each", WORDS, "<s>", "</s>", True, "</s>"),
}
TALKS = [
    ("What is it?",),
    ("What is it?", "It is what it is."),
    ("What  is\n\nit? ", " It is 🦊\n- what\n", "naïve\t日本語", "\n\nIt is.\n\n", "."),
    ("a", "b", "c", "d"),
]


def words(kind: str, specials: list[str]) -> Any:
    """A tokenizer: of bytes; or with a mark for spaces, put before the text's first word or each part's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(
        models.BPE(byte_fallback=kind != "bytes", unk_token=None if kind == "bytes" else "<unk>")
    )
    alphabet: list[str] = []
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder, alphabet = decoders.ByteLevel(), sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    known = [*specials, *([] if kind == "bytes" else [f"<0x{byte:02X}>" for byte in range(256)])]
    known += [] if "<unk>" in known or kind == "bytes" else ["<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=known, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    if kind == "each":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    return tokenizer


def saved(name: str, folder: Path, template: str | None = None) -> Path:
    """Save a tokenizer with a chat template as transformers does."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    kind, specials, bos, eos = FAMILIES[name][:4]
    whole = json.loads(words(kind, specials).to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    theirs: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    theirs.chat_template = (TEMPLATES / f"{name}.jinja").read_text() if template is None else template
    theirs.save_pretrained(folder)
    return folder


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system is not None else []), *turns]


def ids_of(pieces: Any) -> list[int]:
    return [i for ids, _ in pieces for i in ids]


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = saved(name, tmp_path / "saved")
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer: Any = HFTokenizer(HFConfig(path=folder))
    _, specials, _, _, system, end = FAMILIES[name]
    for contents in TALKS:
        for messages in (talk(*contents), *([talk(*contents, system="Be kind.")] if system else [])):
            for answer in (False, True):
                pieces = tokenizer.render_chat(messages, answer=answer)
                expected = theirs.apply_chat_template(messages, add_generation_prompt=answer, return_dict=False)
                assert ids_of(pieces) == expected, (messages, answer)
            learned = [tokenizer.decode(ids) for ids, learn in tokenizer.render_chat(messages, answer=False) if learn]
            said = [m["content"] for m in messages if m["role"] == "assistant"]
            assert len(learned) == len(said)
            for text, content in zip(learned, said, strict=True):
                assert text.rstrip("\n").endswith(end) and text.count(end) == 1
                assert text.replace(end, "").strip().endswith(content.strip())
                assert "assistant" not in text and "INST" not in text and "What" not in text
    prompt = chat_prompt(tokenizer, talk("What is it?"))
    assert tokenizer.specials[end] in prompt.ends and prompt.ends <= {*tokenizer.specials.values()}
    assert prompt.ids == theirs.apply_chat_template(
        talk("What is it?"), add_generation_prompt=True, return_dict=False
    )
    # Spelled in a message, a special token is text.
    spelled = f"a{end}b {specials[-1]}{specials[0]}"
    pieces = tokenizer.render_chat(talk(spelled, spelled), answer=False)
    plain = tokenizer.render_chat(talk("a", "a"), answer=False)
    count = [sum(i in tokenizer.specials.values() for i in ids_of(each)) for each in (pieces, plain)]
    assert count[0] == count[1] and tokenizer.decode(ids_of(pieces)).count(spelled) == 2


def test_the_answer_may_begin_with_thoughts(tmp_path: Path) -> None:
    """The template splits the text, so that its start is where the answer begins in a prompt."""
    tokenizer = HFTokenizer(HFConfig(path=saved("qwen3", tmp_path)))
    messages = talk("a", "<think>\nhm\n</think>\n\nb", "c", "<think>\nwell\n</think>\n\nd")
    learned = [tokenizer.decode(ids) for ids, learn in tokenizer.render_chat(messages, answer=False) if learn]
    assert learned == ["b<|im_end|>", "<think>\nwell\n</think>\n\nd<|im_end|>"]
    asked = tokenizer.decode(ids_of(tokenizer.render_chat(messages[:3], answer=True)))
    whole = tokenizer.decode(ids_of(tokenizer.render_chat(messages, answer=False)))
    assert whole.startswith(asked + learned[1])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "was stopped"),
        ("{{ 9 ** (9 ** 9) }}", "was stopped"),
        ("{{ 'x' * 10**10 }}", "takes more than 512 MiB"),
        ("{% set s = namespace(t='x') %}{% for i in range(99) %}{% set s.t = s.t ~ s.t %}{% endfor %}", "512 MiB"),
        ("{{ '%9999999999d' | format(1) }}", "512 MiB"),
        ("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "more than 67,108,864 characters"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"),
        ("{{ messages.__class__.__mro__ }}", "sandbox forbids"),
        ("{{ namespace(__class__=1) }}", "sandbox forbids"),
        ("{{ messages.append(messages) }}", "sandbox forbids"),
        ("{{ cycler.__init__.__globals__.os.system('touch owned') }}", "sandbox forbids"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{{ raise_exception('Only\nkind words!') }}", "fails: Only kind words!"),
        ("{% for", "fails: "),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", None),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}", "changes the assistant's texts"),
    ],
)
def test_a_template_that_misbehaves_is_one_line(template: str, reason: str | None, tmp_path: Path) -> None:
    tokenizer = HFTokenizer(HFConfig(path=saved("chatml", tmp_path, template)))
    if reason is None:
        assert tokenizer.decode(ids_of(tokenizer.render_chat(talk("a", "b"), answer=False))) == "AB"
        return
    with pytest.raises(ValueError, match="chat template") as error:
        tokenizer.render_chat(talk("a", "b"), answer=False)
    assert reason in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not Path("owned").exists()


def test_the_process_starts_again_and_ends_with_the_tokenizer(tmp_path: Path) -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = "{% for m in messages %}{% if m.content == 'loop' %}" + loop + "{% endif %}{{ m.content }}{% endfor %}"
    tokenizer = HFTokenizer(HFConfig(path=saved("chatml", tmp_path, template)))
    assert tokenizer.decode(ids_of(tokenizer.render_chat(talk("a"), answer=True))) == "a"
    process: Any = tokenizer._chat.sandbox._process
    with pytest.raises(ValueError, match="was stopped"):
        tokenizer.render_chat(talk("loop"), answer=True)
    assert process.poll() is not None
    assert tokenizer.decode(ids_of(tokenizer.render_chat(talk("b"), answer=True))) == "b"
    process = tokenizer._chat.sandbox._process
    other = pickle.loads(pickle.dumps(tokenizer))
    del tokenizer
    assert process.poll() is not None
    assert other.decode(ids_of(other.render_chat(talk("c"), answer=True))) == "c"


def test_the_day_is_todays_in_prompts_alone(tmp_path: Path) -> None:
    from datetime import datetime

    tokenizer = HFTokenizer(HFConfig(path=saved("chatml", tmp_path, "{{ strftime_now('%Y %m') }}")))
    texts = [tokenizer.decode(ids_of(tokenizer.render_chat(talk("a"), answer=answer))) for answer in (False, True)]
    assert texts == ["2024 07", datetime.now().strftime("%Y %m")]


def test_long_conversations_are_cut(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(HFConfig(path=saved("chatml", tmp_path)))
    whole = chat_prompt(tokenizer, talk("a" * 9, "b", "c", system="S"))
    prompt = chat_prompt(tokenizer, talk("a" * 9, "b", "c", system="S"), len(whole.ids) - 1)
    assert prompt.dropped == 2 and prompt.ids == chat_prompt(tokenizer, talk("c", system="S")).ids
    room = len(prompt.ids)
    prompt = chat_prompt(tokenizer, talk("0123456789" * 20, system="S"), room + 4)
    assert len(prompt.ids) == room + 4 and "56789<|im_end|>" in tokenizer.decode(prompt.ids) and prompt.cut > 100
    with pytest.raises(UserError, match="no message fits into 5 tokens"):
        chat_prompt(tokenizer, talk("a"), 5)
    with pytest.raises(UserError, match="can't be rendered: unknown role"):
        chat_prompt(tokenizer, [{"role": "<|im_end|>", "content": "x"}])


def test_a_model_learns_to_answer_in_the_template(pealm: Callable[..., Any], tmp_path: Path) -> None:
    """No tokens are added, the loss is that of the answers, and `pealm chat` answers without more."""
    folder, file, run = saved("chatml", tmp_path / "t"), tmp_path / "talk.jsonl", tmp_path / "run"
    import json

    lines = [{"messages": talk(f"{a} {b}", "It is.")} for a in "abcdefgh" for b in "abcdefgh"]
    file.write_text("\n".join(map(json.dumps, lines)))
    size = HFTokenizer(HFConfig(path=folder)).vocab_size
    line = ("--input.conversations", file, "--tokenizer", "hf", "--tokenizer.path", folder)
    small = ("--model.block-size", 128, "--model.n-layer", 1, "--model.n-embd", 32, "--model.n-head", 2)
    done = pealm("train", "sprout", *line, *small, "--steps", 40, "--batch-size", 16, "--eval-every", 0, "--out", run)
    assert done.code == 0, done.err
    lm = pealm_core.load(run, device="cpu")
    assert lm.tokenizer.vocab_size == size and not getattr(lm.tokenizer, "chat", None)
    assert [lm.chat(talk(f"{a} c"), temperature=0) for a in "abcd"] == ["It is."] * 4
    done = subprocess.run(
        [sys.executable, "-m", "pealm_core._pealm", "chat", "--ckpt", run, "--temperature", "0"],
        input="a b\nc d\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "It is.\nIt is.\n", done.stderr


def test_a_refused_template_ends_a_training_in_one_line(pealm: Callable[..., Any], tmp_path: Path) -> None:
    folder = saved("chatml", tmp_path / "t", "{{ raise_exception('no') }}")
    file = tmp_path / "talk.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "b", "output": "b"}\n')
    line = ("--input.conversations", file, "--tokenizer", "hf", "--tokenizer.path", folder, "--out", tmp_path / "run")
    done = pealm("train", "char-bigram", *line)
    assert (
        done.code == 2 and done.err.count("\n") == 1 and "can't be rendered: the chat template fails: no" in done.err
    )
