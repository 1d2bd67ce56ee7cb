"""The settings of training and of sampling: flat tables, whose options have no dot."""

from dataclasses import dataclass
from typing import Literal, get_args

from pealm_core.contract.fields import setting

DEVICES = ("auto", "cpu", "cuda", "mps")
Optimization = Literal["tf32", "compile", "flash", "prefetch", "onednn", "heap", "gc"]


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Batches and lengths are counted across all processes, unless their help says otherwise."""

    steps: int | None = setting(1000, "optimizer steps", at_least=1, excludes=("max_seconds", "epochs"))
    max_seconds: float | None = setting(
        None,
        "seconds to train, instead of steps; includes evaluation and saving",
        above=0,
        excludes=("steps", "epochs"),
    )
    epochs: float | None = setting(
        None, "passes over the training data, instead of steps", above=0, excludes=("steps", "max_seconds")
    )
    batch_size: int = setting(32, "sequences per optimizer step, across all processes", at_least=1)
    micro_batch_size: int | None = setting(
        None, "sequences per process and pass, with gradient accumulation (default: the whole batch)", at_least=1
    )
    block_size: int | None = setting(None, "context length in tokens (default: the model's block size)", at_least=1)
    lr: float = setting(1e-3, "peak learning rate", above=0)
    warmup_steps: int = setting(100, "steps of linear warm-up", at_least=0)
    grad_clip: float = setting(1.0, "maximum norm of the gradient; 0: no clipping", at_least=0)
    eval_every: int = setting(250, "steps between validations; 0: only at the start and the end", at_least=0)
    eval_tokens: int = setting(200_000, "maximum validation tokens, the same ones each time", at_least=1)
    patience: int = setting(0, "validations without a lower loss after which the run stops; 0: never", at_least=0)
    save_every: int = setting(1000, "steps between checkpoints; 0: only at the end", at_least=0)
    keep: int = setting(3, "newest checkpoints to keep; 0: all", at_least=0)
    sample_every: int = setting(0, "steps between generated texts (samples.jsonl); 0: none", at_least=0)
    sample_prompt: str = setting("", "prompt of the generated texts")
    init: str | None = setting(None, "initial weights: a pretrained model, run, checkpoint, .safetensors or .pt file")
    seed: int = setting(1337, "seed of weights, data order and dropout", at_least=0, at_most=2**63 - 1)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "device to train on")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "precision of matrix products; auto: bf16 where fast, fp16 on GPUs with fast fp16 only, else fp32"
    )
    without: tuple[Optimization, ...] = setting((), f"optimizations to disable: {', '.join(get_args(Optimization))}")

    def __post_init__(self) -> None:
        if self.steps is None and self.max_seconds is None and self.epochs is None:
            raise ValueError(
                "steps: none, and neither max_seconds nor epochs is set, so that training would never end; set one"
            )


@dataclass(frozen=True)
class DataParallelConfig:
    """Data parallel: a copy of the model in each process."""

    gradients: Literal["fp32", "bf16"] = setting(
        "fp32", "precision in which processes exchange gradients; bf16 is half the traffic, for slow networks"
    )


@dataclass(frozen=True)
class Sampling:
    """How to draw the next token. Temperature 0 takes the most likely one."""

    max_new_tokens: int = setting(500, "tokens to generate", at_least=0, at_most=10**9, short="n")
    temperature: float = setting(1.0, "below 1: more predictable, above 1: more random, 0: greedy", at_least=0)
    top_k: int | None = setting(None, "sample from the k most likely tokens", at_least=1)
    top_p: float | None = setting(
        None, "sample from the top tokens with this total probability", at_least=1e-6, at_most=1
    )
    min_p: float | None = setting(None, "minimum probability, as a fraction of the top one", at_least=1e-6, at_most=1)
    repetition_penalty: float = setting(
        1.0, "above 1: make repetition less likely (CTRL)", at_least=0.01, at_most=100
    )
    seed: int | None = setting(None, "random seed; the same seed, the same text", at_least=0, at_most=2**63 - 1)
    num_samples: int = setting(1, "texts to generate, in one batch", at_least=1, at_most=10_000)
    speculate: int = setting(0, "most tokens to guess from earlier text and verify in one pass", at_least=0)
    stop: tuple[str, ...] = setting((), "end before the first of these", hidden=True)  # --stop, repeatable

    def __post_init__(self) -> None:
        if 0 < self.temperature < 1e-4:
            raise ValueError(f"temperature {self.temperature:g} is too small: use 0, or at least 0.0001")
        if "" in self.stop:
            raise ValueError("stop: an empty text would end every text before it starts; leave it out")


# The settings that may differ when a run resumes, as its schedule may: not sizes, data and seed.
RESUMABLE = frozenset(
    {"steps", "max_seconds", "epochs", "lr", "warmup_steps", "grad_clip"}
    | {"eval_every", "eval_tokens", "patience", "save_every", "keep", "sample_every", "sample_prompt"}
    | {"micro_batch_size", "device", "dtype", "without"}
)
