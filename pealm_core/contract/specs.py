"""The records that plugins return: frozen, light, every part named by string.

A part is written `"package.module:attribute"`. Registering a record imports none of its parts; using it
imports only the parts in use, so that twenty installed plugins cost a `--help` next to nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """What every record has: the name that users type, and one line about it.

    name: of a-z, 0-9, "-" and "."; two plugins with one name are told apart as `dist/name`.
    config, where there is one: a dataclass of settings (`pealm_core.setting` adds help and bounds) of the types int,
    float, bool, str, Path, Literal, tuple[T, ...], each also `| None`. It has no field called `name`, and its module
    must be light: it is imported for help pages, so no torch there, nor anything of pealm_core that needs it.
    """

    kind: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ("config", "factory")

    name: str
    summary: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSpec(Spec):
    """A model family.

    config:      dataclass of its settings, torch-free, with `vocab_size` and `block_size`.
    factory:     called with the config, gives the `nn.Module` (see `protocols.Model`); never downloads.
    pretrained:  called with the config, gives `(config of the family, state dict)`: weights from elsewhere.
    family:      the model whose checkpoints these are, where it is another (`gpt2-pretrained` → `gpt2`).
    tokenizer:   the tokenizer used where the user names none.
    presets:     name → config values, chosen with `--preset`; tables in it are defaults as those of a recipe.
    recipe:      defaults of the tables `train`, `optimizer` and `input` for this model.
    """

    kind = "model"
    parts = ("config", "factory", "pretrained")

    config: str
    factory: str
    pretrained: str | None = None
    family: str | None = None
    tokenizer: str = "char"
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizerSpec(Spec):
    """A tokenizer: `factory` is called with an instance of `config` and gives a `protocols.Tokenizer`."""

    kind = "tokenizer"

    config: str | None = None
    factory: str


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetSpec(Spec):
    """A dataset: `factory` is called with an instance of `config` and gives a `protocols.Dataset`.

    value: the config's field that the bare value of `--input.NAME VALUE` fills; without it (`None`) the option
        takes no value. Where the field has a default, the value may be left out.
    """

    kind = "dataset"

    config: str | None = None
    factory: str
    value: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatorSpec(Spec):
    """An evaluation: `factory` is called with an instance of `config` and gives a `protocols.Evaluator`.

    default: chosen by `pealm eval` where the user names none; the first by name wins where several claim it.
    input: it evaluates on a dataset, `--input.NAME`, which `evaluate` gets.
    """

    kind = "evaluator"

    config: str | None = None
    factory: str
    default: bool = False
    input: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimizerSpec(Spec):
    """An optimizer: `factory(config, model, lr=...)` gives a `torch.optim.Optimizer` over the model's parameters.

    The trainer multiplies every group's initial `lr` by the schedule; `lr` is the peak of `--lr`.
    """

    kind = "optimizer"

    config: str | None = None
    factory: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FormatSpec(Spec):
    """A foreign checkpoint format.

    exporter: `exporter(source, target)` writes a pealm weights folder as a foreign one.
    importer: `importer(source, target)` reads a foreign folder into a pealm weights folder.
    """

    kind = "format"
    parts = ("exporter", "importer")

    exporter: str | None = None
    importer: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CommandSpec(Spec):
    """A command of its own: `command` is a `click.Command`, imported when it is called or its help is asked."""

    kind = "command"
    parts = ("command",)

    command: str


KINDS: dict[str, type[Spec]] = {
    spec.kind: spec
    for spec in (
        ModelSpec,
        TokenizerSpec,
        DatasetSpec,
        EvaluatorSpec,
        OptimizerSpec,
        FormatSpec,
        CommandSpec,
    )
}
