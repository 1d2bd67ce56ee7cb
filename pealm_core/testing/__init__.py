"""The conformance kit: what a plugin must do for everything else of pealm to work with it, as tests.

    from pealm_core.testing import ModelConformance

    class TestMine(ModelConformance):
        spec = "mine"
        config = {"n_layer": 1, "n_embd": 32}  # small, so that it takes a second

pytest runs every check as a test of its own; `pealm plugins check NAME` runs the same ones without pytest, which the
kit does not need. The class attributes that may be set are listed in each class; a check's docstring says which
failure it catches, and its message what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pealm_core.testing.base import Conformance
    from pealm_core.testing.command import CommandConformance
    from pealm_core.testing.dataset import DatasetConformance
    from pealm_core.testing.dummies import Bytes, Uniform
    from pealm_core.testing.evaluator import EvaluatorConformance
    from pealm_core.testing.format import FormatConformance
    from pealm_core.testing.model import ModelConformance
    from pealm_core.testing.optimizer import OptimizerConformance
    from pealm_core.testing.tokenizer import TokenizerConformance

_HOME = {
    "Bytes": "dummies",
    "CommandConformance": "command",
    "Conformance": "base",
    "DatasetConformance": "dataset",
    "EvaluatorConformance": "evaluator",
    "FormatConformance": "format",
    "ModelConformance": "model",
    "OptimizerConformance": "optimizer",
    "TokenizerConformance": "tokenizer",
    "Uniform": "dummies",
}

__all__ = [
    "Bytes",
    "CommandConformance",
    "Conformance",
    "DatasetConformance",
    "EvaluatorConformance",
    "FormatConformance",
    "ModelConformance",
    "OptimizerConformance",
    "TokenizerConformance",
    "Uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pealm_core.testing' has no attribute {name!r}")
    return getattr(import_module(f"pealm_core.testing.{_HOME[name]}"), name)
