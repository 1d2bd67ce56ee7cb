"""Bits per byte against closed forms: a uniform model, a bigram counted by hand, every window and stride."""

import math
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from pealm_char.tokenizer import CharTokenizer
from pealm_char_transformer.config import TransformerConfig
from pealm_char_transformer.model import Transformer
from pealm_core import EvalResult, Segment, UserError, cover, ratio, score
from pealm_perplexity.config import PerplexityConfig
from pealm_perplexity.evaluator import Perplexity
from pealm_perplexity.text import Piece, cuts, read
from pealm_perplexity.windows import requests

TEXT = "the quick brown fox jumps over the lazy dog; ünïcödé häs möre bytes thän chäräcters.\n" * 9


class Texts:
    """A dataset of documents."""

    def __init__(self, train: list[str], val: list[str]) -> None:
        self.splits = {"train": train, "val": val}

    def documents(self, split: str) -> Iterator[str]:
        return iter(self.splits[split])

    def whole(self) -> Iterator[str]:
        return iter(["".join(self.splits["train"] + self.splits["val"])])


class Shards:
    """A dataset of token ids."""

    vocab_size = 257

    def __init__(self, *ids: list[int]) -> None:
        self.ids, self.checked = [np.array(part, dtype=np.uint16) for part in ids], 0

    def shards(self, split: str) -> list[Any]:
        assert split == "val"
        return self.ids

    def check(self, vocab_size: int) -> None:
        self.checked = vocab_size


class Bytes:
    """Bytes as tokens, and an end-of-text token."""

    vocab_size, eot_id = 257, 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode()


class Table(nn.Module):
    """A bigram with given logits."""

    def __init__(self, logits: torch.Tensor, block_size: int = 16) -> None:
        super().__init__()
        self.config = TransformerConfig(vocab_size=len(logits), block_size=block_size)
        self.table = nn.Parameter(logits)

    def forward(self, idx: torch.Tensor, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        assert idx.shape[1] <= self.config.block_size
        return self.table[idx if at is None else idx[:, at]], None


def evaluate(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    split: str = "val",
    progress: Callable[..., None] = lambda *told: None,
    **settings: Any,
) -> EvalResult:
    return Perplexity(PerplexityConfig(**settings)).evaluate(
        model, tokenizer, config={}, progress=progress, dataset=dataset, split=split
    )


def chars(*texts: str) -> CharTokenizer:
    tokenizer = CharTokenizer()
    tokenizer.fit(iter(texts))
    return tokenizer


def test_a_uniform_model_needs_log_v_for_each_token() -> None:
    tokenizer = chars(TEXT)
    v = tokenizer.vocab_size
    result = evaluate(Table(torch.zeros(v, v)), tokenizer, Texts([], [TEXT]))
    assert result.n == len(TEXT)
    assert result.metrics["loss"] == pytest.approx((math.log(v), 0.0), abs=1e-6)
    assert result.metrics["perplexity"][0] == pytest.approx(v, rel=1e-6)
    bits = math.log2(v) * len(TEXT) / len(TEXT.encode())
    assert result.metrics["bits_per_byte"][0] == pytest.approx(bits, rel=1e-6)
    assert result.notes == [f"{len(TEXT):,} tokens, {len(TEXT.encode()):,} bytes, 1 document (val)"]


@pytest.mark.parametrize("stride", [None, 1, 5, 16])
def test_a_bigram_s_value_is_the_one_by_counting(stride: int | None) -> None:
    """The text's own bigram: its cross-entropy is a sum over counted pairs, whatever the window."""
    start = "\n"  # what a text without an end-of-text token starts from
    pairs = Counter(pairwise(start + TEXT))
    firsts = Counter(a for a, _ in pairwise(start + TEXT))
    nats = -sum(n * math.log(n / firsts[a]) for (a, _), n in pairs.items())
    tokenizer = chars(TEXT)
    logits = torch.full((tokenizer.vocab_size,) * 2, -30.0)
    for (a, b), n in pairs.items():
        logits[tokenizer.encode(a)[0], tokenizer.encode(b)[0]] = math.log(n / firsts[a])
    result = evaluate(Table(logits), tokenizer, Texts([], [TEXT]), stride=stride)
    assert result.metrics["loss"][0] == pytest.approx(nats / len(TEXT), rel=1e-5)
    assert result.metrics["bits_per_byte"][0] == pytest.approx(nats / math.log(2) / len(TEXT.encode()), rel=1e-5)
    assert result.n == len(TEXT)


@pytest.mark.parametrize("texts", [[TEXT], [TEXT[:200], TEXT, TEXT[:1]], [TEXT[:20]]])  # the last: two windows
def test_the_errors_are_those_of_the_ratio_over_windows(texts: list[str]) -> None:
    torch.manual_seed(0)
    tokenizer = chars(TEXT)
    model = Table(torch.randn(tokenizer.vocab_size, tokenizer.vocab_size), 16)
    metrics = evaluate(model, tokenizer, Texts([], texts)).metrics
    nats, tokens = [], []
    for text in texts:
        for context, continuation in cover(tokenizer.encode("\n" + text), 16, 8):  # half a window on by default
            [result] = score(model, [(context, continuation)])
            nats.append(-result.log_prob)
            tokens.append(len(continuation))
    loss, error = ratio(nats, tokens)
    assert metrics["loss"] == (pytest.approx(loss, rel=1e-5), pytest.approx(error, rel=1e-4)) and error > 0.001
    assert metrics["perplexity"] == (pytest.approx(math.exp(loss), rel=1e-5), pytest.approx(math.exp(loss) * error))
    bits, error_of_bits = metrics["bits_per_byte"]
    assert error_of_bits == pytest.approx(bits * error / loss, rel=1e-4)
    assert evaluate(model, tokenizer, Texts([], [TEXT[:9]])).metrics["loss"][1] == 0  # one window
    assert evaluate(model, tokenizer, Texts([], [TEXT[:9]]), window=1).n == 9


def test_a_smaller_stride_gives_more_context_and_counts_the_same_bytes() -> None:
    torch.manual_seed(0)
    tokenizer = chars(TEXT)
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8)
    model = Transformer(config).eval()
    ids = [tokenizer.encode("\n")[0], *tokenizer.encode(TEXT)]
    with torch.no_grad():  # stride 1: each token after the 8 before it
        nats = 0.0
        for place in range(1, len(ids)):
            window = torch.tensor([ids[max(0, place - 8) : place]])
            nats -= float(model(window)[0][0, -1].log_softmax(-1)[ids[place]])
    result = evaluate(model, tokenizer, Texts([], [TEXT]), stride=1)
    assert result.metrics["loss"][0] == pytest.approx(nats / len(TEXT), rel=1e-5)
    assert evaluate(model, tokenizer, Texts([], [TEXT]), stride=8).n == result.n == len(TEXT)


