"""OpenAI's protocol, spoken by real clients: `openai`, `llm` and lm-evaluation-harness."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from pealm_core import LM, Sampling, score
from pealm_serve.models import Loaded

WEIGHTS = Path(__file__).parents[2] / "weights"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
CHAR, BPE = "char-transformer", "gpt2-shakespeare"
ASK: Any = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
def lm(loaded: dict[str, Loaded]) -> LM:
    return loaded[BPE].lm


def test_models_are_listed(client: openai.OpenAI, talk: Path) -> None:
    models = {model.id: model for model in client.models.list()}
    assert [*models] == [CHAR, BPE, "talk"]
    assert client.models.retrieve(BPE).to_dict() == models[BPE].to_dict()
    facts = [(m.to_dict()["context_length"], m.to_dict()["vocab_size"], m.to_dict()["chat"]) for m in models.values()]
    assert facts[:2] == [(128, 65, False), (128, 1024, False)] and facts[2][2] is True
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
        client.models.retrieve("gpt-9")


def test_a_completion_is_what_the_model_generates(client: openai.OpenAI, lm: LM) -> None:
    answer = client.completions.create(model=BPE, prompt="ROMEO:", seed=5, n=2, max_tokens=20, temperature=0.8)
    how = Sampling(max_new_tokens=20, seed=5, num_samples=2, temperature=0.8)
    assert ["ROMEO:" + choice.text for choice in answer.choices] == lm.generate_batch("ROMEO:", how)
    assert [(choice.index, choice.finish_reason) for choice in answer.choices] == [(0, "length"), (1, "length")]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(lm.encode("ROMEO:")), 40)


def test_settings_of_other_servers(client: openai.OpenAI, lm: LM) -> None:
    how: dict[str, Any] = {"top_k": 3, "min_p": 0.05, "repetition_penalty": 1.3}
    answer = client.completions.create(model=BPE, prompt="A", seed=1, top_p=0.9, max_tokens=20, extra_body=how)
    assert "A" + answer.choices[0].text == lm.generate("A", Sampling(20, seed=1, top_p=0.9, **how))


def test_a_stream_has_the_same_text_in_pieces(client: openai.OpenAI, lm: LM) -> None:
    how: dict[str, Any] = {"model": BPE, "prompt": ["ROMEO:", "A"], "seed": 5, "n": 2, "max_tokens": 9}
    whole = client.completions.create(**how)
    chunks = [*client.completions.create(**how, stream=True, stream_options={"include_usage": True})]
    texts = ["".join(c.choices[0].text for c in chunks[:-1] if c.choices[0].index == i) for i in range(4)]
    assert texts == [choice.text for choice in whole.choices]
    assert len(chunks) > 8 and chunks[-1].usage == whole.usage and len({chunk.id for chunk in chunks}) == 1
    assert sorted(c.choices[0].index for c in chunks[:-1] if c.choices[0].finish_reason) == [0, 1, 2, 3]


def test_stop_strings_end_a_text_and_are_not_shown(client: openai.OpenAI, lm: LM) -> None:
    full = client.completions.create(model=BPE, prompt="ROMEO:", temperature=0, max_tokens=40).choices[0].text
    stop = full[10:13]
    for stream in (False, True):
        made: Any = client.completions.create(
            model=BPE, prompt="ROMEO:", temperature=0, max_tokens=40, stop=stop, stream=stream
        )
        choices = [chunk.choices[0] for chunk in made] if stream else made.choices
        assert "".join(choice.text for choice in choices) == full[: full.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_logprobs_are_the_models(client: openai.OpenAI, lm: LM) -> None:
    answer = client.completions.create(model=BPE, prompt="ROMEO: my love", echo=True, logprobs=3, **GREEDY)
    (choice,) = answer.choices
    found = choice.logprobs
    assert found is not None and found.tokens and found.token_logprobs and found.top_logprobs and found.text_offset
    ids = lm.encode(choice.text)
    expected = [score(lm.model, [(ids[:i], [ids[i]])])[0].log_prob for i in range(1, len(ids))]
    assert lm.tokenizer.decode(ids) == "".join(found.tokens) == choice.text
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    pieces = zip(found.tokens, found.text_offset, strict=True)
    assert all(choice.text[offset : offset + len(token)] == token for token, offset in pieces)
    for token, logprob, top in [*zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True)][1:]:
        assert 3 <= len(top) <= 4 and top[token] == logprob <= max(top.values())
    made = found.token_logprobs[-12:], found.top_logprobs[-12:]  # greedy
    assert all(logprob == max(top.values()) for logprob, top in zip(*made, strict=True))


def test_logprobs_of_a_stream(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"model": BPE, "prompt": "A", "seed": 3, "echo": True, "logprobs": 2, "max_tokens": 6}
    whole: Any = client.completions.create(**how).choices[0].logprobs
    parts: list[Any] = [chunk.choices[0].logprobs for chunk in client.completions.create(**how, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [item for part in parts for item in getattr(part, name)] == getattr(whole, name)


def test_prompts_of_token_ids(client: openai.OpenAI, lm: LM) -> None:
    ids = lm.encode("ROMEO: my")
    by_ids = client.completions.create(model=BPE, prompt=[ids, ids[:1]], echo=True, **GREEDY)
    by_text = client.completions.create(
        model=BPE, prompt=["ROMEO: my", lm.tokenizer.decode(ids[:1])], echo=True, **GREEDY
    )
    assert [c.text for c in by_ids.choices] == [c.text for c in by_text.choices]
    scored = client.completions.create(model=BPE, prompt=ids, echo=True, logprobs=0, max_tokens=0).choices[0]
    assert scored.text == "ROMEO: my" and scored.finish_reason == "length" and scored.logprobs is not None
    assert len(scored.logprobs.tokens or []) == len(ids)
    empty = client.completions.create(model=BPE, prompt="", echo=True, logprobs=0, max_tokens=1).choices[0]
    assert empty.logprobs is not None and len(empty.logprobs.tokens or []) == 1  # the start token isn't the user's


def test_chat_is_what_the_model_answers(client: openai.OpenAI, loaded: dict[str, Loaded]) -> None:
    expected = loaded["talk"].lm.chat(ASK, temperature=0, max_new_tokens=12)
    answer = client.chat.completions.create(model="talk", messages=ASK, **GREEDY)
    assert answer.choices[0].message.content == expected and answer.choices[0].message.role == "assistant"
    chunks = [*client.chat.completions.create(model="talk", messages=ASK, stream=True, **GREEDY)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]}]
    assert (
        client.chat.completions.create(model="talk", messages=parts, **GREEDY).choices[0].message.content == expected
    )


def test_an_answer_ends_at_the_end_mark(client: openai.OpenAI) -> None:
    """The model has learned one answer."""
    answer = client.chat.completions.create(model="talk", messages=ASK, temperature=0, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("Good day.", "stop")
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert "".join(token.token for token in choice.logprobs.content) == "Good day.<|end|>"
    assert all(token.logprob == token.top_logprobs[0].logprob for token in choice.logprobs.content)


def test_turns_that_do_not_fit_are_left_out(client: openai.OpenAI) -> None:
    long: Any = [{"role": role, "content": "ello" * 5} for role in ("user", "assistant")] * 4 + ASK
    answer = client.chat.completions.create(model="talk", messages=long, **GREEDY)
    assert answer.to_dict()["pealm"] == {"dropped_turns": 8, "cut_tokens": 0}
    chunks = [*client.chat.completions.create(model="talk", messages=long, stream=True, **GREEDY)]
    assert ["pealm" in chunk.to_dict() for chunk in chunks] == [True] + [False] * (len(chunks) - 1)


def test_chat_needs_a_layout(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="was not trained on conversations"):
        client.chat.completions.create(model=CHAR, messages=ASK)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("max_tokens", {"max_tokens": 5000}, "max_tokens is not a whole number from 0 to 4,096"),
    ("max_tokens", {"max_tokens": True}, "not a whole number"),
    ("temperature", {"temperature": -1}, "temperature is not a number from 0 to 100"),
    ("temperature", {"temperature": 1e-9}, "too small"),
    ("n", {"n": 0}, "n is not a whole number from 1 to 128"),
    ("stop", {"stop": [""]}, "stop is not a text"),
    ("stop", {"stop": ["x"] * 17}, "at most 16"),
    ("stream", {"stream": 1}, "not true or false"),
    ("logprobs", {"logprobs": 21}, "from 0 to 20"),
    ("prompt", {"prompt": [1, 65]}, "token ids from 0 to 64"),
    ("prompt", {"prompt": ["a"] * 129}, "at most 128"),
    ("prompt", {"prompt": "a" * 129}, "129 tokens; the context of char-transformer is 128"),
    ("prompt", {"prompt": "a" * 10_000}, "many more tokens"),
    ("prompt", {"prompt": "\N{SNOWMAN}"}, "can't be encoded"),
    ("best_of", {"best_of": 3}, "not supported"),
    ("presence_penalty", {"presence_penalty": 0.5}, "not supported"),
    ("tools", {"tools": [{}]}, "not supported"),
    ("'max_token'", {"max_token": 3}, "is unknown"),
    ("model", {"model": 5}, "is not a text"),
    ("model", {"model": "x"}, "no model 'x'; known: char-transformer, gpt2-shakespeare, talk"),
]


@pytest.mark.parametrize(("param", "change", "message"), WRONG, ids=[f"{w[0]}-{i}" for i, w in enumerate(WRONG)])
def test_wrong_parameters_are_named(server: Any, param: str, change: dict[str, Any], message: str) -> None:
    answer = server.post("/v1/completions", {"prompt": "a", **change})
    error = answer.json()["error"]
    assert answer.status_code == (404 if change == {"model": "x"} else 400)
    assert error["param"] == param and message in error["message"] and error["type"].endswith("_error")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b"\xff", b"[" * 90_000]
)
def test_bodies_that_are_no_json_object(server: Any, body: bytes) -> None:
    assert server.error("/v1/completions", None, content=body)[0] == 400


def test_neutral_values_and_null_are_accepted(server: Any) -> None:
    body = {
        "prompt": "a",
        "max_tokens": 1,
        "user": "me",
        "logit_bias": {},
        "presence_penalty": 0,
        "stop": None,
        "seed": -1,
    }
    assert server.post("/v1/completions", body).status_code == 200


def test_llm_talks_with_it(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simon Willison's `llm`, configured as docs/serve.md says."""
    pytest.importorskip("llm")
    from click.testing import CliRunner

    names = [("shakespeare", BPE, "completion: true"), ("talker", "talk", "can_stream: true")]
    lines = [
        f"- model_id: {name}\n  model_name: {model}\n  api_base: {server.url}/v1\n  {kind}\n"
        for name, model, kind in names
    ]
    (tmp_path / "extra-openai-models.yaml").write_text("".join(lines))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    from llm.cli import cli

    wrote = CliRunner().invoke(
        cli, ["-m", "shakespeare", "ROMEO:", "-o", "temperature", "0", "-o", "max_tokens", "12"]
    )
    expected = server.post("/v1/completions", {"model": BPE, "prompt": "ROMEO:", **GREEDY}).json()["choices"][0]
    assert wrote.exit_code == 0 and wrote.output.strip() == expected["text"].strip()
    said = CliRunner().invoke(cli, ["-m", "talker", "Hello!", "-o", "temperature", "0"])
    assert (said.exit_code, said.output) == (0, "Good day.\n")


