"""The core of pealm: contract, plugin host, trainer, sampler, scoring. It contains no model.

    run = pealm_core.train("char-transformer", {"text": "book.txt"}, steps=1000)
    lm = pealm_core.load(run)
    print(lm.generate("ROMEO:"))

Its public names: those below, for the `plugin.py` of a plugin, and those of the modules `public...`, which are
imported on first use.
"""

import sys as _sys
from importlib import import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

from pealm_core.contract.errors import PealmError as PealmError
from pealm_core.contract.errors import PluginError as PluginError
from pealm_core.contract.errors import UserError as UserError
from pealm_core.contract.hookspecs import hookimpl as hookimpl
from pealm_core.contract.specs import AdapterSpec as AdapterSpec
from pealm_core.contract.specs import CommandSpec as CommandSpec
from pealm_core.contract.specs import DatasetSpec as DatasetSpec
from pealm_core.contract.specs import EvaluatorSpec as EvaluatorSpec
from pealm_core.contract.specs import FormatSpec as FormatSpec
from pealm_core.contract.specs import ModelSpec as ModelSpec
from pealm_core.contract.specs import ObjectiveSpec as ObjectiveSpec
from pealm_core.contract.specs import ObserverSpec as ObserverSpec
from pealm_core.contract.specs import OptimizerSpec as OptimizerSpec
from pealm_core.contract.specs import ScheduleSpec as ScheduleSpec
from pealm_core.contract.specs import StrategySpec as StrategySpec
from pealm_core.contract.specs import TokenizerSpec as TokenizerSpec
from pealm_core.plugins.discovery import use_plugin as use_plugin

if TYPE_CHECKING:
    from pealm_core.public import *  # noqa: F403
    from pealm_core.public_command import *  # noqa: F403
    from pealm_core.public_contract import *  # noqa: F403
    from pealm_core.public_light import *  # noqa: F403


_ON_USE = ("public_contract", "public_command", "public_light", "public")  # from light to heavy


def __getattr__(name: str) -> Any:
    if name == "__all__":  # what `from pealm_core import *` and help() ask for
        return __dir__()
    for module in () if name.startswith("_") else _ON_USE:
        if name in (names := vars(import_module(f"pealm_core.{module}"))):
            return names[name]
    raise AttributeError(f"module 'pealm_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names. Those imported on first use are read from the source, so that Tab loads no torch."""
    texts = [_Path(__file__).with_name(name).read_text() for name in (f"{m}.py" for m in _ON_USE)]
    heavy = [line.split()[-1] for text in texts for line in text.splitlines()[2:]]
    light = [name for name, value in globals().items() if not isinstance(value, type(_sys)) and name[0] != "_"]
    return sorted({*heavy, *light} - {"Any", "TYPE_CHECKING", "import_module"})