def test_documents_start_anew_and_the_limit_takes_the_first() -> None:
    torch.manual_seed(0)
    model, data = Table(torch.randn(257, 257)), Texts(["ab"], ["cde", "", "fg", "h"])
    log_p = model.table.detach().log_softmax(-1)

    def nats(*texts: str) -> float:
        return -sum(float(log_p[a, b]) for text in texts for a, b in pairwise([256, *text.encode()]))

    for limit, texts in ((None, ["cde", "fg", "h"]), (3, ["cde", "fg", "h"]), (2, ["cde", "fg"]), (1, ["cde"])):
        result = evaluate(model, Bytes(), data, limit=limit)
        assert result.n == sum(map(len, texts))
        assert result.notes[0].endswith(f", {len(texts)} document{'s' * (len(texts) > 1)} (val)")
        assert result.metrics["loss"][0] == pytest.approx(nats(*texts) / result.n, rel=1e-5)
    whole = evaluate(model, Bytes(), data, "whole")
    assert whole.n == 8 and whole.metrics["loss"][0] == pytest.approx(nats("abcdefgh") / 8, rel=1e-5)


def test_the_limit_is_of_documents_with_something_to_score() -> None:
    unlearned, taken = [Segment("ab", learn=False)], list[str]()

    class Taken(Texts):
        def documents(self, split: str) -> Any:
            for document in super().documents(split):
                taken.append(str(document))
                yield document

    model = Table(torch.zeros(257, 257))
    data = Taken([], cast(Any, ["", unlearned, [Segment("c", learn=False), Segment("de")], "fgh", "i"]))
    result = evaluate(model, Bytes(), data, limit=1, details=True)
    assert result.n == 2 and len(taken) == 3  # no document is read for nothing
    assert [row["document"] for row in result.details] == [1]
    assert [row["document"] for row in evaluate(model, Bytes(), data, limit=2, details=True).details] == [1, 2]
    with pytest.raises(UserError, match="no text to score"):
        evaluate(model, Bytes(), Texts([], ["", ""]), limit=1)


