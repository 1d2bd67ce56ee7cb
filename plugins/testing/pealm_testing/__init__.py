"""The conformance kit: tests that a plugin works with the rest of pealm.

    from pealm_testing import ModelConformance

    class TestMine(ModelConformance):
        spec = "mine"
        config = {"n_layer": 1, "n_embd": 32}  # small, so that the tests are fast

pytest runs every check as a test of its own; `pealm plugins check NAME` runs the same checks without a test class.
Each class lists the attributes that a subclass may set. A check's docstring says which defects it catches, and its
message how to fix them. Importing this package loads neither torch nor numpy: names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pealm_testing.adapter import AdapterConformance as AdapterConformance
    from pealm_testing.base import Conformance as Conformance
    from pealm_testing.command import CommandConformance as CommandConformance
    from pealm_testing.dataset import DatasetConformance as DatasetConformance
    from pealm_testing.dummies import Bytes as Bytes
    from pealm_testing.dummies import Uniform as Uniform
    from pealm_testing.errors import ConformanceError as ConformanceError
    from pealm_testing.evaluator import EvaluatorConformance as EvaluatorConformance
    from pealm_testing.format import FormatConformance as FormatConformance
    from pealm_testing.model import ModelConformance as ModelConformance
    from pealm_testing.objective import ObjectiveConformance as ObjectiveConformance
    from pealm_testing.observer import ObserverConformance as ObserverConformance
    from pealm_testing.optimizer import OptimizerConformance as OptimizerConformance
    from pealm_testing.schedule import ScheduleConformance as ScheduleConformance
    from pealm_testing.strategy import StrategyConformance as StrategyConformance
    from pealm_testing.tokenizer import TokenizerConformance as TokenizerConformance

_KINDS = ("Adapter", "Command", "Dataset", "Evaluator", "Format", "Model", "Objective", "Observer", "Optimizer")
_MODULES = {f"{kind}Conformance": kind.lower() for kind in (*_KINDS, "Schedule", "Strategy", "Tokenizer")}
_MODULES |= {"Conformance": "base", "ConformanceError": "errors", "Bytes": "dummies", "Uniform": "dummies"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pealm_testing' has no attribute {name!r}")
    return getattr(import_module(f"pealm_testing.{_MODULES[name]}"), name)
