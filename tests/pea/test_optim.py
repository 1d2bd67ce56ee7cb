"""The optimizers make the same steps as torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pea
from pea import Value
from pea.optim import SGD, Adam

PAIRS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (lambda ps: SGD(ps, 0.05), lambda ps: torch.optim.SGD(ps, 0.05)),
    (lambda ps: SGD(ps, 0.05, momentum=0.9), lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.9)),
    (lambda ps: Adam(ps), lambda ps: torch.optim.Adam(ps)),
    (
        lambda ps: Adam(ps, 0.1, betas=(0.8, 0.95), eps=1e-3),
        lambda ps: torch.optim.Adam(ps, 0.1, betas=(0.8, 0.95), eps=1e-3),
    ),
]


def valley(x: Any, y: Any) -> Any:
    return (1.0 - x) ** 2 + 3.0 * (y - x * x) ** 2


@pytest.mark.parametrize(("make_ours", "make_theirs"), PAIRS)
def test_same_path_as_torch(make_ours: Callable[..., Any], make_theirs: Callable[..., Any]) -> None:
    ours = [Value(-0.5), Value(0.8)]
    theirs = [torch.tensor(v.data, dtype=torch.float64, requires_grad=True) for v in ours]
    our_optimizer, their_optimizer = make_ours(ours), make_theirs(theirs)
    for k in range(30):
        our_optimizer.zero_grad()
        their_optimizer.zero_grad()
        valley(*ours).backward()
        valley(*theirs).backward()
        if k == 15:  # a schedule
            our_optimizer.lr *= 0.5
            their_optimizer.param_groups[0]["lr"] *= 0.5
        our_optimizer.step()
        their_optimizer.step()
    assert [v.data for v in ours] == pytest.approx([t.item() for t in theirs], rel=1e-9)
    assert ours[0].data != -0.5


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_learning_rate_from_numpy_leaves_weights_plain_floats(optimizer: Any) -> None:
    w = Value(1.0)
    (w * 2).backward()
    optimizer([w], np.float32(0.5)).step()
    assert type(w.data) is float and w.data < 1.0


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        SGD([], 0.1)
    with pytest.raises(ValueError, match="lr=-1"):
        Adam([Value(1.0)], -1.0)


def test_adam_fits_a_line() -> None:
    w, b = Value(0.0), Value(0.0)
    optimizer = Adam([w, b], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        pea.sum((w * x + b - (2 * x - 1)) ** 2 for x in (-1.0, 0.0, 1.0)).backward()
        optimizer.step()
    assert (w.data, b.data) == pytest.approx((2.0, -1.0), abs=1e-3)