def test_shards_are_cut_at_the_end_of_text_tokens() -> None:
    torch.manual_seed(0)
    model, shards = Table(torch.randn(257, 257)), Shards([256, 99, 100, 101, 256, 256, 102], [103, 256, 104])
    documents = read(cast(Any, shards), "val", Bytes())
    found = [(piece.ids.tolist(), piece.size) for document in documents for piece in document]
    assert found == [([99, 100, 101], 3), ([102], 1), ([103], 1), ([104], 1)]
    assert shards.checked == 257
    result = evaluate(model, Bytes(), shards)
    same = evaluate(model, Bytes(), Texts([], ["cde", "f", "g", "h"]))
    assert result.metrics == same.metrics


def test_the_progress_ends_with_the_loss() -> None:
    seen: list[Any] = []
    tokenizer = chars(TEXT)
    model = Table(torch.randn(tokenizer.vocab_size, tokenizer.vocab_size))
    result = evaluate(model, tokenizer, Texts([], [TEXT]), progress=lambda *told: seen.append(told))
    loss = f"loss {result.metrics['loss'][0]:.4f}"
    assert seen == [(len(TEXT), 10_000_000, loss), (len(TEXT), len(TEXT), loss)]


def test_what_can_t_be_evaluated() -> None:
    tokenizer = chars("abc")
    model = Table(torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size))
    with pytest.raises(UserError, match="document 2 of the val split: character 'x'"):
        evaluate(model, tokenizer, Texts([], ["abc", "xa"]))
    with pytest.raises(UserError, match="the val split has no text to score"):
        evaluate(model, tokenizer, Texts(["abc"], []))
    with pytest.raises(UserError, match=r"--eval\.stride 17 is more than the model's block of 16 tokens"):
        evaluate(model, tokenizer, Texts([], ["abc"]), stride=17)


def test_shakespeare_s_last_tenth(shakespeare: Path) -> None:
    """Real text: the counted bigram of the first 90 % on the rest."""
    text = shakespeare.read_text()
    train, val = text[:1_003_854], text[1_003_854:]
    tokenizer = chars(train)
    counts = torch.ones(tokenizer.vocab_size, tokenizer.vocab_size)
    seen = torch.tensor(tokenizer.encode(train))
    counts.index_put_((seen[:-1], seen[1:]), torch.ones(len(seen) - 1), accumulate=True)
    p = counts / counts.sum(-1, keepdim=True)
    after = ["\n", *val]
    nats = -sum(math.log(p[tokenizer.encode(a)[0], tokenizer.encode(b)[0]]) for a, b in pairwise(after[:2001]))
    result = evaluate(Table(p.log(), block_size=256), tokenizer, Texts([], [val[:2000]]))
    assert result.metrics["bits_per_byte"][0] == pytest.approx(nats / math.log(2) / 2000, rel=1e-5)


class Named(Bytes):
    """Bytes with one more token, by name."""

    vocab_size = 258

    def __init__(self) -> None:
        self.specials = {"<|bot|>": 257}


class Chat(Texts):
    """Each text is a question and, after a special token, an answer; only the answer is learned."""

    def documents(self, split: str) -> Iterator[Any]:
        for text in self.splits[split]:
            question, _, answer = text.partition("|")
            bot = Segment(special="<|bot|>", learn=False)
            yield [Segment(question, learn=False), bot, Segment(answer), Segment("!", learn=False)]


def test_special_tokens_have_no_bytes_and_a_sure_model_no_error() -> None:
    class Marks(Texts):
        def documents(self, split: str) -> Iterator[Any]:
            return iter([[Segment(special="<|bot|>")]] * 2)

    uniform = evaluate(Table(torch.zeros(258, 258)), Named(), Marks([], []))
    assert uniform.metrics["loss"] == (pytest.approx(math.log(258)), pytest.approx(0, abs=1e-6))
    assert uniform.metrics["bits_per_byte"] == (math.inf, 0.0)
    sure = evaluate(Table(torch.eye(257)[97].expand(257, -1) * 1e9), Bytes(), Texts([], ["aaa", "aa"]))
    assert sure.metrics["bits_per_byte"] == sure.metrics["loss"] == (0.0, 0.0)


