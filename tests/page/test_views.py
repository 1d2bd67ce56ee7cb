"""What the page's views get is what the model and the run's files say."""

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pealm_core
from pealm_core import LM, Sampling
from pealm_serve.runs import Lines, run_of, state_of, steps_of, thinned

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def lm(run: Path) -> LM:
    """The model that is served as `fox`."""
    return pealm_core.load(run, device="cpu")


def test_models_and_runs(ask: Ask, lm: LM) -> None:
    found = ask("view/models")
    fox, talk = found["models"]
    assert found["runs"] == ["fox", "talk"] == [fox["id"], talk["id"]]
    assert fox["steps"] == ["step-00000020", "step-00000040"] and not fox["chat"] and talk["chat"]
    assert fox["parameters"] == sum(p.numel() for p in lm.model.parameters()) and fox["layers"] == 2


def test_tokens_and_their_surprise(ask: Ask, lm: LM) -> None:
    tokens = ask("view/encode", model="fox", text="the fox")["tokens"]
    assert [token["id"] for token in tokens] == lm.encode("the fox")
    assert "".join(token["text"] for token in tokens) == "the fox"
    assert [token["logprob"] for token in tokens] == pytest.approx(lm.logprobs("the fox"), abs=1e-5)
    long = "the quick fox " * 20  # several windows
    logprobs = [token["logprob"] for token in ask("view/encode", model="fox", text=long)["tokens"]]
    assert logprobs == pytest.approx(lm.logprobs(long), abs=1e-4)
    (start,) = ask("view/encode", model="fox", text="")["tokens"]  # an empty prompt begins with the start token
    assert start["id"] == lm.encode("")[0] and start["logprob"] is None


def test_the_next_token_before_and_after_the_settings(ask: Ask, lm: LM) -> None:
    ids = lm.encode("the quick")
    with torch.inference_mode():
        logits = lm.model(torch.tensor([ids]))[0][0, -1]
    p = logits.softmax(-1)
    plain = ask("view/next", model="fox", ids=ids, sampling={})
    assert [row["p"] for row in plain["tokens"]] == pytest.approx(sorted(p.tolist(), reverse=True)[:20], abs=1e-5)
    assert all(row["q"] == pytest.approx(row["p"], abs=1e-6) for row in plain["tokens"])
    assert plain["bits"] == pytest.approx(float(torch.distributions.Categorical(p).entropy()) / math.log(2), abs=1e-4)
    three = ask("view/next", model="fox", ids=ids, sampling={"temperature": 0.5, "top_k": 3})
    expected = (logits / 0.5).topk(3).values.softmax(-1).tolist()
    assert [row["q"] for row in three["tokens"][:3]] == pytest.approx(expected, abs=1e-5) and three["kept"] == 3
    assert all(row["q"] == 0 for row in three["tokens"][3:])
    greedy = ask("view/next", model="fox", ids=ids, sampling={"temperature": 0})
    assert greedy["kept"] == 1 and greedy["tokens"][0]["q"] == 1
    rare = int(p.argmin())
    listed = ask("view/next", model="fox", ids=ids, sampling={}, token=rare)["tokens"]
    assert len(listed) == 21 and listed[-1]["id"] == rare and listed[-1]["rank"] == len(p)
    assert ask("view/next", model="fox", ids=[], sampling={})["vocabulary"] == lm.tokenizer.vocab_size


def test_writing_is_what_lm_generate_writes(ask: Ask, lm: LM) -> None:
    sampling = {"temperature": 0.8, "top_k": 10, "seed": 7}
    events = ask("view/write", model="fox", ids=lm.encode("the"), n=30, sampling=sampling)
    expected = lm.samples(["the"], Sampling(max_new_tokens=30, **sampling))[0]  # type: ignore[arg-type]
    assert [event["id"] for event in events] == expected.ids
    assert "".join(event["text"] for event in events) == expected.text
    assert [event["logprob"] for event in events] == pytest.approx(expected.logprobs, abs=1e-4)
    given = ask("view/write", model="fox", text="the", n=2, sampling={"seed": 7})
    assert [event.get("given", False) for event in given] == [True, True, True, False, False]


def test_a_step_of_the_run_writes_with_its_own_weights(ask: Ask, run: Path) -> None:
    lm = pealm_core.load(run / "checkpoints" / "step-00000020", device="cpu")
    events = ask("view/write", model="fox", step="step-00000020", text="the", n=20, sampling={"seed": 3})
    assert "".join(event["text"] for event in events) == lm.generate("the", max_new_tokens=20, seed=3)


def test_inside_is_the_trace(ask: Ask, lm: LM) -> None:
    text = "the quick brown"
    found, trace = ask("view/inside", model="fox", text=text), lm.trace(text)
    assert trace.attention is not None
    assert (found["layers"], found["heads"], found["cut"]) == (2, 2, 0)
    weights = torch.frombuffer(bytearray(base64.b64decode(found["attention"])), dtype=torch.uint8).float() / 255
    torch.testing.assert_close(weights.view(trace.attention.shape), trace.attention, atol=0.003, rtol=0)
    assert len(found["lens"]) == 3  # before the first layer, and after each
    for layer, rows in enumerate(found["lens"]):
        for row, best in zip(rows, trace.top(5, layer), strict=True):
            assert [p for _, p in row] == pytest.approx([p for _, p in best], abs=1e-4)
    long = ask("view/inside", model="fox", text="the fox " * 20)
    assert len(long["tokens"]) == 64 and long["cut"] == 96


