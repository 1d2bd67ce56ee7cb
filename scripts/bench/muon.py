"""Muon's step beside torch.optim.Muon's, on the same matrices and gradients.

    python scripts/bench/muon.py

torch.optim.Muon multiplies in bf16, one matrix after the other: fast where the CPU has AVX512-BF16 or AMX, hundreds
of times slower elsewhere. Ours takes bf16 only where that is fast, and the matrices of one shape together. Prints the
median of both, alternating, their ratio, and how far each step is from the exactly orthogonalised one.
"""

import copy
import statistics
import time
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from pealm_cpu import products
from pealm_muon.config import MuonConfig
from pealm_muon.optimizer import build

LAYERS, WIDTH, STEPS = 4, 128, 15


class Matrices(nn.Module):
    """The matrices of a small transformer: four of C x C, one each way between C and 4 C, in every layer."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(WIDTH, WIDTH)] * 4 + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
        self.weights = nn.ParameterList(nn.Parameter(0.02 * torch.randn(s)) for _ in range(LAYERS) for s in shapes)

    def muon_parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return list(self.weights)


def error(step: Tensor, gradient: Tensor) -> float:
    """The angle in degrees between a step and minus the orthogonalised gradient."""
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity(step.flatten(), -(u @ vh).flatten(), dim=0)
    return float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    ours = Matrices()
    theirs = copy.deepcopy(ours)
    steppers = {
        "torch.optim.Muon": (theirs, torch.optim.Muon(theirs.parameters(), lr=0.01, weight_decay=0.0)),
        "pealm-muon": (ours, build(MuonConfig(), ours, lr=0.01)),
    }
    times: dict[str, list[float]] = {name: [] for name in steppers}
    gradients = [torch.randn_like(p) for p in ours.parameters()]
    for turn in range(STEPS + 1):
        for name, (model, optimizer) in steppers.items():
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient.clone()
            before = [p.detach().clone() for p in model.parameters()]
            with products(torch.device("cpu")) if name == "pealm-muon" else nullcontext():  # as the trainer has it
                began = time.perf_counter()
                optimizer.step()
                took = time.perf_counter() - began
            if turn:
                times[name].append(took)
            else:
                steps = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
                angles = [error(s, g) for s, g in zip(steps, gradients, strict=True)]
                print(f"{name:<18} first step: {statistics.mean(angles):.1f} degrees from exact, on average")
    slow, fast = (statistics.median(times[name]) for name in steppers)
    print(f"{LAYERS} layers of {WIDTH}: {1e3 * slow:.1f} ms and {1e3 * fast:.1f} ms, {slow / fast:.1f} times as fast")


if __name__ == "__main__":
    main()
