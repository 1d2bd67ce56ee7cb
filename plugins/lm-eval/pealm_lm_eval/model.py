"""A model of pealm as the harness uses it: log-likelihoods, rolling log-likelihoods, generated texts.

Texts become tokens as the harness's own `hf` model does it, so that the results on the same weights are equal.
"""

import dataclasses
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pealm_core import LM, Sample, Sampling, UserError, chat_prompt, load, score, start_token

ROWS = 2**15  # tokens of a batch of texts to generate, at most
MAX_GEN_TOKENS = 256  # where a task names no number, as in the harness
KNOWN = {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}  # of gen_kwargs

Progress = Callable[[int, int, str], None]


@register_model("pealm")
class PealmLM(TemplateLM):  # type: ignore[misc]
    """A run or checkpoint as a model of the harness: `--model pealm --model_args path=RUN`.

    path: as for `pealm_core.load`; or `lm`, a loaded model. device, dtype and quantize: as there; by default fp32.
    Without CUDA, its devices mean "auto", as for `hf`: the harness's command names cuda:0 if the user names none.
    batch_size is ignored: batches are made by their number of tokens.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        lm: LM | None = None,
        device: str | None = None,
        dtype: str = "fp32",
        quantize: str | None = None,
        progress: Progress = lambda done, total, text: None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        if lm is None and path is None:
            raise UserError("the model pealm needs a run or checkpoint: --model_args path=RUN")
        cuda = (device or "").startswith("cuda")
        place = ("cuda" if torch.cuda.is_available() else "auto") if cuda else device or "auto"
        self.lm = lm or load(str(path), device=place, dtype=dtype, quantize=quantize)
        self.progress, self.path = progress, path
        self._device = next(self.lm.model.parameters()).device
        own = self.lm.tokenizer
        names = {token: name for name, token in getattr(own, "specials", {}).items()}
        for token in (getattr(own, "eot_id", None), getattr(own, "bos_id", None)):
            if token is not None:
                names.setdefault(token, own.decode([token]) or "<|endoftext|>")
        self.names: dict[int, str] = names  # of special tokens
        self.chat = False  # whether prompts are in the chat template, with special tokens in them

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; without one what a text starts from."""
        return start_token(self.lm.tokenizer) if self.lm.eot_id is None else self.lm.eot_id

    @property
    def prefix_token_id(self) -> int:
        """The token that an empty context becomes."""
        return start_token(self.lm.tokenizer)

    @property
    def max_length(self) -> int:
        """The context length in tokens."""
        return int(self.lm.model.config.block_size)  # type: ignore[union-attr,arg-type]

    @property
    def max_gen_toks(self) -> int:
        """The number of tokens to generate where a task names none."""
        return MAX_GEN_TOKENS

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness's cache of requests: it changes with what texts become."""
        text = json.dumps([str(self.lm.config.get("tokenizer")), self.chat_template(), self.lm.tokenizer.vocab_size])
        return f"pealm-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text, after the tokenizer's `bos_id`; in a chat template, special tokens are read by name."""
        bos: int | None = getattr(self.lm.tokenizer, "bos_id", None)
        ids = self._with_specials(string) if self.chat else [*map(int, self.lm.tokenizer.encode(string))]
        if bos is None or add_special_tokens is False or (self.chat and ids[:1] == [bos]):
            return ids
        return [bos, *ids]

    def _with_specials(self, string: str) -> list[int]:
        known = {name: token for token, name in self.names.items()}
        parts = re.split(f"({'|'.join(map(re.escape, sorted(known, key=len, reverse=True))) or '(?!)'})", string)
        encoded = ([known[part]] if part in known else self.lm.tokenizer.encode(part) for part in parts if part)
        return [int(token) for ids in encoded for token in ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is what greedy decoding gives."""

        def each(index: int, result: Any) -> None:
            if requests[index][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[index][0], (result.log_prob, result.greedy))

        pairs = [(context, continuation) for _, context, continuation in requests]
        scores = score(self.lm.model, pairs, each=each, progress=lambda a, b: self.progress(a, b, "log-likelihoods"))
        return [(result.log_prob, result.greedy) for result in scores]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text, in windows as wide as the context."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            cut = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            for context, continuation in map(make_disjoint_window, cut):
                windows.append((None, context, continuation))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[number] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return a continuation of each context, up to the first of the task's stop strings.

        The processes of torchrun, of which each has all requests, divide them and exchange the texts.
        """
        same: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)  # by options and prompt
        for number, request in enumerate(requests):
            context, options = request.args
            room = self.max_length - normalize_gen_kwargs(options, MAX_GEN_TOKENS)["max_gen_toks"]
            if room < 1:
                raise UserError(
                    f"a task asks for {self.max_length - room} new tokens, and the model's context has "
                    f"{self.max_length}; lower it: --eval.gen-kwargs max_gen_toks={self.max_length // 2}"
                )
            ids = self.tok_encode(context)[-room:] or [self.prefix_token_id]
            same[json.dumps(options, sort_keys=True), tuple(ids)].append(number)
        groups: dict[tuple[str, int], list[list[int]]] = defaultdict(list)  # by options and number of equal requests
        prompts = {numbers[0]: ids for (_, ids), numbers in same.items()}
        for (options, _), numbers in sorted(same.items(), key=lambda item: len(item[0][1])):
            groups[options, len(numbers)].append(numbers)  # those are samples of one prompt, or they would be equal
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        texts = dict[int, str]()
        done = 0
        for (options, samples), every in groups.items():
            members = every[rank::processes]
            sampling, stops = self._sampling(json.loads(options))
            sampling = dataclasses.replace(sampling, num_samples=samples)
            while members:
                size = max(1, ROWS // samples // (len(prompts[members[-1][0]]) + sampling.max_new_tokens))
                part, members = members[-size:], members[:-size]  # longest first
                rows = [Sample() for _ in range(len(part) * samples)]
                batch = [prompts[numbers[0]] for numbers in part]
                for _ in self.lm.write(batch, sampling, rows, ends=self._ends()):
                    pass
                for number, row in zip((number for numbers in part for number in numbers), rows, strict=True):
                    text = self.lm.tokenizer.decode([token for token in row.ids if token not in self.names])
                    texts[number] = postprocess_generated_text(text, stops, None)
                    self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                done += len(rows)
                self.progress(min(len(requests), done * processes), len(requests), "texts")
        if processes > 1:
            parts: list[dict[int, str]] = [{}] * processes
            dist.all_gather_object(parts, texts)
            texts = {number: text for part in parts for number, text in part.items()}
        return [texts[number] for number in range(len(requests))]

    def _sampling(self, options: Mapping[str, Any]) -> tuple[Sampling, list[str]]:
        """Return the options of a task as ours, and its stop strings. Raises UserError for unknown options."""
        values = dict(normalize_gen_kwargs(dict(options), MAX_GEN_TOKENS))
        until, length = values.pop("until", None) or [], values.pop("max_gen_toks")
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        sample = values.pop("do_sample")
        if unknown := sorted(values.keys() - KNOWN):
            raise UserError(f"a task generates with {', '.join(unknown)}, which pealm does not have")
        temperature = float(values.pop("temperature", 1.0) or 0.0) if sample else 0.0
        values = {key: value for key, value in values.items() if sample or key == "repetition_penalty"}
        return Sampling(max_new_tokens=length, temperature=temperature, stop=tuple(stops), seed=1234, **values), stops

    def _ends(self) -> set[int]:
        """Return the tokens at which a text ends: end-of-text, and in a chat the end of a turn."""
        ends = {self.eot_token_id} if self.lm.eot_id is not None else set()
        if self.chat:
            ends |= chat_prompt(self.lm.tokenizer, [{"role": "user", "content": "?"}]).ends
        return ends

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return what conversations are laid out by: the tokenizer's template, or pealm's own layout as JSON."""
        if isinstance(chat_template, str):
            raise UserError("pealm has one chat template for a model, not one by name")
        self.chat = self.chat or chat_template
        own = getattr(self.lm.tokenizer, "chat", None)
        return json.dumps(own) if own else getattr(self.lm.tokenizer, "chat_template", None) or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return messages as text with the names of special tokens; the last one may be the start of an answer."""
        self.chat = True
        history = chat_history if add_generation_prompt else chat_history[:-1]
        try:
            ids = chat_prompt(self.lm.tokenizer, history).ids
        except UserError:
            rest = [message for message in history if message["role"] != "system"]
            if rest == history:
                raise
            ids = chat_prompt(self.lm.tokenizer, rest).ids
        return self._text(ids) + ("" if add_generation_prompt else chat_history[-1]["content"])

    def _text(self, ids: Sequence[int]) -> str:
        parts, run = list[str](), list[int]()
        for token in [*ids, None]:
            if token is None or token in self.names:
                parts.append(self.lm.tokenizer.decode(run) if run else "")
                parts.append("" if token is None else self.names[token])
                run = []
            else:
                run.append(token)
        return "".join(parts)

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness records of a model."""
        parameters = sum(p.numel() for p in self.lm.model.parameters())
        return {
            "model_num_parameters": parameters,
            "model_dtype": str(_dtype(self.lm.model)),
            "model_path": self.path,
        }


def _dtype(model: torch.nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype
