"""The models that are served, and the names that clients choose them by."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pealm_core import LM, Tokenizer, UserError, load, read_checkpoint
from pealm_serve.generation import Texts


@dataclass(frozen=True)
class Loaded:
    """A model in memory. path: its checkpoint folder. created: when that was written, in seconds since 1970."""

    name: str
    path: Path
    lm: LM
    created: int

    @cached_property
    def texts(self) -> Texts:
        """The texts that it generates."""
        return Texts(self.lm)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the checkpoint."""
        return self.lm.tokenizer

    @property
    def block_size(self) -> int:
        """The context length in tokens."""
        return int(self.lm.model.config.block_size)  # type: ignore[arg-type, union-attr]

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return int(self.lm.model.config.vocab_size)  # type: ignore[arg-type, union-attr]

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat layout or a chat template."""
        return any(getattr(self.tokenizer, name, None) for name in ("chat", "chat_template"))


def load_models(paths: Sequence[str], **how: Any) -> dict[str, Loaded]:
    """Load the checkpoints; return the models by name. how: as for `pealm_core.load`. Raises PealmError."""
    folders = [read_checkpoint(path, base=how.get("base")).path.resolve() for path in paths]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise UserError(f"--ckpt {paths[number]}: {folder} is named twice")
    models = {}
    for name, folder in zip(names(folders), folders, strict=True):
        written = int((folder / "state.json").stat().st_mtime)
        models[name] = Loaded(name, folder, load(folder, **how), written)
    return models


def names(folders: Sequence[Path]) -> list[str]:
    """Return a short name for each checkpoint folder: its run's, with the step if it is not the best.

    >>> names([Path("/runs/gpt2/a/best"), Path("/runs/gpt2/a/checkpoints/step-00000500"), Path("/weights/sprout")])
    ['a', 'a/step-00000500', 'sprout']
    >>> names([Path("/one/a/best"), Path("/two/a/best")])
    ['one/a', 'two/a']
    """
    kept = [[part for part in folder.parts[1:] if part not in ("best", "checkpoints")] for folder in folders]
    sizes = [2 if folder.parent.name == "checkpoints" else 1 for folder in folders]
    for more in range(max(map(len, kept), default=0)):
        short = ["/".join(parts[-size - more :]) for parts, size in zip(kept, sizes, strict=True)]
        if len({*short}) == len(short):
            return short
    return list(map(str, folders))
