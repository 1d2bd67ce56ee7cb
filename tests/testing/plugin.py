"""The source of a small plugin with a component of every kind. Tests break one line of it."""

PLUGIN = """
from pealm_core import (CommandSpec, DatasetSpec, EvaluatorSpec, FormatSpec, ModelSpec, OptimizerSpec, TokenizerSpec,
                        hookimpl)

@hookimpl
def pealm_models():
    yield ModelSpec(name="m", summary="A model", config="pealm_it_config:Config", factory="pealm_it_parts:Model",
                    tokenizer="t")

@hookimpl
def pealm_tokenizers():
    yield TokenizerSpec(name="t", summary="A tokenizer", factory="pealm_it_parts:Tokenizer")

@hookimpl
def pealm_datasets():
    yield DatasetSpec(name="d", summary="A dataset", config="pealm_it_config:Data", factory="pealm_it_parts:Dataset",
                      value="lines")
    yield DatasetSpec(name="s", summary="Shards", factory="pealm_it_parts:Shards")
    yield DatasetSpec(name="n", summary="Numbers", factory="pealm_it_parts:Numbers")

@hookimpl
def pealm_evaluators():
    yield EvaluatorSpec(name="e", summary="An evaluation", config="pealm_it_config:Eval",
                        factory="pealm_it_parts:Evaluator")

@hookimpl
def pealm_optimizers():
    yield OptimizerSpec(name="o", summary="An optimizer", config="pealm_it_config:Sgd", factory="pealm_it_parts:Sgd")

@hookimpl
def pealm_formats():
    yield FormatSpec(name="f", summary="A format", exporter="pealm_it_parts:export", importer="pealm_it_parts:bring",
                     detect="pealm_it_parts:detect")

@hookimpl
def pealm_commands():
    yield CommandSpec(name="c", summary="A command", command="pealm_it_command:command")
"""

CONFIG = """
from dataclasses import dataclass
from pealm_core import setting

@dataclass(frozen=True)
class Config:
    vocab_size: int = setting(0, hidden=True)
    block_size: int = setting(8, "context length in tokens", at_least=1)
    width: int = setting(16, "width", at_least=1)

@dataclass(frozen=True)
class Data:
    lines: int = setting(50, "lines", at_least=10)

@dataclass(frozen=True)
class Eval:
    lines: int = setting(5, "lines", at_least=1)

@dataclass(frozen=True)
class Sgd:
    momentum: float = setting(0.9, "decay of the mean gradient", at_least=0, below=1)
"""

PARTS = '''
import json
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from pealm_core import EvalResult, UserError, cover, load, score
from pealm_core.checkpoints import folder as checkpoint

class State:
    def __init__(self, h):
        self.h = h
    def repeat(self, n):
        return State(self.h.repeat_interleave(n, dim=0))
    def select(self, rows):
        return State(self.h[rows])
    def join(self, others):
        return State(torch.cat([self.h, *(other.h for other in others)]))

class Model(nn.Module):
    """A decayed sum of the embeddings so far, and the current token."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.mix = nn.Linear(2 * config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def make_cache(self, batch, length):
        return State(torch.zeros(batch, 1, self.config.width))

    def forward(self, idx, targets=None, *, cache=None, at=None):
        x = self.tokens(idx)
        decayed, h = [], x.new_zeros(len(x), 1, x.shape[2]) if cache is None else cache.h
        for t in range(x.shape[1]):
            h = 0.5 * h + x[:, t : t + 1]
            decayed.append(h)
        if cache is not None:
            cache.h = h
        x = torch.cat([x, torch.cat(decayed, dim=1)], dim=2)
        if at is not None:
            x = x[:, at]
        logits = self.head(self.norm(self.mix(x).tanh()))
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

class Tokenizer:
    vocab_size = 257
    eot_id = 256
    def encode(self, text):
        return list(text.encode())
    def encode_many(self, texts):
        return [self.encode(text) for text in texts]
    def decode(self, ids):
        return "".join("<eot>" if i == 256 else chr(0) for i in ids if i == 256) or bytes(ids).decode("utf-8", "replace")
    def fit(self, texts):
        self.seen = sorted({c for text in texts for c in text})
    def save(self, folder):
        (folder / "seen.json").write_text(json.dumps(self.seen))
    def load(self, folder):
        self.seen = json.loads((folder / "seen.json").read_text())

class Dataset:
    def __init__(self, config):
        self.config = config
    entropy_floor = 0.5
    def documents(self, split):
        start = 0 if split == "train" else 1000
        return (f"line {i}" for i in range(start, start + self.config.lines))

class Shards:
    vocab_size = 100
    def shards(self, split):
        return [np.arange(50) + (split == "val")]

class Numbers:
    def source(self, split, *, tokenizer, block_size, seed):
        return Rows(block_size)

class Rows:
    tokens = 100
    def __init__(self, block_size):
        self.block_size = block_size
    def __len__(self):
        return 10
    def rows(self, samples):
        rows = torch.tensor([[(n + i) % 50 for i in range(self.block_size + 1)] for n in samples])
        return {"idx": rows[:, :-1], "targets": rows[:, 1:]}

class Evaluator:
    def __init__(self, config):
        self.config = config
    def evaluate(self, model, tokenizer, *, config, progress):
        texts = [f"a line of number {i}" for i in range(self.config.lines)]
        requests = [([256], tokenizer.encode(text)) for text in texts]
        scores = score(model, requests, progress=progress)
        tokens = sum(s.tokens for s in scores)
        return EvalResult(metrics={"nats": (-sum(s.log_prob for s in scores) / tokens, 0.0)}, n=len(texts))

class Sgd(torch.optim.Optimizer):
    def __init__(self, config, model, *, lr):
        self.momentum = config.momentum
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": lr})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.mul_(self.momentum).add_(p.grad)
                p.sub_(group["lr"] * (1 - self.momentum) * mean)

def check_free(target):
    if target.exists():
        raise UserError(f"{target} is there already")

def export(source, target):
    lm = load(source, device="cpu")
    check_free(target)
    target.mkdir()
    np.savez(target / "w.npz", **{k: v.numpy() for k, v in lm.model.state_dict().items()})
    (target / "config.json").write_text(json.dumps(lm.config))

def detect(folder):
    try:
        return "model" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return False

def bring(source, target):
    if not (source / "w.npz").exists():
        raise UserError(f"{source} has no w.npz")
    check_free(target)
    tokenizer = Tokenizer()
    tokenizer.seen = []
    weights = {k: torch.from_numpy(v) for k, v in np.load(source / "w.npz").items()}
    config = json.loads((source / "config.json").read_text())
    checkpoint.save(target, model=weights, config=config, tokenizer=tokenizer, state={"step": 0, "data": ""})
'''

COMMAND = '''
import click

@click.command()
@click.option("--times", type=int, default=1, help="How often.")
def command(times):
    """Say it."""
    click.echo("it " * times)
'''

# A plugin with the tokenizer only.
ALONE = """
from pealm_core import TokenizerSpec, hookimpl

@hookimpl
def pealm_tokenizers():
    return TokenizerSpec(name="t", summary="A tokenizer", factory="pealm_it_parts:Tokenizer")
"""
