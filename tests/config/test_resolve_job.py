"""From names, a file, a preset and words to a job."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core.config.resolve_job import plan
from pealm_core.config.toml_layers import Layer, file_layer
from pealm_core.contract.errors import PluginError, UserError

ALL = ("model", "input", "tokenizer", "optimizer")
PLUGIN = """
from pealm_core import DatasetSpec, ModelSpec, OptimizerSpec, hookimpl

@hookimpl
def pealm_models():
    return ModelSpec(name="duck", summary="x", config="pealm_duck_plugin:Config", factory="pealm_duck_plugin:Config",
                     presets={"slow": {"width": 3, "optimizer": {"name": "sgd", "momentum": 0.5}, "input": {"pond": 7}},
                              "plain": {"optimizer": {"beta1": 0.5}}},
                     recipe={"optimizer": {"beta2": 0.6}, "input": {"tinyshakespeare": True}})

@hookimpl
def pealm_optimizers():
    return OptimizerSpec(name="sgd", summary="x", config="pealm_duck_plugin:Sgd", factory="pealm_duck_plugin:Sgd")

@hookimpl
def pealm_datasets():
    return DatasetSpec(name="pond", summary="x", config="pealm_duck_plugin:Pond", factory="pealm_duck_plugin:Pond",
                       value="size")

from dataclasses import dataclass
from functools import cached_property
from pealm_core import setting

@dataclass(frozen=True, slots=True)
class Config:
    vocab_size: int = setting(0, hidden=True)
    block_size: int = 8
    width: int = 4

@dataclass(frozen=True)
class Sgd:
    momentum: float = 0.0
    @cached_property
    def twice(self):
        return 2 * self.momentum

@dataclass(frozen=True)
class Pond:
    size: int = 1
    deep: bool = False
"""


OBSERVER = """
from dataclasses import dataclass
from pealm_core import ObserverSpec, hookimpl

@dataclass(frozen=True)
class Config:
    file: str = "metrics.csv"
    every: int = 1

@hookimpl
def pealm_observers():
    return ObserverSpec(name="csv", summary="x", config="pealm_log_plugin:Config")
"""


@pytest.fixture
def duck(stranger: Callable[..., None]) -> None:
    stranger("pealm-duck", PLUGIN)


def words(**tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"model": {"name": "duck"}, **tables}


def test_a_preset_names_optimizer_and_input(duck: None) -> None:
    job = plan(ALL, preset="slow", words=words())
    tables = job.tables()
    assert tables["optimizer"] == {"name": "sgd", "momentum": 0.5}
    assert tables["input"] == {"pond": 7, "deep": False}
    assert job.origins["input"]["size"] == job.origins["optimizer"]["momentum"] == "preset slow"
    other = plan(
        ALL, preset="slow", words=words(optimizer={"name": "adamw"}, input={"tinyshakespeare": True})
    ).tables()
    assert other["optimizer"]["beta2"] == 0.6 and other["input"] == {"tinyshakespeare": True}


def test_a_preset_that_names_no_optimizer_sets_the_recipes(duck: None) -> None:
    adamw = plan(ALL, preset="plain", words=words()).configs["optimizer"]
    assert (adamw.beta1, adamw.beta2) == (0.5, 0.6)
    assert plan(ALL, preset="plain", words=words(optimizer={"name": "sgd"})).configs["optimizer"].momentum == 0.0


def test_a_preset_lies_above_a_runs_own_config_and_below_another_file(duck: None) -> None:
    run = Layer("run", plan(ALL, preset="slow", words=words(model={"name": "duck", "width": "9"})).tables())
    assert plan(ALL, file=run).configs["model"].width == 9
    assert plan(ALL, file=run, preset="slow").configs["model"].width == 3
    file = Layer("file", {"model": {"name": "duck", "width": 5}})
    job = plan(ALL, file=file, preset="slow")
    assert job.configs["model"].width == 5 and job.entries["optimizer"].name == "sgd"


def test_the_size_of_a_models_vocabulary_is_not_an_option(pealm: Callable[..., Any], tmp_path: Path) -> None:
    """The core fills it, also where the config does not hide it."""
    plugin = tmp_path / "pond.py"
    plugin.write_text("""
from dataclasses import dataclass
from pealm_core import ModelSpec, hookimpl

@dataclass(frozen=True)
class Config:
    vocab_size: int = 0
    block_size: int = 8

@hookimpl
def pealm_models():
    yield ModelSpec(name="pond", summary="x", config=Config, factory=Config, tokenizer="char")
