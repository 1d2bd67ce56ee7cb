"""The records that plugins return: frozen, light, every part named by a string, `"package.module:attribute"`.

Registering a record imports none of its parts, and using it imports only the parts in use. In a file for `--plugin`,
a part may also be the class or function itself. docs/contract.md is the reference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

KINDS: dict[str, "type[Spec]"] = {}
Part = str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """Fields of every record: the name that users type, and a summary of one line.

    config, if the record has one: a dataclass of settings. Its module is imported for help pages, so it must not
    import torch, nor a name of pealm_core that needs torch.
    """

    kind: ClassVar[str]  # "model" for ModelSpec
    hook: ClassVar[str]  # "pealm_models"
    parts: ClassVar[tuple[str, ...]]  # its fields that name code
    name: str
    summary: str

    def __init_subclass__(cls, kind: str = "") -> None:
        hints = {name: hint for base in cls.__mro__ for name, hint in getattr(base, "__annotations__", {}).items()}
        cls.parts = tuple(name for name, hint in hints.items() if hint in (Part, Part | None))
        if kind:
            cls.kind, cls.hook = kind, f"pealm_{kind}s".replace("gys", "gies")
            KINDS[kind] = cls


@dataclass(frozen=True, kw_only=True, eq=False)
class Component(Spec):
    """Fields of a record with settings: `factory` makes the component from them."""

    config: Part | None = None
    factory: Part


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSpec(Component, kind="model"):
    """A model family.

    pretrained: called with the config, returns `(config of the family, state dict)` with published weights.
    vocabulary: called with the config, returns the folder with the vocabulary of these weights.
    family: the model that reads these checkpoints, if it is another one (`gpt2-pretrained` → `gpt2`).
    presets: name → config values, chosen with `--preset`; tables in it are defaults, as in a recipe.
    depth: called with N, returns the values of `--depth N`. recipe: defaults of the other tables for this model.
    """

    config: Part = field()  # required
    pretrained: Part | None = None
    vocabulary: Part | None = None
    family: str | None = None
    tokenizer: str = "char"
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    depth: Part | None = None
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class TokenizerSpec(Component, kind="tokenizer"):
    """A tokenizer: `factory` is called with an instance of `config` and returns a `protocols.Tokenizer`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetSpec(Component, kind="dataset"):
    """A dataset: `factory` is called with an instance of `config` and returns a `protocols.Dataset`.

    value: the config's field that VALUE of `--input.NAME VALUE` sets; None: the option takes no value.
    shards: VALUE is a folder of token shards, which may name the tokenizer.
    """

    value: str | None = None
    shards: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatorSpec(Component, kind="evaluator"):
    """An evaluation: `factory` is called with an instance of `config` and returns a `protocols.Evaluator`.

    default: `pealm eval` runs it if the user names none; of several defaults, the first by name.
    input: it evaluates on a dataset, `--input.NAME`, which `evaluate` gets.
    """

    default: bool = False
    input: bool = False


class OptimizerSpec(Component, kind="optimizer"):
    """An optimizer: `factory(config, model, lr=...)` returns a `torch.optim.Optimizer` over all parameters."""


class ScheduleSpec(Component, kind="schedule"):
    """A learning-rate schedule: `factory(config)` returns a `protocols.Schedule`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectiveSpec(Component, kind="objective"):
    """What training minimizes: `factory(config, model, tokenizer)` returns a `protocols.Objective`.

    specials: names of special tokens that it needs, such as "<|mask|>"; the core adds missing ones to the tokenizer.
    """

    specials: tuple[str, ...] = ()


class StrategySpec(Component, kind="strategy"):
    """How a model is spread over processes: `factory(config)` returns a `protocols.Strategy`."""


class AdapterSpec(Component, kind="adapter"):
    """A change of a model after it was built, such as LoRA: `factory(config)` returns a `protocols.Adapter`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FormatSpec(Spec, kind="format"):
    """A foreign checkpoint format: `exporter(source, target)`, `importer(source, target)`, `detect(folder) -> bool`.

    families: the model families that it converts; empty: all. dtypes: what `--dtype` may be with `--to`.
    """

    exporter: Part | None = None
    importer: Part | None = None
    detect: Part | None = None
    families: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class CommandSpec(Spec, kind="command"):
    """A command: `command` is a `click.Command`, imported when it is called or its help is shown."""

    command: Part


@dataclass(frozen=True, kw_only=True, eq=False)
class ObserverSpec(Spec, kind="observer"):
    """Settings of a plugin's hooks of a run: the options `--observer.NAME.KEY`, the table `[observer.NAME]`.

    options: shorter options, each with the key that it sets: `{"track-every": "every"}` is `--track-every`.
    """

    config: Part
    options: Mapping[str, str] = field(default_factory=dict)
