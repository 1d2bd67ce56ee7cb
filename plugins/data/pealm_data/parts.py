"""The parts of a dataset for both splits, so that each is read once, and those of one of several machines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from pealm_core import Dataset, Document, UserError

SPLITS = ("val", "train")


@dataclass(frozen=True)
class Both:
    """The val part and the train part of the same place of a dataset, or only one of them."""

    parts: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of either."""
        return str(next(iter(self.parts.values())).name)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return max(int(part.size) for part in self.parts.values())

    @property
    def version(self) -> list[Any]:
        """What differs if the content does."""
        return [getattr(part, "version", "") for part in self.parts.values()]

    @property
    def last_split(self) -> str:
        """The split of the last documents."""
        return [*self.parts][-1]

    @property
    def continues(self) -> list[str]:
        """The splits whose first document is the rest of the previous part's last one."""
        return [split for split, part in self.parts.items() if getattr(part, "continues", False)]

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Yield each document with its split."""
        for split, part in self.parts.items():
            for document in part.documents():
                yield split, document
                del document  # before the next one is read


class Undivided:
    """A split of a dataset without parts, as its only part."""

    size = 0

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._dataset, self._split, self.name = dataset, split, split

    def documents(self) -> Iterator[Document]:
        """Return the split's documents."""
        return iter(self._dataset.documents(self._split))


def parts_of(dataset: Any) -> tuple[list[Any], bool]:
    """Return the parts of a dataset, and whether they can be tokenized by several processes."""
    if hasattr(dataset, "split_parts"):
        return list(dataset.split_parts()), True
    lists = {split: list(dataset.parts(split)) if hasattr(dataset, "parts") else [] for split in SPLITS}
    parallel = all(lists.values())
    lists = {split: parts or [Undivided(dataset, split)] for split, parts in lists.items()}
    rows = zip_longest(*lists.values())
    return [Both({s: part for s, part in zip(lists, row, strict=True) if part is not None}) for row in rows], parallel


def of_machine(parts: Sequence[Any], number: int, machines: int) -> list[Any]:
    """Return every machines-th part, with the parts that continue it. Raises UserError if there are too few."""
    groups: list[list[Any]] = []
    for part in parts:
        if groups and getattr(part, "continues", None):
            groups[-1].append(part)
        else:
            groups.append([part])
    if machines > len(groups):
        count = "1 independent part" if len(groups) == 1 else f"{len(groups)} independent parts"
        raise UserError(f"--part {number}/{machines}: the input has only {count}; use fewer machines")
    return [part for group in groups[number - 1 :: machines] for part in group]
