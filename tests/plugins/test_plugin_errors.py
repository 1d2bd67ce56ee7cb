"""What a plugin's parts return is checked where they are called, and the plugin is blamed for it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from pealm_core.contract.errors import PluginError
from pealm_core.contract.fields import setting, settings_of
from pealm_core.data.documents import documents
from pealm_core.plugins.plugin_errors import FORWARD, call_plugin, check, shown
from pealm_core.training.observers import Metrics


def test_an_error_without_a_line_of_the_plugin_names_the_part_and_what_to_return() -> None:
    class Model:
        def forward(self) -> None: ...

    with pytest.raises(PluginError, match=r"Model.forward: TypeError: .*; it must return \(logits or None, loss\)"):
        call_plugin(Model().forward, FORWARD, 3)
    with pytest.raises(PluginError, match=r"Model.forward must return \(logits or None, loss\) with .*, not None"):
        call_plugin(Model().forward, FORWARD)


@pytest.mark.parametrize("more", [(), ({},), ({"a": 1.0, "b": torch.ones(()), "c": np.float32(2)},)])
def test_a_model_may_return_metrics(more: tuple[Any, ...]) -> None:
    loss = torch.ones(())
    check("forward", FORWARD, (None, loss, *more))
    for wrong in ((loss,), loss, (None, None), (None, torch.ones(2)), (None, loss, None), (None, loss, {}, {})):
        with pytest.raises(PluginError, match="forward must return"):
            check("forward", FORWARD, wrong)
    assert shown((None, torch.ones(2, 3))) == "(None, a Tensor of shape (2, 3))"


def test_a_dataset_is_blamed_for_its_documents() -> None:
    class Files:
        def documents(self, split: str) -> Any:
            yield "a"
            raise FileNotFoundError(2, "No such file", "/nowhere")

    read = documents(Files(), "train")
    assert next(read) == "a"
    with pytest.raises(PluginError, match=r"Files.documents: FileNotFoundError: .*'/nowhere'"):
        next(read)


def test_only_numbers_are_added_to_metrics() -> None:
    line = Metrics({"step": 1, "loss": 2.0})
    line["a"], line["b"], line["c"] = torch.tensor(0.5), np.int64(3), None
    line |= {"d": 2**40}
    line.update(e=1.5)
    assert dict(line) == {"step": 1, "loss": 2.0, "a": 0.5, "b": 3.0, "c": None, "d": 2**40, "e": 1.5}
    assert all(type(line[name]) is float for name in "abe") and type(line["d"]) is int
    for name, value in (
        ("x", "3"),
        ("x", math.nan),
        ("x", [3]),
        ("x", 10**400),
        (3, 1.0),
        ("loss", 0.0),
        ("lr", 1.0),
    ):
        with pytest.raises(ValueError, match="metrics"):
            line[name] = value  # type: ignore[index]
    for remove in (line.clear, line.popitem, lambda: line.pop("loss"), lambda: line.__delitem__("a")):
        with pytest.raises(TypeError, match="can't be removed"):
            remove()
    assert len(line) == 7


def test_three_dots_mean_that_a_setting_is_required() -> None:
    @dataclass(frozen=True)
    class Config:
        size: int = setting(3, "size", at_least=1)
        path: str = setting(..., "file to write")

    assert Config(path="x").size == 3 and settings_of(Config)["path"].help == "file to write"
    with pytest.raises(TypeError, match="path"):
        Config()


@pytest.mark.parametrize(("type_", "default"), [(int, 0), (int, 0.5), (float, "x"), (int, None), (float, math.nan)])
def test_a_default_keeps_its_type_and_bounds(type_: type, default: Any) -> None:
    config = dataclass(type("Config", (), {"__annotations__": {"n": type_}, "n": setting(default, "n", at_least=1)}))
    with pytest.raises(TypeError, match="a default of 'n' that is wrong"):
        settings_of(config)
