"""The records that plugins return: frozen, light, every part named by a string.

A part is written `"package.module:attribute"`. Registering a record imports none of its parts, and using it imports
only the parts in use, so that twenty installed plugins hardly slow down `pealm --help`. In a file for `--plugin`, a
part may also be the class or function itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

KINDS: dict[str, "type[Spec]"] = {}
Part = str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """Fields of every record: the name that users type, and a summary of one line.

    name: of a-z, 0-9, "-" and "."; if two plugins have the same name, users write `dist/name`.
    config, if the record has one: a dataclass of settings (`pealm_core.setting` adds help and bounds) of the types
    int, float, bool, str, Path, Literal, tuple[T, ...], each also `| None`. It has no field called `name`. Its module
    is imported for help pages, so it must not import torch, nor a name of pealm_core that needs torch.
    """

    kind: ClassVar[str]  # "model" for ModelSpec
    hook: ClassVar[str]  # "pealm_models"
    parts: ClassVar[tuple[str, ...]]  # its fields that name code
    name: str
    summary: str

    def __init_subclass__(cls, kind: str = "") -> None:
        if kind:
            cls.kind, cls.hook = kind, f"pealm_{kind}s".replace("gys", "gies")
            KINDS[kind] = cls


@dataclass(frozen=True, kw_only=True, eq=False)
class Component(Spec):
    """Fields of a record with settings: `factory` makes the component from them."""

    parts: ClassVar[tuple[str, ...]] = ("config", "factory")

    config: Part | None = None
    factory: Part


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSpec(Component, kind="model"):
    """A model family.

    config:      dataclass of its settings, with `block_size` and `vocab_size`, which the core sets.
    factory:     called with the config, returns the `nn.Module` (see `protocols.Model`); never downloads.
    pretrained:  called with the config, returns `(config of the family, state dict)` with published weights.
    vocabulary:  called with the config, returns the folder with the vocabulary of these weights for `tokenizer`, as
        its `save` writes it; used unless the user chooses another tokenizer or sets its options.
    family:      the model that reads these checkpoints, if it is another one (`gpt2-pretrained` → `gpt2`).
    tokenizer:   the default tokenizer.
    presets:     name → config values, chosen with `--preset`; tables in it are defaults, as in a recipe.
    depth:       called with N, returns the values of `--depth N`, as a preset has them.
    recipe:      defaults of the other tables (`train`, `optimizer`, `schedule`, `input`, ...) for this model.
    """

    parts: ClassVar[tuple[str, ...]] = ("config", "factory", "pretrained", "vocabulary", "depth")

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

    value: the config's field that VALUE of `--input.NAME VALUE` sets; if it is None, the option takes no value. If
        the field has a default, the value is optional.
    shards: VALUE is a folder of token shards, whose `meta.json` and `tokenizer/`, if it has them, name the tokenizer.
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
    """An optimizer: `factory(config, model, lr=...)` returns a `torch.optim.Optimizer` over the model's parameters.

    `lr` is the peak learning rate, `--lr`. The trainer multiplies every group's initial `lr` by the schedule.
    """


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
    """A foreign checkpoint format.

    exporter: `exporter(source, target)` converts a folder of pealm weights to the foreign format.
    importer: `importer(source, target)` converts a folder in the foreign format to pealm weights.
    detect:   `detect(folder) -> bool` tells whether a folder is in this format and of these families.
    families: the model families that it converts; empty: all. Several plugins may provide one format, each for
        families of its own.
    dtypes:   what `--dtype` may be with `--to`: the exporter is then called with `dtype=` one of them, or None.
    """

    parts = ("exporter", "importer", "detect")

    exporter: Part | None = None
    importer: Part | None = None
    detect: Part | None = None
    families: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class CommandSpec(Spec, kind="command"):
    """A command: `command` is a `click.Command`, imported when it is called or its help is shown."""

    parts = ("command",)

    command: Part


@dataclass(frozen=True, kw_only=True, eq=False)
class ObserverSpec(Spec, kind="observer"):
    """Settings of a plugin's hooks of a run: the options `--observer.NAME.KEY`, the table `[observer.NAME]`.

    Its hooks get them from `trainer.options(NAME)`, an instance of `config`. options: shorter options, each with the
    key that it sets: `{"track-every": "every"}` is `--track-every`.
    """

    parts = ("config",)

    config: Part
    options: Mapping[str, str] = field(default_factory=dict)
