"""pea: a scalar autograd engine in plain Python. Read `engine.py` first, then `nn.py`, then `optim.py`."""

from pea import nn, optim, viz
from pea.engine import Value, dot, sum
from pea.gradcheck import check

__all__ = ["Value", "check", "dot", "nn", "optim", "sum", "viz"]
