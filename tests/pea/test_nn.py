"""Networks and losses: shapes, seeds, arity, and torch's numbers."""

import copy
import math
import random
from collections.abc import Callable

import pytest
import torch

import pea
from pea import Value
from pea.nn import ACTIVATIONS, MLP, Layer, Module, Neuron, cross_entropy_loss, one_hot, softmax


def test_parameters_come_weights_before_bias_neuron_by_neuron() -> None:
    model = MLP(2, [3, 1])
    first = model.layers[0].neurons[0]
    assert model.parameters()[:3] == [first.w[0], first.w[1], first.b]
    assert len(model.parameters()) == 3 * (2 + 1) + 1 * (3 + 1)
    assert [layer.neurons[0].activation for layer in model.layers] == ["relu", "linear"]


def test_seeded_initialisation() -> None:
    def weights(rng: random.Random | None) -> list[float]:
        return [p.data for p in MLP(2, [4, 1], rng=rng).parameters()]

    assert weights(random.Random(1)) == weights(random.Random(1)) != weights(random.Random(2))
    random.seed(3)
    first = weights(None)
    random.seed(3)
    assert weights(None) == first


def test_initialisation_has_the_variance_it_claims() -> None:
    for activation, gain in (("relu", 2.0), ("tanh", 1.0)):
        layer = Layer(100, 100, activation=activation, rng=random.Random(0))
        weights = [w.data for n in layer.neurons for w in n.w]
        assert sum(w * w for w in weights) / len(weights) == pytest.approx(gain / 100, rel=0.05)
        assert all(n.b.data == 0.0 for n in layer.neurons)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_agrees_with_torch(activation: str) -> None:
    model = MLP(3, [5, 4, 2], activation=activation, rng=random.Random(0))
    x = [0.5, -1.5, 2.0]
    pea.sum(v * v for v in model(x)).backward()

    acts: dict[str, Callable[..., torch.Tensor]] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "linear": torch.clone,
    }
    out, grads, wanted = torch.tensor(x, dtype=torch.float64), [], []
    for i, layer in enumerate(model.layers):
        w = torch.tensor([[v.data for v in n.w] for n in layer.neurons], dtype=torch.float64, requires_grad=True)
        b = torch.tensor([n.b.data for n in layer.neurons], dtype=torch.float64, requires_grad=True)
        out = w @ out + b
        out = acts[activation](out) if i < 2 else out
        wanted += [w, b]
        grads += [[[v.grad for v in n.w] for n in layer.neurons], [n.b.grad for n in layer.neurons]]
    torch.autograd.backward((out * out).sum())
    for tensor, grad in zip(wanted, grads, strict=True):
        torch.testing.assert_close(torch.tensor(grad, dtype=torch.float64), tensor.grad, rtol=1e-9, atol=1e-12)


def test_one_output_is_a_value_and_more_are_a_list() -> None:
    x = [2.0, 3.0, -1.0]
    for one in (MLP(3, [4, 4, 1]), MLP(3, [1, 1]), Layer(3, 1), Neuron(3)):
        assert type(one(x)) is Value
    for many in (MLP(3, [4, 2]), MLP(3, [1, 2]), Layer(3, 2)):
        assert [type(v) for v in many(x)] == [Value, Value]


def test_wrong_numbers_of_inputs_say_so() -> None:
    with pytest.raises(ValueError, match=r"Neuron\(3, activation='relu'\) takes 3 inputs, got 2"):
        Neuron(3)([1.0, 2.0])
    with pytest.raises(ValueError, match=r"Layer\(3, 2, .*takes 3 inputs, got 4"):
        Layer(3, 2)([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"MLP of .*takes 3 inputs, got 0"):
        MLP(3, [2, 1])([])


def test_impossible_networks_say_so() -> None:
    with pytest.raises(ValueError, match="nin=0"):
        Neuron(0)
    with pytest.raises(ValueError, match="nout=0"):
        Layer(2, 0)
    with pytest.raises(ValueError, match="at least one layer"):
        MLP(2, [])
    with pytest.raises(ValueError, match="unknown activation 'rleu'; known are relu, tanh, sigmoid, linear"):
        MLP(2, [2, 1], activation="rleu")
    with pytest.raises(NotImplementedError, match="Module"):
        Module().parameters()


def test_zero_grad() -> None:
    model = MLP(1, [2, 1], activation="tanh")
    model([1.0]).backward()
    assert any(p.grad for p in model.parameters())
    model.zero_grad()
    assert not any(p.grad for p in model.parameters())


def test_a_model_can_be_copied() -> None:
    model = MLP(1, [2, 1], rng=random.Random(0))
    twin = copy.deepcopy(model)
    assert twin([2.0]).data == model([2.0]).data
    twin.parameters()[-1].data += 1.0
    assert twin([2.0]).data == model([2.0]).data + 1.0


LOGITS = [[0.1, -2.0, 3.5], [1000.0, 999.0, -1000.0], [-1e5, -1e5 + 1, -1e5], [7.0]]


@pytest.mark.parametrize("logits", LOGITS)
def test_softmax_and_cross_entropy_agree_with_torch(logits: list[float]) -> None:
    for target in range(len(logits)):
        ours = [Value(x) for x in logits]
        theirs = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        loss = cross_entropy_loss(ours, target)
        expected = torch.nn.functional.cross_entropy(theirs[None], torch.tensor([target]))
        loss.backward()
        torch.autograd.backward(expected)
        assert theirs.grad is not None
        assert loss.data == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
        assert [v.grad for v in ours] == pytest.approx(theirs.grad.tolist(), rel=1e-9, abs=1e-12)
    assert [p.data for p in softmax(logits)] == pytest.approx(theirs.softmax(0).tolist(), rel=1e-9)


def test_an_unlikely_target_has_a_finite_loss() -> None:
    assert cross_entropy_loss([0.0, 5000.0], 0).data == 5000.0


def test_losses_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="target 3 is not one of the 3 logits"):
        cross_entropy_loss([1.0, 2.0, 3.0], 3)
    with pytest.raises(ValueError, match="target -1"):
        cross_entropy_loss([1.0, 2.0], -1)
    with pytest.raises(ValueError, match="no logits"):
        softmax([])
    with pytest.raises(ValueError, match="class 2 is not one of 2"):
        one_hot(2, 2)


def test_one_hot() -> None:
    assert one_hot(1, 3) == [0.0, 1.0, 0.0]


def test_softmax_sums_to_one() -> None:
    assert math.isclose(sum(p.data for p in softmax([3.0, 1.0, -2.0])), 1.0)
