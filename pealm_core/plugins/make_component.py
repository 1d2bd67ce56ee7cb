"""An entry: a record that a name means, with its plugin. It imports the record's parts, and calls its factory."""

from dataclasses import dataclass
from functools import cached_property, reduce
from importlib import import_module
from typing import Any, Generic, TypeVar

from pealm_core.contract.errors import PealmError, PluginError, UserError, describe
from pealm_core.contract.fields import settings_of
from pealm_core.contract.specs import Spec
from pealm_core.plugins.discovery import Plugin
from pealm_core.plugins.import_checks import DefectError, guarded
from pealm_core.plugins.plugin_errors import explain

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, eq=False, repr=False)
class Entry(Generic[S]):
    """A resolved name: the record and the plugin that it comes from."""

    spec: S
    plugin: Plugin
    name: str  # as the user gave it: `gpt2`, or `pealm-gpt2/gpt2` where two plugins provide one

    def load(self, part: str) -> Any:
        """Import a part of the record, for instance "factory". Raises PluginError."""
        ref = getattr(self.spec, part)
        if not isinstance(ref, str):  # of a local plugin: the object itself
            return ref
        module, _, attribute = ref.partition(":")
        try:
            with guarded(module, light=part == "config" and not self.plugin.file):
                return reduce(getattr, attribute.split("."), import_module(module))
        except KeyboardInterrupt:
            raise
        except DefectError as error:
            raise self._defect(part, str(error)) from error
        except BaseException as error:
            raise self._defect(f"{part} {ref!r}", f"can't be loaded: {describe(error)}") from error

    def make(self, config: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the factory; that of a component without settings (config: None) gets no config.

        ValueError is the user's mistake; any other exception is a defect of the plugin. Raises PealmError.
        """
        factory, what = self.load("factory"), f"{self.spec.kind} {self.name}"
        try:
            return factory(*args, **kwargs) if config is None else factory(config, *args, **kwargs)
        except PealmError:
            raise
        except ValueError as error:
            raise UserError(f"{what}: {error}") from error
        except (Exception, SystemExit) as error:
            reason = describe(error)
            if "memory" in reason.lower() or "Storage size" in reason:  # as Python and torch say it
                first = reason.partition("\n")[0]
                raise UserError(f"{what} does not fit into memory: {first}; choose smaller sizes") from error
            where = f"{self.plugin.dist}: making {self.spec.kind} {self.name!r}"
            raise PluginError(f"{where} failed: {explain(error)}") from error

    @cached_property
    def config(self) -> type | None:
        """The dataclass of its settings, or None. Raises PluginError, also if importing it loads a heavy package."""
        if not getattr(self.spec, "config", None):
            return None
        config: type = self.load("config")
        try:
            names = {setting.name for setting in settings_of(config).values()}
        except (TypeError, NameError) as error:  # not a dataclass, or wrong annotations
            raise self._defect("config", str(error)) from error
        value = getattr(self.spec, "value", None)  # a dataset's field that `--input.NAME VALUE` sets
        needed: set[Any] = {"vocab_size", "block_size"} if self.spec.kind == "model" else {value} - {None}
        if taken := names & {"name", *(("base", "base_hash") if self.spec.kind == "adapter" else ())}:
            raise self._defect("config", f"has a field {min(taken)!r}, which is reserved for the core")
        if missing := needed - names:
            raise self._defect("config", f"needs the fields {', '.join(sorted(missing))}")
        return config

    def _defect(self, part: str, reason: str) -> PluginError:
        return PluginError(f"{self.plugin.dist}: {part} of {self.spec.kind} {self.spec.name!r} {reason}")
