"""The settings of training and of sampling: flat tables, whose options have no dot."""

from dataclasses import dataclass
from typing import Literal

from pealm_core.contract.fields import setting

DEVICES = ("auto", "cpu", "cuda", "mps")
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Sizes are in sequences and tokens over all processes, unless they say otherwise."""

    steps: int | None = setting(1000, "optimizer steps", at_least=1, excludes="max_seconds")
    max_seconds: float | None = setting(
        None, "train for this time instead, evaluation and saving included", above=0, excludes="steps"
    )
    batch_size: int = setting(32, "sequences per optimizer step, over all processes", at_least=1)
    micro_batch_size: int | None = setting(
        None, "sequences per process and pass; the rest is accumulated (default: no accumulation)", at_least=1
    )
    block_size: int | None = setting(None, "tokens per sequence (default: the model's block size)", at_least=1)
    lr: float = setting(1e-3, "peak learning rate", above=0)
    warmup_steps: int = setting(100, "steps of linear warm-up", at_least=0)
    schedule: Literal["cosine", "wsd"] = setting(
        "cosine", "after the warm-up: a cosine, or stable and then a straight decay (wsd)"
    )
    decay_share: float = setting(0.6, "the share of the run in which wsd decays", above=0, at_most=1)
    min_lr_ratio: float = setting(0.1, "the rate ends at this share of its peak", at_least=0, at_most=1)
    grad_clip: float = setting(1.0, "largest norm of the gradient; 0 leaves it alone", at_least=0)
    eval_every: int = setting(250, "steps between validations; 0: only at the start and the end", at_least=0)
    eval_tokens: int = setting(200_000, "validation tokens at most, the same ones each time", at_least=1)
    save_every: int = setting(1000, "steps between checkpoints; 0: only at the end", at_least=0)
    keep: int = setting(3, "newest checkpoints to keep; 0: all", at_least=0)
    sample_every: int = setting(
        0, "steps between texts that the model as it is then writes to samples.jsonl; 0: none", at_least=0
    )
    sample_prompt: str = setting("", "what each of these texts goes on from")
    init: str | None = setting(
        None, "weights to start from: a pretrained model's name, a run or checkpoint, a file (.safetensors, .pt)"
    )
    seed: int = setting(1337, "seed of weights, data order and dropout", at_least=0, at_most=LARGEST_SEED)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "where to compute")
    dtype: Literal["auto", "fp32", "bf16"] = setting("auto", "precision of matrix products; auto: bf16 where fast")
    without: tuple[Literal["tf32", "compile", "flash", "prefetch", "onednn", "heap", "gc"], ...] = setting(
        (), "speed-ups to leave out: tf32, compile, flash, prefetch, onednn, heap, gc"
    )

    def __post_init__(self) -> None:
        if self.steps is None and self.max_seconds is None:
            raise ValueError("steps: none, and max_seconds is not set, so that training would never end; set one")


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. temperature 0 takes the most likely one."""

    max_new_tokens: int = setting(500, "tokens to write", at_least=0, short="n")
    temperature: float = setting(1.0, "below 1: safer, above: wilder, 0: always the likeliest", at_least=0)
    top_k: int | None = setting(None, "only the k likeliest tokens", at_least=1)
    top_p: float | None = setting(None, "only the likeliest tokens that make up this share", above=0, at_most=1)
    min_p: float | None = setting(None, "only tokens with this share of the likeliest one's", above=0, at_most=1)
    repetition_penalty: float = setting(1.0, "above 1: less of what the text already has (CTRL)", above=0)
    seed: int | None = setting(None, "the same seed gives the same text", at_least=0, at_most=LARGEST_SEED)
    num_samples: int = setting(1, "texts to write, in one batch", at_least=1)
    stop: tuple[str, ...] = setting((), "a text ends before the first of these", hidden=True)  # --stop, repeatable

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise ValueError("stop: an empty text would end every text before it begins; leave it out")


# What may differ when a run goes on: it does not change what is learned.
RESUMABLE = frozenset(
    {"steps", "max_seconds", "micro_batch_size", "save_every", "keep", "device", "without"}  # how
    | {"sample_every", "sample_prompt"}  # what is seen of it
)
