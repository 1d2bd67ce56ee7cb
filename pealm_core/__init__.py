"""The core of pealm: contract, plugin host, trainer, sampler, scoring. It knows no model.

Importing this package loads neither torch nor numpy: the names below arrive on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pealm_core.errors import PealmError, PluginError, UserError

if TYPE_CHECKING:
    from pealm_core.cache import KVCache, causal_attention
    from pealm_core.config import setting
    from pealm_core.hookspecs import hookimpl
    from pealm_core.lm import LM, load
    from pealm_core.paths import cache_root
    from pealm_core.protocols import EvalResult
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
    "cache_root": "paths",
    "setting": "config",
    "Sampling": "settings",
    "hookimpl": "hookspecs",
    "LM": "lm",
    "load": "lm",
    "EvalResult": "protocols",
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
    "DatasetSpec",
    "EvalResult",
    "EvaluatorSpec",
    "FormatSpec",
    "KVCache",
    "ModelSpec",
    "OptimizerSpec",
    "PealmError",
    "PluginError",
    "Sampling",
    "TokenizerSpec",
    "UserError",
    "cache_root",
    "causal_attention",
    "hookimpl",
    "load",
    "setting",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pealm_core' has no attribute {name!r}")
    return getattr(import_module(f"pealm_core.{_HOME[name]}"), name)
