"""A language model ready to use: `lm = pealm_core.load("runs/..."); print(lm.generate("ROMEO:"))`."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pealm_core import checkpoint
from pealm_core.build import make_model, make_tokenizer
from pealm_core.device import pick_device
from pealm_core.errors import UserError
from pealm_core.generate import generate_ids, start_token, stream_decoder
from pealm_core.job import Job, Request, file_layer, host_for, plan
from pealm_core.protocols import Tokenizer
from pealm_core.settings import Sampling


class LM:
    """A model with its tokenizer. config: the tables of the checkpoint that it came from."""

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
        """The continuation of a prompt, piece by piece, never half a character. changes: fields of Sampling."""
        decode = stream_decoder(self.tokenizer)
        chosen = dataclasses.replace(sampling or Sampling(), num_samples=1, **changes)
        for ids in self.tokens(prompt, chosen):
            if int(ids[0]) == self.eot_id:
                return
            yield decode(int(ids[0]))

    def generate(self, prompt: str = "", sampling: Sampling | None = None, **changes: Any) -> str:
        """The prompt and its continuation."""
        return prompt + "".join(self.stream(prompt, sampling, **changes))

    def generate_batch(self, prompt: str = "", sampling: Sampling | None = None, **changes: Any) -> list[str]:
        """num_samples continuations of a prompt, drawn in one batch."""
        chosen = dataclasses.replace(sampling or Sampling(), **changes)
        drawn = list(self.tokens(prompt, chosen))
        rows = torch.stack(drawn, dim=1).tolist() if drawn else [[] for _ in range(chosen.num_samples)]
        ends = [row.index(self.eot_id) if self.eot_id in row else len(row) for row in rows]
        return [prompt + self.tokenizer.decode(row[:end]) for row, end in zip(rows, ends, strict=True)]


def open_job(job: Job, ckpt: str | Path | None, *, device: str = "auto", tokenizer_dir: Path | None = None) -> LM:
    """The model of a checkpoint, or without one the model that its record fetches. Raises PealmError."""
    target = pick_device(device)
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
    return LM(model.to(target), tokenizer, config)


def load(path: str | Path, *, device: str = "auto") -> LM:
    """The model of a checkpoint: a run (its best), a checkpoint folder or a file in one. Raises PealmError."""
    file = file_layer(checkpoint.find(Path(path)) / checkpoint.CONFIG)
    return open_job(plan(host_for(file), Request(file=file), {}, ("model", "tokenizer")), path, device=device)