QUESTIONS = [
    {"question": "ROMEO", "choices": ["the king", "qqq", "xz zx"], "answer": 0},
    {"question": "JULIET", "choices": ["zzzz zzzz", "my lord", "o"], "answer": 1},
    {"question": "Who is it", "choices": ["a man of men", "I"], "answer": 0},
    {"question": "What", "choices": ["vvx", "the", "an"], "answer": 2},
]


@pytest.fixture
def harness(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """lm-evaluation-harness's model `local-completions`, which gets token ids from the server."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    pytest.importorskip("lm_eval", reason="lm-eval[api] is not installed")
    pytest.importorskip("aiohttp", reason="lm-eval[api] is not installed")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(base_url=f"{server.url}/v1/completions", model=CHAR, max_length=129)


def test_the_harness_gets_the_same_likelihoods(harness: Any, loaded: dict[str, Loaded]) -> None:
    from lm_eval.api.instance import Instance

    lm = loaded[CHAR].lm
    texts = [("ROMEO:", "\nO, she doth teach"), ("First", " Citizen:"), ("JULIE", "T"), ("the", " king" * 20)]
    asked = [Instance("loglikelihood", {}, arguments, 0) for arguments in texts]
    scores = score(lm.model, [(lm.encode(context), lm.encode(text)) for context, text in texts])
    values = harness.loglikelihood(asked, disable_tqdm=True)
    assert [value for value, _ in values] == pytest.approx([one.log_prob for one in scores], abs=1e-3)
    assert [greedy for _, greedy in values] == [one.greedy for one in scores]
    assert {greedy for _, greedy in values} == {True, False}


def test_a_task_of_the_harness_has_the_score_of_pealm_eval(
    harness: Any, pealm: Callable[..., Any], tmp_path: Path
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    task = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    none = TaskManager(include_defaults=False)  # reading thousands of files takes a minute
    peer = simple_evaluate(model=harness, tasks=[task], bootstrap_iters=0, task_manager=none)["results"]["local"]
    ours = pealm("eval", "--ckpt", WEIGHTS / CHAR, "--on", "multiple-choice", "--eval.file", file)
    assert ours.code == 0, ours.err
    for metric in ("acc", "acc_norm"):
        assert re.search(rf"\b{metric}\b\D+{peer[f'{metric},none']:.4f}", ours.out), (ours.out, peer)
