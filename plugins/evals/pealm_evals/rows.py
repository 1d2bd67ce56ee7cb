"""From the details of two evaluations to the same rows of both."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pealm_core import UserError
from pealm_evals.paired import Pairs

PLACES = ("input", "task", "filter", "document", "line", "end")  # of a row, those that it has
Details = Sequence[Mapping[str, Any]]


def metrics_of(details: Details, names: Sequence[str]) -> list[str]:
    """Return the metrics of which each row has a value, or a part and a whole."""
    return [name for name in names if any(name in row for row in details)]


def same_rows(name: str, several: Sequence[Details]) -> list[Pairs]:
    """Return the values of a metric for each model, over the rows that all have. Raises UserError if there are none.

    A passage of a text (with `end`, its last byte) may be divided differently by another tokenizer: such passages
    are joined up to a byte at which all have an end.
    """
    tables = [_by_place(name, details) for details in several]
    shared = set(tables[0]).intersection(*tables[1:])
    if not shared:
        raise UserError("the models have no rows in common")
    return [np.array(_joined(table, shared), np.float64) for table in tables]


def _by_place(name: str, details: Details) -> dict[tuple[Any, ...], tuple[float, float]]:
    table: dict[tuple[Any, ...], tuple[float, float]] = {}
    for number, row in enumerate(details):
        if name in row:
            place = tuple(row[key] for key in PLACES if key in row) or (number,)
            if place in table:
                raise UserError(f"two rows are at {place}, so that they can't be paired")
            part, whole = row[name] if isinstance(row[name], list | tuple) else (row[name], 1.0)
            table[place] = (float(part), float(whole))
    return table


def _joined(table: Mapping[tuple[Any, ...], tuple[float, float]], shared: set[tuple[Any, ...]]) -> list[list[float]]:
    """Return the values at shared places in their order, each with those of the same document since the last one."""
    rows: list[list[float]] = []
    part = whole = 0.0
    document: tuple[Any, ...] = ()
    for place, (own_part, own_whole) in table.items():
        if place[:-1] != document:
            part, whole, document = 0.0, 0.0, place[:-1]
        if place in shared:
            rows.append([part + own_part, whole + own_whole])
            part = whole = 0.0
        elif len(place) > 1:
            part, whole = part + own_part, whole + own_whole
    return rows
