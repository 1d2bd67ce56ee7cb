"""A scalar autograd engine in plain Python. Read `engine.py` first, then `sums.py`, `nn.py` and `optim.py`."""

from pea import nn, optim, viz, walk
from pea.engine import Value
from pea.gradcheck import check
from pea.sums import dot, sum

__all__ = ["Value", "check", "dot", "nn", "optim", "sum", "viz", "walk"]
