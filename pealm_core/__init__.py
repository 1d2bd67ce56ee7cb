"""The core of pealm: contract, plugin host, trainer, sampler, scoring. It knows no model.

Importing this package loads neither torch nor numpy: the names below arrive on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pealm_core.errors import PealmError, PluginError, UserError

if TYPE_CHECKING:
    from pealm_core.cache import KVCache, causal_attention
    from pealm_core.config import setting
    from pealm_core.data import TokenFile
    from pealm_core.device import fast_bf16
    from pealm_core.generate import generate_ids, start_token
    from pealm_core.hookspecs import hookimpl
    from pealm_core.lm import LM, load
    from pealm_core.paths import cache_root
    from pealm_core.protocols import Dataset, EvalResult, Evaluator, Model, Tokenizer
    from pealm_core.scoring import Score, cover, score
    from pealm_core.settings import Sampling
    from pealm_core.specs import (
        CommandSpec,
        DatasetSpec,
        EvaluatorSpec,
        FormatSpec,
        ModelSpec,
        OptimizerSpec,
        TokenizerSpec,
    )

_HOME = {
    "KVCache": "cache",
    "causal_attention": "cache",
    "TokenFile": "data",
    "fast_bf16": "device",
    "cache_root": "paths",
    "setting": "config",
    "Sampling": "settings",
    "hookimpl": "hookspecs",
    "generate_ids": "generate",
    "start_token": "generate",
    "LM": "lm",
    "load": "lm",
    "Dataset": "protocols",
    "EvalResult": "protocols",
    "Evaluator": "protocols",
    "Model": "protocols",
    "Tokenizer": "protocols",
    "Score": "scoring",
    "cover": "scoring",
    "score": "scoring",
    "CommandSpec": "specs",
    "DatasetSpec": "specs",
    "EvaluatorSpec": "specs",
    "FormatSpec": "specs",
    "ModelSpec": "specs",
    "OptimizerSpec": "specs",
    "TokenizerSpec": "specs",
}

__all__ = [
    "LM",
    "CommandSpec",
    "Dataset",
    "DatasetSpec",
    "EvalResult",
    "Evaluator",
    "EvaluatorSpec",
    "FormatSpec",
    "KVCache",
    "Model",
    "ModelSpec",
    "OptimizerSpec",
    "PealmError",
    "PluginError",
    "Sampling",
    "Score",
    "TokenFile",
    "Tokenizer",
    "TokenizerSpec",
    "UserError",
    "cache_root",
    "causal_attention",
    "cover",
    "fast_bf16",
    "generate_ids",
    "hookimpl",
    "load",
    "score",
    "setting",
    "start_token",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pealm_core' has no attribute {name!r}")
    if _HOME[name] in ("cache", "device", "generate", "lm", "scoring"):
        from pealm_core.guard import refuse_heavy

        refuse_heavy("torch")
    return getattr(import_module(f"pealm_core.{_HOME[name]}"), name)
