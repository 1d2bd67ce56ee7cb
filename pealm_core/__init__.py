"""The core of pealm: contract, plugin host, trainer, sampler, scoring. It knows no model.

Importing this package loads neither torch nor numpy: the names below arrive on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pealm_core.contract.errors import PealmError, PluginError, UserError

if TYPE_CHECKING:
    from pealm_core.checkpoints.api import Checkpoint, load_tokenizer, read_checkpoint, write_checkpoint
    from pealm_core.config.paths import cache_root
    from pealm_core.config.settings import Sampling
    from pealm_core.contract.fields import setting
    from pealm_core.contract.hookspecs import hookimpl
    from pealm_core.contract.protocols import Dataset, EvalResult, Evaluator, Model, Run, Tokenizer
    from pealm_core.contract.specs import (
        CommandSpec,
        DatasetSpec,
        EvaluatorSpec,
        FormatSpec,
        ModelSpec,
        OptimizerSpec,
        TokenizerSpec,
    )
    from pealm_core.data.tokens import TokenFile
    from pealm_core.hardware.device import fast_bf16
    from pealm_core.inference.generate import generate_ids, start_token
    from pealm_core.inference.kv_cache import KVCache, causal_attention
    from pealm_core.inference.lm import LM, load
    from pealm_core.inference.scoring import Score, cover, score

_HOME = {
    "Checkpoint": "checkpoints.api",
    "load_tokenizer": "checkpoints.api",
    "read_checkpoint": "checkpoints.api",
    "write_checkpoint": "checkpoints.api",
    "KVCache": "inference.kv_cache",
    "causal_attention": "inference.kv_cache",
    "TokenFile": "data.tokens",
    "fast_bf16": "hardware.device",
    "cache_root": "config.paths",
    "setting": "contract.fields",
    "Sampling": "config.settings",
    "hookimpl": "contract.hookspecs",
    "generate_ids": "inference.generate",
    "start_token": "inference.generate",
    "LM": "inference.lm",
    "load": "inference.lm",
    "Dataset": "contract.protocols",
    "EvalResult": "contract.protocols",
    "Evaluator": "contract.protocols",
    "Model": "contract.protocols",
    "Run": "contract.protocols",
    "Tokenizer": "contract.protocols",
    "Score": "inference.scoring",
    "cover": "inference.scoring",
    "score": "inference.scoring",
    "CommandSpec": "contract.specs",
    "DatasetSpec": "contract.specs",
    "EvaluatorSpec": "contract.specs",
    "FormatSpec": "contract.specs",
    "ModelSpec": "contract.specs",
    "OptimizerSpec": "contract.specs",
    "TokenizerSpec": "contract.specs",
}

__all__ = [
    "LM",
    "Checkpoint",
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
    "Run",
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
    "load_tokenizer",
    "read_checkpoint",
    "score",
    "setting",
    "start_token",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pealm_core' has no attribute {name!r}")
    if _HOME[name].startswith(("inference.", "hardware.")):
        from pealm_core.plugins.guard import refuse_heavy

        refuse_heavy("torch")
    return getattr(import_module(f"pealm_core.{_HOME[name]}"), name)
