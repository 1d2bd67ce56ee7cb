"""The plugins that observe a run: their hooks, and the state that they keep in its checkpoints."""

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from math import isfinite, nan
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from torch import nn

from pealm_core.checkpoints.tensors import flatten
from pealm_core.config.paths import printable
from pealm_core.contract.errors import PluginError
from pealm_core.contract.protocols import has
from pealm_core.plugins.plugin_errors import HINT, Returns, check, explain, shown
from pealm_core.training.objective import RESERVED

if TYPE_CHECKING:
    from pealm_core.training.trainer import Trainer

EVAL_MODEL: Returns = (lambda r: isinstance(r, nn.Module), "an nn.Module or None")


class Metrics(dict[str, Any]):
    """A step's line of metrics.jsonl, to which hooks may add numbers. Raises TypeError or ValueError for all else."""

    def __init__(self, line: Mapping[str, Any]) -> None:
        super().__init__(line)
        self._fixed = {*line, *RESERVED}

    def __setitem__(self, name: str, value: Any) -> None:
        number = nan
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            number = 0.0 if value is None else float("nan" if isinstance(value, str) else value)  # also a tensor's
        if name in self._fixed or not isinstance(name, str) or not isfinite(number):
            must = "is the core's; choose another name" if name in self._fixed else "must be a finite number or None"
            raise ValueError(f"metrics[{name!r:.60}] {must}, not {shown(value)}")
        super().__setitem__(name, value if value is None or type(value) is int else number)

    def __ior__(self, more: Any) -> "Metrics":  # type: ignore[override,misc]
        self.update(more)
        return self

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"metrics[{name!r:.60}] can't be removed")

    update, setdefault, pop = MutableMapping.update, MutableMapping.setdefault, MutableMapping.pop
    popitem, clear = MutableMapping.popitem, MutableMapping.clear


class Observers:
    """Calls the hooks of a run on this rank. A plugin that fails is named once, and the run continues without it.

    A plugin that registered state, or that supplies the model to evaluate, is needed: the run ends if it fails.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer, self.host = trainer, trainer.job.host
        self.saved: Mapping[str, Any] = {}  # the registered state of the checkpoint that the run resumes from
        self._objects: dict[str, tuple[str, Any]] = {}  # name → its plugin and the object
        self._needed = self.host.with_hook("pealm_eval_model")  # plugins
        self.failed: list[str] = []  # plugins that other ranks don't know of yet

    def call(self, hook: str, **values: Any) -> None:
        """Call a hook in every plugin. Raises PluginError if a plugin that is needed fails.

        KeyboardInterrupt in a hook is as Ctrl-C: the run saves and ends.
        """
        known = set(self.host.failed)
        try:
            self.host.call(hook, trainer=self.trainer, **values)
        except KeyboardInterrupt as error:
            if error.args:  # a second Ctrl-C
                raise
            self.trainer.signals.number = SIGINT
        except PluginError as error:
            failed = self.host.failed.keys() - known
            if failed & self._needed:
                raise
            self.trainer.display.clear()
            with suppress(OSError):  # on the rank where it happened
                print(f"pealm: {printable(str(error))}; the run continues without it", file=sys.stderr)
            self.failed += sorted(failed)

    def share(self) -> None:
        """Switch the plugins that failed on any rank off on all of them. Every rank calls this."""
        for text in self.trainer.world.texts("\n".join(self.failed)):
            for name in set(text.splitlines()) - self.host.failed.keys():
                self.host.switch_off(name)
                self.host.failed[name] = "it failed on another rank"
        self.failed = []

    def register_state(self, name: str, obj: Any) -> None:
        """Save an object's state with each checkpoint; load it at once if the run has resumed."""
        if name in self._objects or not (has(obj, "state_dict") and has(obj, "load_state_dict")):
            wrong = "is registered already" if name in self._objects else "needs state_dict and load_state_dict"
            raise PluginError(f"register_state: {name!r} {wrong}")
        self._objects[name] = self.host.current or "", obj
        self._needed.add(self.host.current or "")
        self.state()
        if name in self.saved:
            obj.load_state_dict(self.saved[name])

    def unclaimed(self) -> list[str]:
        """Return the names of saved state that nobody has registered."""
        return sorted(self.saved.keys() - self._objects.keys())

    def state(self) -> dict[str, Any]:
        """Return the registered state by name. Raises PluginError for what can't be saved."""
        states = {}
        for name, (plugin, obj) in self._objects.items():
            try:
                states[name] = obj.state_dict()
                flatten(states[name], name)
            except Exception as error:
                raise PluginError(f"{plugin}: state_dict of {name!r}: {explain(error)}{HINT}") from error
        return states

    def eval_model(self) -> nn.Module:
        """Return the module to validate, to sample from and to keep in best/. Raises PluginError for two of them."""
        models = dict(self.host.call("pealm_eval_model", trainer=self.trainer))
        if len(models) > 1:
            raise PluginError(f"one plugin may supply the model to evaluate, not {' and '.join(models)}")
        for name, model in models.items():
            check(f"{name}: pealm_eval_model", EVAL_MODEL, model)
        return next(iter(models.values()), self.trainer.model)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Give the module to evaluate. Meanwhile, an optimizer with modes (schedule-free) is in its mode for this."""
        model = self.trainer.model
        optimizer: Any = self.trainer.optimizer
        if not has(optimizer, "eval"):
            yield self.eval_model()
            return
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.eval()
        try:
            yield self.eval_model()
        finally:
            optimizer.train()
            for parameter, values in zip(model.parameters(), before, strict=True):
                parameter.data.copy_(values)  # to the bit: going there and back rounds
