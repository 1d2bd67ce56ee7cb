"""Muon: what a step is, which parameters it takes, and that a run goes on from its state."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pealm_core.checkpoints.tensors import read_tensors, read_tree
from pealm_muon.config import MuonConfig
from pealm_muon.optimizer import build, matrices, orthogonalize, orthogonalize_all


class Config:
    vocab_size = 7


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = Config()
        self.table = nn.Embedding(7, 4)
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        x = self.table(idx)
        return self.head(self.norm(x + self.down(self.up(x).relu())))


def step(net: Net, optimizer: torch.optim.Optimizer) -> float:
    idx = torch.arange(7)
    loss = nn.functional.cross_entropy(net(idx), (idx + 1) % 7)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize(("bf16", "near"), [(False, 1e-3), (True, 0.03)])
@pytest.mark.parametrize("shape", [(3, 4, 8), (1, 5, 5), (2, 16, 64), (2, 64, 16)])
def test_singular_values_go_to_about_one_and_the_singular_vectors_stay(
    shape: tuple[int, ...], bf16: bool, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pealm_muon.optimizer.fast_bf16", lambda device: bf16)
    torch.manual_seed(0)
    batch = torch.randn(shape)
    u, _, vh = torch.linalg.svd(batch, full_matrices=False)
    result = orthogonalize(batch)
    s = torch.linalg.svdvals(result)
    assert float(s.min()) > 0.6 and float(s.max()) < 1.3
    inside = u.mT @ result @ vh.mT  # diagonal, where the vectors are the same
    assert float((inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max()) < near


def test_a_batch_gives_what_each_matrix_alone_gives_whichever_way_round() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(s) for s in ((4, 8), (8, 4), (3, 4, 8), (5, 5))]
    for tensor, result in zip(tensors, orthogonalize_all(tensors), strict=True):
        assert result.shape == tensor.shape
        for one, got in zip(
            tensor.reshape(-1, *tensor.shape[-2:]), result.reshape(-1, *tensor.shape[-2:]), strict=True
        ):
            wide = one if one.shape[0] <= one.shape[1] else one.mT
            alone = orthogonalize(wide[None])[0]
            torch.testing.assert_close(got if one.shape[0] <= one.shape[1] else got.mT, alone, rtol=1e-4, atol=1e-4)


RANKS = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from pealm_muon import optimizer
torch.set_num_threads(1)
rank = int(os.fork() == 0)  # modules are imported once
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
inner, sizes = optimizer.orthogonalize, []
optimizer.orthogonalize = lambda batch: sizes.append(len(batch)) or inner(batch)
torch.manual_seed(0)
tensors = [torch.randn(shape) for shape in {shapes}]
result = [tensor.tolist() for tensor in optimizer.orthogonalize_all(tensors)]
Path(sys.argv[1] + str(rank)).write_text(json.dumps([result, sizes]))
dist.barrier()
os._exit(0 if rank else os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_two_processes_share_the_work_and_have_the_same_result(tmp_path: Path) -> None:
    shapes = [
        (4, 8),
        (3, 5),
        (4, 4, 8),
        (3, 5),
        (6, 6),
    ]  # 5, 2 and 1 of a shape: one process has less to do, or nothing
    code = RANKS.replace("{shapes}", repr(shapes))
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], check=True, timeout=100)
    (first, mine), (second, others) = (json.loads((tmp_path / f"store{rank}").read_text()) for rank in range(2))
    assert first == second
    assert (mine, others) == ([3, 1, 1], [2, 1])
    torch.manual_seed(0)
    for result, alone in zip(first, orthogonalize_all([torch.randn(shape) for shape in shapes]), strict=True):
        torch.testing.assert_close(torch.tensor(result), alone, rtol=1e-2, atol=1e-2)  # as exact as bf16


def test_it_takes_the_matrices_and_leaves_tables_head_and_vectors_to_adamw() -> None:
    net = Net()
    assert [id(p) for p in matrices(net)] == [id(net.up.weight), id(net.down.weight)]
    net.muon_parameters = lambda: [net.down.weight]  # type: ignore[assignment]
    assert [id(p) for p in matrices(net)] == [id(net.down.weight)]
    tied = Net()
    tied.head.weight = tied.table.weight
    assert id(tied.head.weight) not in [id(p) for p in matrices(tied)]
    wide = Net()
    wide.up, wide.down = nn.Linear(4, 7), nn.Linear(7, 4, bias=False)  # as many as the vocabulary has tokens
    assert [id(p) for p in matrices(wide)] == [id(wide.up.weight), id(wide.down.weight)]
    wide.up, wide.down = nn.Linear(4, 4), nn.Linear(4, 7)
    assert [id(p) for p in matrices(wide)] == [id(wide.up.weight), id(wide.down.weight)]
    wide.up, wide.down = nn.Linear(4, 7), nn.Linear(7, 4, bias=False)
    del wide.head  # as where the logits are products with the table
    assert [id(p) for p in matrices(wide)] == [id(wide.up.weight), id(wide.down.weight)]


def test_the_first_step_is_the_orthogonalised_gradient_at_the_rate_of_its_shape() -> None:
    net = Net()
    optimizer = build(MuonConfig(weight_decay=0.0), net, lr=0.1)
    before, table = net.up.weight.detach().clone(), net.table.weight.detach().clone()
    step(net, optimizer)
    gradient = net.up.weight.grad
    assert gradient is not None  # kept, as with any optimizer
    expected = orthogonalize(gradient.mT[None])[0].mT
    torch.testing.assert_close(before - net.up.weight, 0.1 * (6 / 4) ** 0.5 * expected, rtol=1e-4, atol=1e-5)
    assert (table - net.table.weight).abs().max().item() == pytest.approx(0.02, rel=1e-3)  # AdamW's first step


def test_each_slice_of_three_dimensions_is_a_matrix() -> None:
    class Experts(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight.clone())

        def muon_parameters(self) -> list[nn.Parameter]:
            return [self.weight]

    torch.manual_seed(1)
    start, gradient = torch.randn(3, 6, 4), torch.randn(3, 6, 4)
    together, alone = Experts(start), [Experts(matrix) for matrix in start]
    for model, its in zip([together, *alone], [gradient, *gradient], strict=True):
        model.weight.grad = its.clone()
        build(MuonConfig(), model, lr=0.1).step()
    for row, model in zip(together.weight, alone, strict=True):
        torch.testing.assert_close(row, model.weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("cautious", [True, False])
def test_weights_decay(cautious: bool) -> None:
    net, free = Net(), Net()
    step(net, build(MuonConfig(weight_decay=1.0, cautious=cautious), net, lr=0.1))
    step(free, build(MuonConfig(weight_decay=0.0), free, lr=0.1))
    before = Net().up.weight
    smaller = (before - free.up.weight) * before > 0  # the step itself goes towards zero
    assert bool(smaller.any()) and not bool(smaller.all())
    lost = 0.1 * before * (smaller if cautious else 1)
    torch.testing.assert_close(free.up.weight - net.up.weight, lost, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="no matrices"):
        build(MuonConfig(), nn.LayerNorm(3), lr=0.1)


def test_of_the_rest_only_tables_decay() -> None:
    net, free = Net(), Net()
    with torch.no_grad():
        for model in (net, free):
            model.up.bias.fill_(2.0)
    step(net, build(MuonConfig(adam_decay=0.5, adam_lr=0.1), net, lr=0.1))
    step(free, build(MuonConfig(adam_lr=0.1), free, lr=0.1))
    for name in ("table", "head"):
        before = getattr(Net(), name).weight
        lost = getattr(free, name).weight - getattr(net, name).weight
        torch.testing.assert_close(lost, 0.1 * 0.5 * before, rtol=1e-3, atol=1e-6)
    assert torch.equal(net.up.bias, free.up.bias) and torch.equal(net.norm.weight, free.norm.weight)
    assert float((net.norm.weight.detach() - 1).abs().max()) < 0.11  # one step of AdamW, and no decay


def test_it_learns_and_goes_on_from_its_state_bit_for_bit() -> None:
    net = Net()
    optimizer = build(MuonConfig(adam_lr=0.05), net, lr=0.05)
    losses = [step(net, optimizer) for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]
    other = Net()
    other.load_state_dict(net.state_dict())
    again = build(MuonConfig(adam_lr=0.05), other, lr=0.05)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        assert step(net, optimizer) == step(other, again)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_run_that_stops_and_goes_on_equals_one_that_never_stopped(
    pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    base = (
        "--model.n-layer",
        1,
        "--model.n-embd",
        16,
        "--model.block-size",
        16,
        "--batch-size",
        4,
        "--schedule.min-lr-ratio",
        1.0,
        "--warmup-steps",
        0,
    )
    args = ("train", "sprout", "--input.text", book, *base)
    assert pealm(*args, "--steps", 6, "--out", tmp_path / "a").code == 0
    assert pealm(*args, "--steps", 3, "--out", tmp_path / "b").code == 0
    assert pealm("train", "--out", tmp_path / "b", "--steps", 6).code == 0
    a, b = (sorted((tmp_path / n / "checkpoints").glob("step-*"))[-1] for n in "ab")
    for name in ("model", "optimizer"):
        one, two = (read_tensors(c / f"{name}.safetensors")[0] for c in (a, b))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert (
        read_tree(a / "optimizer.safetensors")["param_groups"]
        == read_tree(b / "optimizer.safetensors")["param_groups"]
    )


def torchs(layer: nn.Linear, *, momentum: float = 0.95, nesterov: bool = True) -> torch.optim.Optimizer:
    return torch.optim.Muon([layer.weight], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.0)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (16, 64)])
def test_ten_steps_are_those_of_torchs_muon(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With Nesterov's step ahead, and the rate of a shape as Jordan et al. have it, torch's default."""
    monkeypatch.setattr("pealm_muon.optimizer.fast_bf16", lambda device: True)  # torch iterates in bf16
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(10)]

    def train(make: Callable[[nn.Linear], torch.optim.Optimizer]) -> torch.Tensor:
        layer = nn.Linear(shape[1], shape[0], bias=False)
        layer.weight.data.copy_(start)
        optimizer = make(layer)
        for gradient in gradients:
            layer.weight.grad = gradient.clone()
            optimizer.step()
        return layer.weight.detach()

    theirs = train(torchs)
    ours = train(lambda layer: build(MuonConfig(), nn.Sequential(layer), lr=0.1))
    others = [train(partial(torchs, nesterov=False)), train(partial(torchs, momentum=0.05))]
    difference, *other = [float((weights - theirs).abs().max()) for weights in (ours, *others)]
    assert difference < 0.1 * min(other)
