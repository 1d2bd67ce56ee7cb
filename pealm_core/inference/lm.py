"""A language model ready to use: `lm = pealm_core.load("runs/..."); print(lm.generate("ROMEO:"))`."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.adapters import fold_rows
from pealm_core.checkpoints.build_model import make_model, plan_of, with_adapter
from pealm_core.checkpoints.build_tokenizer import make_tokenizer, pretrained_vocabulary
from pealm_core.checkpoints.tensors import load_model
from pealm_core.config.settings import Sampling
from pealm_core.config.toml_layers import file_layer
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer
from pealm_core.data.chat import Message, chat_prompt
from pealm_core.hardware.device import fast_bf16, pick_device
from pealm_core.hardware.inference_weights import prepare
from pealm_core.inference.generate import Stopper, generate_steps, start_token, stream_decoder
from pealm_core.inference.scoring import cover
from pealm_core.inference.trace import Trace, trace

DTYPES = ("auto", "fp32", "tf32", "bf16")


@dataclass
class Sample:
    """A continuation of a prompt: its text, its tokens, and their log-probabilities (nats).

    The log-probabilities are the model's, before temperature, penalty, top-k, top-p and min-p. The tokens include
    those of a stop string; the text does not.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class LM:
    """A model with its tokenizer. config: the tables of its checkpoint's config; path: its folder, if there is one.

    Methods that generate take a Sampling, or its fields: `lm.generate("ROMEO:", temperature=0.8)`.
    """

    graphs = True  # on CUDA, where the model can

    def __init__(
        self, model: torch.nn.Module, tokenizer: Tokenizer, config: Mapping[str, Any], path: Path | None = None
    ) -> None:
        self.model, self.tokenizer, self.config, self.path = model.eval(), tokenizer, config, path
        self.eot_id: int | None = getattr(tokenizer, "eot_id", None)  # ends a text; not shown

    def encode(self, prompt: str) -> list[int]:
        """Encode a prompt, after the tokenizer's `bos_id`; an empty one becomes the start token. Raises UserError."""
        first = [start_token(self.tokenizer)] if getattr(self.tokenizer, "bos_id", None) is not None else []
        try:
            return [*first, *map(int, self.tokenizer.encode(prompt))] or [start_token(self.tokenizer)]
        except ValueError as error:
            raise UserError(f"the prompt can't be encoded: {error}") from error

    def stream(self, prompt: str = "", sampling: Sampling | None = None, **changes: Any) -> Iterator[str]:
        """Yield the continuation of a prompt in pieces of complete characters, without stop strings."""
        chosen = dataclasses.replace(sampling or Sampling(), num_samples=1, **changes)
        yield from (piece for _, piece in self.write([self.encode(prompt)], chosen, [Sample()]))

    def generate(self, prompt: str = "", sampling: Sampling | None = None, **changes: Any) -> str:
        """Return the prompt and its continuation."""
        return prompt + "".join(self.stream(prompt, sampling, **changes))

    def generate_batch(
        self, prompts: str | Sequence[str] = "", sampling: Sampling | None = None, **changes: Any
    ) -> list[str]:
        """Return num_samples texts for each prompt, next to each other, each beginning with its prompt."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        samples = self.samples(prompts, sampling, **changes)
        each = len(samples) // len(prompts) if prompts else 0
        return [prompts[i // each] + sample.text for i, sample in enumerate(samples)]

    def samples(
        self,
        prompts: Sequence[str],
        sampling: Sampling | None = None,
        *,
        drawn: Callable[[int], None] = lambda tokens: None,
        **changes: Any,
    ) -> list[Sample]:
        """Return num_samples continuations of each prompt, with tokens and log-probabilities.

        All are one batch. drawn: called with the number of tokens of each step.
        """
        chosen = dataclasses.replace(sampling or Sampling(), **changes)
        samples = [Sample() for _ in range(chosen.num_samples * len(prompts))]
        for _ in self.write([self.encode(prompt) for prompt in prompts], chosen, samples, drawn=drawn):
            pass
        return samples

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None, **changes: Any) -> str:
        """Return the assistant's answer to messages: `[{"role": "user", "content": "Hi!"}]`. Raises UserError."""
        return "".join(self.chat_stream(messages, sampling, **changes))

    def chat_stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        *,
        say: Callable[[str], None] = lambda line: None,
        **changes: Any,
    ) -> Iterator[str]:
        """Yield the answer in pieces of complete characters. It ends at the latest when the context is full.

        The messages get three quarters of the context at most. say: called with a line if they don't fit, so that the
        oldest turns are left out.
        """
        chosen = dataclasses.replace(sampling or Sampling(), num_samples=1, **changes)
        block: int = self.model.config.block_size  # type: ignore[assignment, union-attr]
        prompt = chat_prompt(self.tokenizer, messages, block - min(chosen.max_new_tokens, block // 4))
        if prompt.dropped:
            turns = f"the {prompt.dropped} oldest turns don't" if prompt.dropped > 1 else "the oldest turn doesn't"
            say(f"{turns} fit into the context of {block:,} tokens any more")
        if prompt.cut:
            say(f"the message is too long for the context: its first {prompt.cut:,} tokens are left out")
        chosen = dataclasses.replace(chosen, max_new_tokens=min(chosen.max_new_tokens, block + 1 - len(prompt.ids)))
        yield from (piece for _, piece in self.write([prompt.ids], chosen, [Sample()], ends=prompt.ends))

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        rows: Sequence[Sample],
        *,
        drawn: Callable[[int], None] = lambda tokens: None,
        ends: Collection[int | None] | None = None,
    ) -> Iterator[tuple[int, str]]:
        """Generate a batch into `rows`, one Sample per row; yield (row, piece of text).

        ends: the ids that end a text and are not shown; by default the end-of-text token.
        """
        ends = {self.eot_id} if ends is None else ends
        decoders = [stream_decoder(self.tokenizer) for _ in rows]
        stoppers = [Stopper(sampling.stop) for _ in rows]
        active = set(range(len(rows)))
        for ids, logits in generate_steps(self.model, prompts, sampling, graphs=self.graphs, active=active):
            logprobs = logits.float().log_softmax(-1).gather(1, ids[:, None])[:, 0].tolist()
            drawn(len(active))
            for row, token, logprob in zip(sorted(active), ids.tolist(), logprobs, strict=True):
                sample, piece = rows[row], ""
                if token not in ends:
                    sample.ids.append(token)
                    sample.logprobs.append(logprob)
                    piece = stoppers[row].feed(decoders[row](token))
                if token in ends or stoppers[row].done:
                    active.discard(row)
                sample.text += piece
                yield row, piece
        for row, stopper in enumerate(stoppers):
            if rest := stopper.flush():
                rows[row].text += rest
                yield row, rest

    @torch.inference_mode()
    def logprobs(self, text: str) -> list[float]:
        """Return the log-probability (nats) of each token of a text given the tokens before it, `start_token` first.

        A text longer than block_size is read in windows half a block apart.
        """
        device = next(self.model.parameters()).device
        ids = self.encode(text)
        if text and getattr(self.tokenizer, "bos_id", None) is None:
            ids.insert(0, start_token(self.tokenizer))
        logprobs: list[float] = []
        for context, continuation in cover(ids, self.model.config.block_size):  # type: ignore[arg-type, union-attr]
            idx = torch.tensor([[*context, *continuation[:-1]]], device=device)
            logits, _ = self.model(idx, at=slice(len(context) - 1, None))  # (1, n, V)
            targets = torch.tensor(continuation, device=device)[:, None]
            logprobs += logits[0].float().log_softmax(-1).gather(1, targets)[:, 0].tolist()
        return logprobs

    def trace(self, text: str | Sequence[int]) -> Trace:
        """Return what happens inside the model as it reads a text, or ids. Raises UserError beyond block_size."""
        return trace(self.model, self.encode(text) if isinstance(text, str) else text, self.tokenizer)


def load(
    path: str | Path | None,
    *,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    base: str | Path | None = None,
    job: Any = None,
    tokenizer_dir: Path | None = None,
) -> LM:
    """Load a model from a run (its best weights), a checkpoint folder or a file in one. Raises PealmError.

    device: "auto", "cpu", "cuda", "mps" or a torch.device. quantize: "int8" or "int4". dtype: "fp32", "tf32" (fp32
    with faster, less exact products on CUDA), "bf16" (the same mixed precision as in training) or "auto" (bf16 on a
    GPU that multiplies it fast; fp32 on a CPU, where bf16 gains little for one token at a time). base: where an
    adapter's base is, if not in the place that the checkpoint names. job: of a ComponentCommand; with it, path None
    is its model with published weights. tokenizer_dir: the saved tokenizer to use instead.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: unknown; use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    target = device if isinstance(device, torch.device) else pick_device(device)
    place, config, folder = None if base is None else Path(base), dict[str, Any](), None
    if path is None and job is None:
        raise UserError("nothing to load: give the path of a run or a checkpoint, or a job")
    if path is None:
        job = job if place is None else job.with_base(place)
        tokenizer = make_tokenizer(job, tokenizer_dir or pretrained_vocabulary(job))
        model, _ = make_model(job, tokenizer.vocab_size)
    else:
        folder = checkpoint.find(Path(path))
        job = job or plan_of(folder)
        checkpoint.verify(folder, checkpoint.MODEL, checkpoint.CONFIG, checkpoint.TOKENIZER)
        file = file_layer(folder / checkpoint.CONFIG)
        config, job = dict(file.tables), with_adapter(job, file, place)
        tokenizer = make_tokenizer(job, tokenizer_dir or folder / checkpoint.TOKENIZER)
        model, _ = make_model(job, tokenizer.vocab_size)
        load_model(model, folder / checkpoint.MODEL)
        fold_rows(model)
    if target.type == "cuda" and dtype in ("fp32", "tf32"):
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    low = dtype == "bf16" or (dtype == "auto" and target.type != "cpu" and fast_bf16(target))
    model = prepare(model.eval().to(target), quantize, torch.bfloat16 if low else torch.float32)
    return LM(model, tokenizer, config, folder)
