"""The Python API and `pealm sample`: the same greedy text whichever way it is asked for."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pealm_core
from pealm_core.config.resolve_job import plan
from pealm_core.config.settings import Sampling
from pealm_core.config.toml_layers import file_layer
from pealm_core.contract.errors import UserError
from pealm_core.hardware.inference_weights import prepare
from pealm_core.inference.generate import generate_ids
from pealm_core.inference.lm import LM

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "hardware"))
from fakes import Chars, Table
from test_inference_weights import FAMILIES, family

Pealm = Callable[..., Any]
BLOCK = 16  # of `family`


class Letters(Chars):
    """Two letters a token: 515 tokens, those beyond the alphabet's pairs as "?"."""

    vocab_size = 515

    def encode(self, text: str) -> list[int]:
        if len(text) % 2:
            raise ValueError("an odd number of letters")
        return [26 * (ord(a) - 97) + ord(b) - 97 for a, b in zip(text[::2], text[1::2], strict=True)]

    def decode(self, ids: Any) -> str:
        return "".join(chr(97 + i // 26) + chr(97 + i % 26) for i in ids)


def successor(block_size: int = 4) -> LM:
    """A model that counts: a, b, c, d, e, f, g, a, ..."""
    logits = torch.full((7, 7), -50.0)
    for i in range(7):
        logits[i, (i + 1) % 7] = 50.0
    return LM(Table(logits, block_size), Chars(), {})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 5])
def test_greedy_text_is_one_and_the_same(name: str, length: int) -> None:
    lm = LM(family(name), Letters(), {})
    letters = torch.randint(19, (3, length), generator=torch.Generator().manual_seed(length)).tolist()
    prompts = [lm.tokenizer.decode([26 * i + 3 for i in row]) for row in letters]
    sampling = Sampling(max_new_tokens=2 * BLOCK + 3, temperature=0)
    plain = [
        prompt
        + lm.tokenizer.decode([int(i) for i in generate_ids(lm.model, lm.encode(prompt), sampling, use_cache=False)])
        for prompt in prompts
    ]
    assert [lm.generate(prompt, sampling) for prompt in prompts] == plain  # with a cache
    assert [prompt + "".join(lm.stream(prompt, sampling)) for prompt in prompts] == plain
    assert lm.generate_batch(prompts, sampling) == plain
    assert lm.generate_batch(prompts[0], sampling, num_samples=4) == plain[:1] * 4
    assert lm.generate_batch([*prompts, "abcdef"], sampling)[:3] == plain  # prompts of different lengths
    fast = LM(prepare(lm.model), lm.tokenizer, {})
    assert fast.generate_batch(prompts, sampling) == plain


@pytest.mark.slow
def test_ten_thousand_tokens_cost_the_same_each() -> None:
    lm, costs = LM(family("char-transformer", 32), Letters(), {}), []

    def count(module: Any, args: Any, result: Any) -> None:
        costs.append(args[0].numel())

    lm.model.register_forward_hook(count)
    text = lm.generate("", max_new_tokens=10_000, temperature=0)
    assert len(text) == 20_000 and len(costs) == 10_000  # one pass a token
    restarts = [cost for cost in costs[1:] if cost > 1]
    # A window that is full starts again from its last half: half a block for every half block written.
    assert set(restarts) == {BLOCK // 2} and len(restarts) <= 10_000 / (BLOCK // 2)


def test_a_stop_string_ends_a_text_and_is_not_shown() -> None:
    lm = successor()
    assert lm.generate("ab", temperature=0, stop=("fg",)) == "abcde"
    assert "".join(lm.stream("ab", temperature=0, stop=("fg",))) == "cde"
    assert lm.generate_batch(["ab", "ef"], temperature=0, stop=("fg",), max_new_tokens=5) == ["abcde", "efgabcd"]
    sample = lm.samples(["ab"], temperature=0, stop=("fg",))[0]
    assert sample.text == "cde" and sample.ids == [2, 3, 4, 5, 6]
    assert lm.generate("ab", temperature=0, stop=("fx",), max_new_tokens=4) == "abcdef"
    with pytest.raises(ValueError, match="stop: an empty text"):
        lm.generate("ab", stop=("",))


def test_a_text_ends_at_end_of_text_while_others_go_on() -> None:
    lm = successor()
    steps: list[int] = []
    lm.eot_id = 6
    samples = lm.samples(["de", "ab"], temperature=0, max_new_tokens=20, drawn=steps.append)
    assert [sample.text for sample in samples] == ["f", "cdef"]
    assert steps == [2, 2, 1, 1, 1]


def test_log_probabilities_are_the_models_own() -> None:
    p = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.015625])
    tokenizer = Chars()
    tokenizer.__dict__["eot_id"] = 6
    lm = LM(Table(p.log().expand(7, 7).clone(), block_size=3), tokenizer, {})
    assert lm.logprobs("abcab") == pytest.approx([math.log(x) for x in (0.5, 0.25, 0.125, 0.5, 0.25)])
    assert lm.logprobs("") == []
    sample = lm.samples(["a"], temperature=0, max_new_tokens=2)[0]
    assert sample.ids == [0, 0] and sample.logprobs == pytest.approx([math.log(0.5)] * 2)


def test_log_probabilities_of_a_text_beyond_the_block() -> None:
    lm = LM(family("gpt2"), Letters(), {})
    ids = torch.randint(26 * 19, (2 * BLOCK + 3,), generator=torch.Generator().manual_seed(0)).tolist()
    found = lm.logprobs(lm.tokenizer.decode(ids))
    assert len(found) == len(ids)
    with torch.inference_mode():
        logits = lm.model(torch.tensor([[0, *ids[: BLOCK - 1]]]))[0][0]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(ids[:BLOCK])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(found[:BLOCK]), expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained bigram, which has no cache."""
    folder = tmp_path_factory.mktemp("ckpt")
    (folder / "text.txt").write_text("hello world\n" * 300)
    args = ["train", "char-bigram", "--input.text", str(folder / "text.txt"), "--steps", "30"]
    subprocess.run(
        [sys.executable, "-m", "pealm", *args, "--out", str(folder / "run")], check=True, capture_output=True
    )
    return folder / "run"


def test_json(pealm: Pealm, ckpt: Path) -> None:
    args = ("sample", "--ckpt", ckpt, "--prompt", "hel", "-n", 7, "--num-samples", 2, "--seed", 1)
    result = pealm(*args, "--json")
    found = json.loads(result.out)
    assert found["prompt"] == "hel" and len(found["samples"]) == 2
    lm = pealm_core.load(ckpt)
    for sample in found["samples"]:
        assert sample["text"] == lm.tokenizer.decode(sample["ids"]) and len(sample["ids"]) == 7
        assert sample["logprobs"] == pytest.approx(lm.logprobs("hel" + sample["text"])[3:], abs=1e-4)
    assert (
        found["timings"]["tokens"] == 14
        and 0 < found["timings"]["first_token_seconds"] <= found["timings"]["seconds"]
    )
    shown = pealm(*args).out
    assert all(f"--- {i} ---\nhel{sample['text']}\n" in shown for i, sample in enumerate(found["samples"], 1))


def test_a_prompt_from_a_file_or_standard_input(pealm: Pealm, ckpt: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("lo\nhel")
    args = ("sample", "--ckpt", ckpt, "-n", 6, "--temperature", 0)
    expected = pealm(*args, "--prompt", "lo\nhel").out
    assert pealm(*args, "--prompt-file", tmp_path / "p.txt").out == expected
    command = [sys.executable, "-m", "pealm", *map(str, args), "--prompt-file=-"]
    done = subprocess.run(command, input=b"lo\nhel", capture_output=True, check=True)
    assert done.stdout.decode() == expected


def test_stop_and_stats(pealm: Pealm, ckpt: Path) -> None:
    args = ("sample", "--ckpt", ckpt, "--prompt", "hel", "--seed", 3, "-n", 200)
    whole = pealm(*args).out
    stopped = pealm(*args, "--stop", "\n", "--stop", "zzz", "--stats")
    assert stopped.out == whole.partition("\n")[0] + "\n"
    assert pealm(*args, "--stop", "\n", "--no-stream").out == stopped.out
    assert "first token after" in stopped.err and "% of the measured" in stopped.err
    assert f"{len(stopped.out) - 3} tokens" in stopped.err  # those written, the newline among them


MISTAKES = {
    "two prompts": (("--prompt", "a", "--prompt-file", "b"), "--prompt and --prompt-file: give one of them"),
    "no prompt file": (("--prompt-file", "none.txt"), "--prompt-file none.txt: can't be read"),
    "empty stop": (("--stop", ""), "--stop: an empty text would end every text before it starts"),
    "min-p": (("--min-p", "1.5"), "--min-p must be at most 1, not 1.5"),
    "penalty": (("--repetition-penalty", "0"), "--repetition-penalty must be at least 0.01, not 0"),
    "quantize": (("--quantize", "int3"), "int3"),
    "dtype": (("--dtype", "fp8"), "fp8"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case: str, pealm: Pealm, ckpt: Path) -> None:
    args, words = MISTAKES[case]
    result = pealm("sample", "--ckpt", ckpt, *args)
    assert result.code == 2 and words in result.err and not result.out


def test_mistakes_in_python(ckpt: Path) -> None:
    with pytest.raises(UserError, match="--quantize int3: unknown"):
        pealm_core.load(ckpt, quantize="int3")
    with pytest.raises(UserError, match="--dtype fp8: unknown"):
        pealm_core.load(ckpt, dtype="fp8")


def test_every_way_to_load(ckpt: Path) -> None:
    exact = pealm_core.load(ckpt, device="cpu").logprobs("hello world")
    cases = (("bf16", None), ("fp32", "int8"), ("bf16", "int8"), ("auto", None), ("tf32", None))
    for dtype, quantize in cases:
        lm = pealm_core.load(ckpt, device="cpu", dtype=dtype, quantize=quantize)
        assert lm.logprobs("hello world") == pytest.approx(exact, abs=0.1)
        assert lm.generate("hel", max_new_tokens=3).startswith("hel")


def test_every_process_evaluates_on_the_device_that_was_picked_for_it(
    pealm: Pealm, ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.device] = []
    picked, text = torch.device("meta"), tmp_path / "text"
    text.write_text("hello world")
    monkeypatch.setattr("pealm_core.hardware.distributed.pick_device", lambda name: picked)

    def look(folder: object, *, device: torch.device, **how: object) -> None:
        seen.append(device)
        raise UserError("seen")

    monkeypatch.setattr("pealm_evals.evaluation.load", look)
    assert "seen" in pealm("eval", "--ckpt", ckpt, "--on", "perplexity", "--input.text", text).err
    assert seen == [picked]


def test_a_device_may_be_picked_beforehand(ckpt: Path) -> None:
    file = file_layer(ckpt / "config.toml")
    job = plan(("model", "tokenizer"), file=file)
    assert next(pealm_core.load(ckpt, job=job, device=torch.device("meta")).model.parameters()).is_meta