@pytest.mark.parametrize("block", [4, 16, 64])
@pytest.mark.parametrize("stride", [1, None])
def test_only_what_is_learned_is_scored(block: int, stride: int | None) -> None:
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=258, block_size=block, n_layer=1, n_embd=16, n_head=2)
    model, texts = Transformer(config).eval(), ["what is it?|a cat", "and this?|näh", "|x"]
    options: Any = {"config": {}, "progress": lambda *_: None, "split": "val"}
    result = Perplexity(PerplexityConfig(stride=stride)).evaluate(model, Named(), dataset=Chat([], texts), **options)
    answers = [text.partition("|")[2].encode() for text in texts]
    assert result.n == sum(map(len, answers)) == 10
    ids = [[*text.partition("|")[0].encode(), 257, *text.partition("|")[2].encode(), *b"!"] for text in texts]
    masks = [[0] * (len(row) - 1 - len(a)) + [1] * len(a) + [0] for row, a in zip(ids, answers, strict=True)]

    class Masked(Shards):
        vocab_size = 258

        def masks(self, split: str) -> list[Any]:
            return [np.array(mask, np.uint8) for mask in masks]

    shards = Perplexity(PerplexityConfig(stride=stride)).evaluate(model, Named(), dataset=Masked(*ids), **options)
    assert shards.metrics == result.metrics and shards.n == result.n
    if block == 64:  # every answer has its whole context
        nats = 0.0
        for row, mask in zip(ids, masks, strict=True):
            logits, _ = model(torch.tensor([[256, *row[:-1]]]))
            logprobs = logits[0].detach().log_softmax(-1)[range(len(row)), row]
            nats -= float(logprobs[torch.tensor(mask, dtype=torch.bool)].sum())
        assert result.metrics["loss"][0] == pytest.approx(nats / 10, rel=1e-5)


@pytest.mark.parametrize(("block", "stride"), [(1, 1), (4, 2), (7, 7), (16, 5), (500, 250)])
def test_windows_over_pieces_are_those_over_the_whole(block: int, stride: int) -> None:
    ids = list(range(1, 301))
    sizes = [1, 2, 3, 94, 1, 7, 192]
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    parts = [Piece(np.array(ids[end - size : end]), size) for end, size in zip(ends, sizes, strict=True)]
    whole = [([*context], [*scored]) for context, scored in cover([0, *ids], block, stride)]
    assert [(a, b) for _, a, b in requests(((0, part) for part in parts), 0, block, stride)] == whole
    divided = [*requests(enumerate(parts), 0, block, stride)]
    assert [token for _, _, scored in divided for token in scored] == ids  # each once, after the same tokens
    for number, context, scored in divided:
        assert ends[number] - sizes[number] < scored[0] <= scored[-1] <= ends[number]
        place = next(i for i, (_, row) in enumerate(whole) if scored[0] in row)
        before, row = whole[place]
        assert context == [*before, *row[: row.index(scored[0])]]


def test_a_text_is_cut_only_where_its_tokens_stay_the_same() -> None:
    from pealm_bpe.config import BPEConfig
    from pealm_bpe.tokenizer import BPETokenizer

    tokenizer = BPETokenizer(BPEConfig(vocab_size=300))
    tokenizer.fit(iter([TEXT]))
    text = TEXT * 5 + "   \n\n  indented\tand so on " * 40 + "x" * 500
    ends = [*cuts(text, tokenizer, 100)]
    assert len(ends) > 30 and ends[-1] == len(text) and ends == sorted(set(ends))
    parts = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert [i for part in parts for i in tokenizer.encode(part)] == [*tokenizer.encode(text)]

    class First(Bytes):  # as sentencepiece: the beginning of a text has a token of its own
        def encode(self, text: str) -> list[int]:
            return [0, *text.encode()]

    assert [*cuts(text, First(), 100)] == [len(text)]
    assert [*cuts("", Bytes(), 100)] == [0]


def test_the_number_of_tokens_is_limited_from_the_start() -> None:
    torch.manual_seed(0)
    model, texts = Table(torch.randn(257, 257)), ["abcdef", "ghi", "jk"]
    first = evaluate(model, Bytes(), Texts([], texts), max_tokens=8)
    same = evaluate(model, Bytes(), Texts([], ["abcdef", "gh"]))
    assert first.n == 8 and first.metrics == same.metrics
    assert first.notes == [
        "8 tokens, 8 bytes, 2 documents (val)",
        "only the beginning of the text was scored; --eval.max-tokens none scores all of it",
    ]
    for limit in (9, 10, 11, None):
        result = evaluate(model, Bytes(), Texts([], texts), max_tokens=limit)
        assert (result.n, len(result.notes)) == (limit or 11, 2 if limit in (9, 10) else 1)
    shards = evaluate(model, Bytes(), Shards([256, *b"abcdef", 256, *b"ghi"]), max_tokens=8)
    assert shards.metrics == first.metrics
    chat = [("q|" + "abc"), "q|def"]
    limited = Perplexity(PerplexityConfig(max_tokens=5)).evaluate(
        Table(torch.randn(258, 258)),
        Named(),
        config={},
        progress=lambda *_: None,
        dataset=Chat([], chat),
        split="val",
    )
    assert limited.n == 5 and "5 bytes" in limited.notes[0]  # of the learned ones