def test_neighbours_have_the_largest_cosine(ask: Ask, lm: LM) -> None:
    rows = lm.model.tokens.weight.detach()  # type: ignore[union-attr, operator]
    cosine = torch.cosine_similarity(rows, rows[3:4]).tolist()  # type: ignore[index]
    cosine[3] = -2.0
    found = ask("view/neighbours", model="fox", token=3)["tokens"]
    assert [row["cosine"] for row in found] == pytest.approx(sorted(cosine, reverse=True)[:20], abs=1e-4)
    assert all(row["cosine"] == pytest.approx(cosine[row["id"]], abs=1e-4) for row in found)


def test_a_run_that_has_ended_is_sent_whole(ask: Ask, run: Path) -> None:
    events = ask("view/runs/fox")
    lines = [line for event in events for line in event.get("metrics", [])]
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("loss") for line in lines] == [line.get("loss") for line in written] and len(lines) == 41
    assert [line["val_loss"] for line in lines if "val_loss" in line] == [
        line["val_loss"] for line in written if "val_loss" in line
    ]
    (state,) = [event["state"] for event in events if "state" in event]
    assert state["status"] == "done"
    samples = [sample for event in events for sample in event.get("samples", [])]
    assert [sample["step"] for sample in samples] == [20, 40] and samples[0]["prompt"] == "the"


MISTAKES = {
    "model": ("encode", {"model": "cow", "text": "a"}, "model: fox, talk are served"),
    "half a character": ("encode", {"model": "fox", "text": "\ud83d"}, "surrogates not allowed"),
    "a book": ("encode", {"model": "fox", "text": "the " * 6000}, "24,000 characters are too many; at most 20,000"),
    "no text": ("inside", {"model": "fox", "text": 3}, "text: a string is needed"),
    "strange text": ("encode", {"model": "fox", "text": "€"}, "can't be encoded"),
    "ids": ("next", {"model": "fox", "ids": [0, 99]}, "ids: a list of numbers from 0 to"),
    "id is no number": ("next", {"model": "fox", "ids": [True]}, "ids: a list"),
    "token": ("next", {"model": "fox", "ids": [], "token": -1}, "ids: a list"),
    "temperature": (
        "next",
        {"model": "fox", "ids": [], "sampling": {"temperature": -1}},
        "temperature must be from 0",
    ),
    "top-k": ("write", {"model": "fox", "ids": [], "sampling": {"top_k": 1.5}}, "top_k must be from 1"),
    "nan": ("write", {"model": "fox", "ids": [], "sampling": {"top_p": math.nan}}, "NaN is not JSON"),
    "sampling": ("write", {"model": "fox", "ids": [], "sampling": [1]}, "sampling: an object is needed"),
    "n": ("write", {"model": "fox", "ids": [], "n": 10**9}, "n: a number from 1 to 1,000"),
    "step": ("write", {"model": "fox", "ids": [], "step": "../best"}, "fox has no checkpoint '../best'"),
    "step is no text": ("write", {"model": "fox", "ids": [], "step": [1]}, "step: "),
    "neighbour": ("neighbours", {"model": "fox"}, "ids: a list"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(ask: Ask, case: str) -> None:
    path, body, words = MISTAKES[case]
    code, message = ask(f"view/{path}", **body)
    assert code == 400 and words in message


def test_an_unknown_run(ask: Ask) -> None:
    assert ask("view/runs/cow") == (404, "no run 'cow'")


def test_lines_are_read_once_and_only_when_complete(tmp_path: Path) -> None:
    file, lines = tmp_path / "m.jsonl", Lines(tmp_path / "m.jsonl")
    assert lines.new() == []
    file.write_text('{"step": 1}\n{"st')
    assert lines.new() == [{"step": 1}]
    with file.open("a") as more:
        more.write('ep": 2}\nnot json\n[1]\n')
    assert lines.new() == [{"step": 2}] and lines.new() == [] and not lines.restarted
    file.write_text('{"step": 1}\n')  # a run that resumes from an earlier step cuts the file
    assert lines.new() == [{"step": 1}] and lines.restarted


def test_a_long_run_is_thinned_and_keeps_its_validations() -> None:
    lines = [{"step": step, **({"val_loss": 1.0} if step % 997 == 0 else {})} for step in range(100_000)]
    kept = thinned(lines)
    assert len(kept) < 1700 and sum("val_loss" in line for line in kept) == sum("val_loss" in line for line in lines)


def test_which_run_a_checkpoint_belongs_to(run: Path, tmp_path: Path) -> None:
    step = run / "checkpoints" / "step-00000020"
    assert run_of(run) == run_of(run / "best") == run_of(step) == run and run_of(tmp_path) is None
    assert [path.name for path in steps_of(run)] == ["step-00000020", "step-00000040"]
    assert state_of(tmp_path) == {"status": "unknown"}
    facts = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**facts, "status": "running", "pid": 2**22 + 1}))
    assert state_of(tmp_path)["status"] == "killed"  # no such process
