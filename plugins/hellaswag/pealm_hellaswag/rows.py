"""HellaSwag's rows: a JSON object on each line, all of them checked before any is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core import UserError
from pealm_evals.choices import read_lines

TEXTS = ("activity_label", "ctx_a", "ctx_b", "ctx")
FIELDS = (*TEXTS, "endings", "label")
MAY_BE_EMPTY = ("activity_label", "ctx_a", "ctx_b")


@dataclass(frozen=True)
class Row:
    """line: its number in the file. endings: four. label: the place of the right one."""

    line: int
    activity_label: str
    ctx_a: str
    ctx_b: str
    ctx: str
    endings: tuple[str, ...]
    label: int


def read_rows(path: Path, split: str, limit: int | None = None) -> list[Row]:
    """Return the rows of a split; a row that names none belongs to any.

    Raises UserError with a line for each bad row.
    """

    def parse(number: int, values: Mapping[str, Any]) -> Row | None:
        return _row(number, values) if values.get("split", split) == split else None

    rows = [row for row in read_lines(path, parse) if row is not None]
    if not rows:
        raise UserError(f"{path} has no rows of split {split!r}")
    return rows[:limit]


def _row(number: int, values: Mapping[str, Any]) -> Row:
    if missing := [name for name in FIELDS if name not in values]:
        raise ValueError(f"has no {' and no '.join(map(repr, missing))}")
    for name in TEXTS:
        if not isinstance(values[name], str):
            raise ValueError(f"{name!r} must be text, not {values[name]!r:.60}")
        if not values[name].strip() and name not in MAY_BE_EMPTY:
            raise ValueError(f"{name!r} is empty")
    endings, label = values["endings"], values["label"]
    if not isinstance(endings, list) or len(endings) != 4:
        what = f"{len(endings)} of them" if isinstance(endings, list) else f"{endings!r:.60}"
        raise ValueError(f"'endings' must be a list of four, not {what}")
    for place, ending in enumerate(endings):
        if not isinstance(ending, str):
            raise ValueError(f"ending {place} must be text, not {ending!r:.60}")
        if not ending.strip():
            raise ValueError(f"ending {place} is empty")
    if isinstance(label, bool) or str(label) not in ("0", "1", "2", "3"):  # some copies have it as text
        raise ValueError(f"'label' must be 0 to 3, not {label!r:.60}")
    texts = {name: values[name] for name in TEXTS}
    return Row(line=number, endings=tuple(endings), label=int(label), **texts)