def test_memory_does_not_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_perplexity.evaluator.AT_ONCE", 2**12)

    class Endless(Texts):
        read = 0

        def documents(self, split: str) -> Iterator[str]:
            for _ in range(40):
                self.read += 1
                yield TEXT

    tokenizer, dataset = chars(TEXT), Endless([], [])
    model, size = Table(torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size), 64), len(TEXT)

    def peak(tokens: int) -> int:
        tracemalloc.start()
        assert evaluate(model, tokenizer, dataset, max_tokens=tokens).n == tokens
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(3 * size), peak(30 * size)
    assert many < 2 * few
    assert dataset.read == 3 + 1 + 30 + 1  # one more each, to know that there is more


def test_a_smaller_window_is_a_model_with_a_shorter_context() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=257, block_size=16, n_layer=1, n_embd=16, n_head=2)
    model, texts = Transformer(config).eval(), Texts([], ["the quick brown fox jumps over the lazy dog"])
    full, narrow = (evaluate(model, Bytes(), texts, window=window, stride=1) for window in (16, 4))
    ids = [256, *b"the quick brown fox jumps over the lazy dog"]
    nats = 0.0
    for end in range(1, len(ids)):
        logits, _ = model(torch.tensor([ids[max(0, end - 4) : end]]))
        nats -= float(logits[0, -1].detach().log_softmax(-1)[ids[end]])
    assert narrow.metrics["loss"][0] == pytest.approx(nats / (len(ids) - 1), rel=1e-5) != full.metrics["loss"][0]
    with pytest.raises(UserError, match=r"--eval\.window 17 is more than the model's block of 16 tokens"):
        evaluate(model, Bytes(), texts, window=17)
    with pytest.raises(UserError, match=r"--eval\.stride 5 is more than the window of 4 tokens"):
        evaluate(model, Bytes(), texts, window=4, stride=5)


def test_the_passages_of_two_tokenizers_end_at_the_same_bytes() -> None:
    torch.manual_seed(0)
    text = TEXT * 12
    tokenizer = chars(text)
    model = Table(torch.randn(tokenizer.vocab_size, tokenizer.vocab_size))
    plain, result = (evaluate(model, tokenizer, Texts([], [text, "a fox"]), details=d) for d in (False, True))
    assert result.metrics["loss"][0] == pytest.approx(plain.metrics["loss"][0], rel=1e-6)
    other = evaluate(Table(torch.randn(257, 257)), Bytes(), Texts([], [text, "a fox"]), details=True)
    places = [[(row["document"], row["end"]) for row in r.details] for r in (result, other)]
    assert places[0] == places[1] == sorted(places[0]) and len(places[0]) > 2 and not plain.details
    assert places[0][-2:] == [(1, len(text.encode())), (2, len("a fox"))]
    for r in (result, other):
        for name in ("loss", "bits_per_byte"):
            parts, wholes = zip(*[row[name] for row in r.details], strict=True)
            assert sum(parts) / sum(wholes) == pytest.approx(r.metrics[name][0], rel=1e-6)
        assert sum(row["bits_per_byte"][1] for row in r.details) == len((text + "a fox").encode())


def test_the_beginning_of_a_piece_has_as_many_learned_tokens_as_asked() -> None:
    tokenizer, ids = chars("abé"), np.array([0, 1, 2, 0])
    assert [(one.ids.tolist(), one.size) for n in (0, 2, 4) for one in [Piece(ids, 5).first(n, tokenizer)]] == [
        ([], 0),
        ([0, 1], 2),
        ([0, 1, 2, 0], 5),
    ]
    first = Piece(ids, 3, np.array([True, False, True, False])).first(1, tokenizer)
    assert (first.ids.tolist(), first.size, first.scored) == ([0, 1], 1, 1)  # what is not learned has no bytes
