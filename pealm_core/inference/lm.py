"""A language model ready to use: `lm = pealm_core.load("runs/..."); print(lm.generate("ROMEO:"))`."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make_model, make_tokenizer, plan_of
from pealm_core.config.job import Job
from pealm_core.config.layers import file_layer
from pealm_core.config.settings import Sampling
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Tokenizer
from pealm_core.hardware.device import pick_device, pick_dtype
from pealm_core.hardware.inference_weights import prepare
from pealm_core.inference.generate import Stopper, generate_ids, generate_steps, start_token, stream_decoder
from pealm_core.inference.scoring import cover


@dataclass
class Sample:
    """What a model wrote after a prompt: its text, and the tokens drawn with the model's log-probabilities (nats).

    The log-probabilities are those of the model itself, whatever temperature, penalty or cuts the draw used. The
    tokens go on to the end of a stop string, which is not in the text.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class LM:
    """A model with its tokenizer. config: the tables of the checkpoint that it came from.

    The methods that write take an instance of Sampling, or its fields: `lm.generate("ROMEO:", temperature=0.8)`.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        self.eot_id: int | None = getattr(tokenizer, "eot_id", None)  # ends a text, and is not shown

    def encode(self, prompt: str) -> list[int]:
        """A prompt's ids; for an empty one the token that texts start from. Raises UserError."""
        try:
            return [int(i) for i in self.tokenizer.encode(prompt)] or [start_token(self.tokenizer)]
        except ValueError as error:
            raise UserError(f"--prompt: {error}") from error

    def tokens(self, prompt: str, sampling: Sampling) -> Iterator[Tensor]:
        """Token ids as they are drawn, (num_samples,) at a time."""
        return generate_ids(self.model, self.encode(prompt), sampling)

    def stream(self, prompt: str = "", sampling: Sampling | None = None, **changes: Any) -> Iterator[str]:
        """The continuation of a prompt, piece by piece, never half a character nor a part of a stop string."""
        chosen = dataclasses.replace(sampling or Sampling(), num_samples=1, **changes)
        for _, piece in self.write([self.encode(prompt)], chosen, [Sample()]):
            yield piece

    def generate(self, prompt: str = "", sampling: Sampling | None = None, **changes: Any) -> str:
        """The prompt and its continuation."""
        return prompt + "".join(self.stream(prompt, sampling, **changes))

    def generate_batch(
        self, prompts: str | Sequence[str] = "", sampling: Sampling | None = None, **changes: Any
    ) -> list[str]:
        """num_samples texts for each prompt, a prompt's side by side, each with its prompt."""
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
        """num_samples continuations of each prompt, with tokens and log-probabilities.

        Prompts of as many tokens share a batch. drawn: called with the number of tokens that each step gave.
        """
        chosen = dataclasses.replace(sampling or Sampling(), **changes)
        ids = [self.encode(prompt) for prompt in prompts]
        samples = [[Sample() for _ in range(chosen.num_samples)] for _ in prompts]
        for length in sorted({len(prompt) for prompt in ids}):
            group = [number for number, prompt in enumerate(ids) if len(prompt) == length]
            rows = [sample for number in group for sample in samples[number]]
            for _ in self.write([ids[number] for number in group], chosen, rows, drawn=drawn):
                pass
        return [sample for of_prompt in samples for sample in of_prompt]

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        rows: Sequence[Sample],
        *,
        drawn: Callable[[int], None] = lambda tokens: None,
    ) -> Iterator[tuple[int, str]]:
        """Fill a sample for each row of a batch; yields (row, piece of text) as it comes. prompts: of one length."""
        decoders = [stream_decoder(self.tokenizer) for _ in rows]
        stoppers = [Stopper(sampling.stop) for _ in rows]
        going = set(range(len(rows)))
        for ids, logits in generate_steps(self.model, prompts, sampling):
            logprobs = logits.float().log_softmax(-1).gather(1, ids[:, None])[:, 0].tolist()
            drawn(len(going))
            for row, token in enumerate(ids.tolist()):
                if row not in going:
                    continue
                sample, piece = rows[row], ""
                if token == self.eot_id:
                    going.discard(row)
                else:
                    sample.ids.append(token)
                    sample.logprobs.append(logprobs[row])
                    piece = stoppers[row].feed(decoders[row](token))
                    if stoppers[row].done:
                        going.discard(row)
                sample.text += piece
                yield row, piece
            if not going:
                break
        for row, stopper in enumerate(stoppers):
            if rest := stopper.flush():
                rows[row].text += rest
                yield row, rest

    @torch.inference_mode()
    def logprobs(self, text: str) -> list[float]:
        """The log-probability (nats) of each token of a text after those before it; the first after `start_token`.

        A text longer than block_size is read in windows that move on by half a block.
        """
        device = next(self.model.parameters()).device
        ids = [start_token(self.tokenizer), *(self.encode(text) if text else [])]
        found: list[float] = []
        for context, continuation in cover(ids, self.model.config.block_size):  # type: ignore[arg-type, union-attr]
            idx = torch.tensor([[*context, *continuation[:-1]]], device=device)
            logits, _ = self.model(idx, at=slice(len(context) - 1, None))  # (1, n, V)
            targets = torch.tensor(continuation, device=device)[:, None]
            found += logits[0].float().log_softmax(-1).gather(1, targets)[:, 0].tolist()
        return found


def open_job(
    job: Job,
    ckpt: str | Path | None,
    *,
    device: str | torch.device = "auto",
    dtype: str = "fp32",
    quantize: str | None = None,
    tokenizer_dir: Path | None = None,
) -> LM:
    """The model of a checkpoint, or without one the model that its record fetches. Raises PealmError.

    device: its name, or the one that was picked. dtype: of weights and cache: "fp32", "bf16" or "auto" (bf16 on a GPU
    that multiplies it fast: on a CPU it gains little for one token at a time, and fp32 gives the same text and scores
    on every one). quantize: "int8".
    """
    if quantize not in (None, "int8"):
        raise UserError(f"--quantize {quantize}: unknown; int8 is what there is")
    if dtype not in ("auto", "fp32", "bf16"):
        raise UserError(f"--dtype {dtype}: unknown; give auto, fp32 or bf16")
    target = device if isinstance(device, torch.device) else pick_device(device)
    config: Mapping[str, Any] = {}
    if ckpt is None:
        tokenizer = make_tokenizer(job, tokenizer_dir)
        model, _ = make_model(job, tokenizer.vocab_size)
    else:
        folder = checkpoint.find(Path(ckpt))
        checkpoint.verify(folder)
        config = file_layer(folder / checkpoint.CONFIG).tables
        tokenizer = make_tokenizer(job, tokenizer_dir or folder / checkpoint.TOKENIZER)
        model, _ = make_model(job, tokenizer.vocab_size)
        checkpoint.load_model(model, folder)
    if dtype == "auto" and target.type == "cpu":
        dtype = "fp32"
    model = model.eval().to(target, pick_dtype(dtype, target))
    return LM(prepare(model, quantize), tokenizer, config)


def load(path: str | Path, *, device: str = "auto", dtype: str = "auto", quantize: str | None = None) -> LM:
    """The model of a checkpoint: a run (its best), a checkpoint folder or a file in one. Raises PealmError.

    device: "auto", "cpu", "cuda" or "mps"; dtype and quantize: as `open_job` has them.
    """
    return open_job(plan_of(Path(path)), path, device=device, dtype=dtype, quantize=quantize)