""")
    done = pealm("--plugin", plugin, "train", "pond", "--model.vocab-size", 9)
    assert done.code == 2 and "unknown option --model.vocab-size" in done.err
    assert "vocab-size" not in pealm("--plugin", plugin, "train", "pond", "--help").out


def test_a_name_with_its_distribution_is_the_same_component(duck: None) -> None:
    file = Layer("file", {"model": {"name": "duck", "width": 5}, "input": {"pond": 2}})
    job = plan(ALL, file=file, words={"model": {"name": "pealm-duck/duck"}, "input": {"pealm-duck/pond": True}})
    assert job.entries["model"].name == "pealm-duck/duck"
    assert (job.configs["model"].width, job.configs["input"].size) == (5, 2)


def test_the_value_of_a_dataset_is_set_under_its_name_only(duck: None) -> None:
    with pytest.raises(UserError, match=r"unknown option --input.size"):
        plan(ALL, words=words(input={"pond": "3", "size": "4"}))


def test_a_dataset_without_a_value_field_takes_no_value(
    stranger: Callable[..., None], pealm: Callable[..., Any]
) -> None:
    stranger("pealm-duck", PLUGIN.replace('value="size"', "value=None"))
    assert plan(ALL, words=words(input={"pond": True})).tables()["input"] == {"pond": True, "size": 1, "deep": False}
    with pytest.raises(UserError, match=r"--input.pond takes no value"):
        plan(ALL, words=words(input={"pond": "3"}))
    line = ("train", "--input.pond", "duck", "--input.deep", "true", "--print-config")
    printed = pealm(*line)
    assert printed.code == 0 and "deep = true " in printed.out


def test_configs_with_slots_or_cached_properties(duck: None) -> None:
    job = plan(ALL, preset="slow", words=words())
    assert job.configs["optimizer"].twice == 1.0  # now cached in the instance's __dict__
    built = job.with_model_config(dataclasses.replace(job.configs["model"], vocab_size=5))
    assert built.tables()["model"] == {"name": "duck", "vocab-size": 5, "block-size": 8, "width": 3}
    assert built.tables()["optimizer"] == {"name": "sgd", "momentum": 0.5}


def test_a_mistake_in_a_preset_is_the_plugins(stranger: Callable[..., None]) -> None:
    stranger("pealm-duck", PLUGIN.replace('"width": 3', '"widht": 3'))
    with pytest.raises(PluginError, match=r"pealm-duck: preset slow: \[model\] widht: unknown key; did you mean"):
        plan(ALL, preset="slow", words=words())


def test_all_mistakes_at_once(duck: None) -> None:
    with pytest.raises(UserError) as error:
        plan(ALL, words=words(model={"name": "duck", "width": "x", "depth": "1"}, optimizer={"bta1": "1"}))
    assert len(str(error.value).splitlines()) == 3


MIXED = """
[model]
name = "duck"

[[input]]
pond = 3
weight = 2

[[input]]
pond = 5
deep = true
"""


def mixed(tmp_path: Path, text: str = MIXED) -> Layer:
    (tmp_path / "mixed.toml").write_text(text)
    return file_layer(tmp_path / "mixed.toml")


def test_a_list_of_inputs_is_a_mixture(duck: None, tmp_path: Path) -> None:
    job = plan(ALL, file=mixed(tmp_path), preset="slow")  # whose own input is replaced
    assert job.inputs == ["input.1", "input.2"] and job.weights == {"input.1": 2.0, "input.2": 1.0}
    assert (job.configs["input.1"].size, job.configs["input.2"].deep) == (3, True)
    tables = job.tables()
    assert tables["input"] == [
        {"pond": 3, "deep": False, "weight": 2.0},
        {"pond": 5, "deep": True, "weight": 1.0},
    ]
    again = plan(ALL, file=Layer("run", tables))
    assert again.tables() == tables and "pealm-duck" in tables["versions"]
    one = plan(ALL, file=mixed(tmp_path), words=words(input={"pond": "7"}))
    assert one.inputs == ["input"] and one.tables()["input"] == {"pond": 7, "deep": False} and not one.weights
    assert plan(("model",), file=mixed(tmp_path)).inputs == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight = 2", "weight = 0", r"mixed.toml, line 7: \[input.1\] weight must be above 0, not 0"),
        ("weight = 2", "weight = true", "must be a number, not True"),
        ("weight = 2", "weight = nan", "must be finite, not nan"),
        ("deep = true", "deeep = true", r"mixed.toml, line 11: \[input.2\] deeep: unknown key; did you mean 'deep'"),
        ("pond = 5\ndeep = true", "", r"mixed.toml, line 9: \[input.2\] names no dataset"),
        ("pond = 5", "pool = 5", "unknown dataset 'pool'"),
        ("deep = true", "tinyshakespeare = true", "one input at a time"),
    ],
)
def test_mistakes_in_a_mixture_have_their_line(duck: None, tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(ALL, file=mixed(tmp_path, MIXED.replace(old, new)))


def test_a_setting_in_the_line_does_not_say_which_input(duck: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input.deep: .*mixed.toml has several inputs; change it there"):
        plan(ALL, file=mixed(tmp_path), words=words(input={"deep": "true"}))


def test_the_settings_of_an_observer(duck: None, stranger: Callable[..., None], tmp_path: Path) -> None:
    stranger("pealm-log", OBSERVER)
    parts = (*ALL, "observer")
    plain = plan(parts, words=words())
    assert (plain.observer("csv").every, "observer" in plain.tables()) == (1, False)
    file = tmp_path / "c.toml"
    file.write_text("[observer.csv]\nevery = 5\n")
    job = plan(parts, file=file_layer(file), words=words(observer={"csv": {"file": "x.csv"}}))
    assert job.tables()["observer"] == {"csv": {"file": "x.csv", "every": 5}}
    assert job.origins["observer.csv"] == {"file": "command line", "every": str(file)}
    again = plan(parts, file=Layer("run", job.tables()))
    assert again.observer("csv") == job.observer("csv")
    assert "observer" not in plan(ALL, file=Layer("run", job.tables())).tables()  # for instance `pealm sample`


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"csv": {"fil": "x"}}, r"unknown option --observer.csv.fil; did you mean '--observer.csv.file'\?"),
        ({"csv": {"every": "x"}}, r"--observer.csv.every must be"),
        ({"cvs": {"file": "x"}}, r"unknown observer 'cvs'; did you mean 'csv'\?"),
        ({"csv": "x"}, r"--observer.csv: give it a setting, as in --observer.csv.KEY VALUE"),
    ],
)
def test_wrong_settings_of_an_observer(
    duck: None, stranger: Callable[..., None], tables: dict[str, Any], message: str
) -> None:
    stranger("pealm-log", OBSERVER)
    with pytest.raises(UserError, match=message):
        plan((*ALL, "observer"), words=words(observer=tables))
