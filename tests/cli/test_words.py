"""Splitting a command line without knowing the components."""

from collections.abc import Callable
from typing import Any

import click
import pytest

from pealm_core.checkpoints import saved_tokenizer
from pealm_core.cli.components import ComponentCommand
from pealm_core.config.settings import Sampling, TrainSettings

PARAMS = [
    click.Argument(["model"], required=False),
    click.Option(["--prompt"]),
    click.Option(["--stop"], multiple=True),
    click.Option(["--stream/--no-stream"], default=True),
]


@pytest.fixture(autouse=True)
def _unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is the words of the line."""
    monkeypatch.setattr(saved_tokenizer, "plan_with_tokenizer", lambda *args, words, **more: words)


def line(*args: str) -> dict[str, Any]:
    flat = {"train": TrainSettings, "sample": Sampling}
    command = ComponentCommand("x", params=PARAMS, flat=flat, components=())
    return {name: value for name, value in command.make_context("x", [*args]).params.items() if value}


@pytest.mark.parametrize(
    ("args", "params", "words"),
    [
        ("gpt2 --model.bias false", {"model": "gpt2"}, {"model": {"bias": "false"}}),
        ("--model.bias false gpt2", {"model": "gpt2"}, {"model": {"bias": "false"}}),
        ("--model.bias=false gpt2", {"model": "gpt2"}, {"model": {"bias": "false"}}),
        ("--model.no-bias gpt2 x", {"model": "x"}, {"model": {"no-bias": "gpt2"}}),
        ("--model.bias --lr gpt2", {"model": "gpt2"}, {"model": {"bias": "--lr"}}),
        ("--model.a.b -1 gpt2", {"model": "gpt2"}, {"model": {"a.b": "-1"}}),
        ("--lr -1 gpt2", {"model": "gpt2"}, {"train": {"lr": "-1"}}),
        ("--batch_size 3 --batch-size=4", {}, {"train": {"batch-size": "4"}}),
        ("-n 5 m", {"model": "m"}, {"sample": {"max-new-tokens": "5"}}),
        ("-n5 m", {"model": "m"}, {"sample": {"max-new-tokens": "5"}}),
        ("--prompt --lr m", {"model": "m", "prompt": "--lr"}, {}),
        ("--prompt --model.n m", {"model": "m", "prompt": "--model.n"}, {}),
        ("--prompt=--lr m", {"model": "m", "prompt": "--lr"}, {}),
        ("--stop -- --lr 3", {"stop": ("--",)}, {"train": {"lr": "3"}}),
        ("--lr 3 -- --lr", {"model": "--lr"}, {"train": {"lr": "3"}}),
        ("--input.text a.txt gpt2", {"model": "gpt2"}, {"input": {"text": "a.txt"}}),
        ("--input.text - gpt2", {"model": "gpt2"}, {"input": {"text": "-"}}),
        ("--input.kindergarten --lr 3", {}, {"input": {"kindergarten": True}, "train": {"lr": "3"}}),
        ("--input.pealm-text/text a gpt2", {"model": "gpt2"}, {"input": {"pealm-text/text": "a"}}),
        ("--input.val_fraction .5 gpt2", {"model": "gpt2"}, {"input": {"val-fraction": ".5"}}),
    ],
)
def test_every_word_is_an_option_a_value_or_an_argument(
    args: str, params: dict[str, Any], words: dict[str, Any]
) -> None:
    stream = {"stream": True}
    assert line(*args.split()) == params | stream | ({"job": words} if words else {})


def test_a_dataset_without_a_value_field_takes_none(stranger: Callable[..., None]) -> None:
    record = "DatasetSpec(name='tale', summary='s', factory='a:b')"
    source = f"from pealm_core import hookimpl, DatasetSpec\n@hookimpl\ndef pealm_datasets():\n    return {record}"
    stranger("pealm-tale", source)
    for word in ("--input.tale", "--input.pealm-tale/tale"):
        assert line(word, "gpt2") == {"model": "gpt2", "stream": True, "job": {"input": {word[8:]: True}}}


def test_help_is_an_option_and_not_a_value() -> None:
    assert line("--prompt", "--help")["prompt"] == "--help"
    assert line("--model.x", "-h")["job"] == {"model": {"x": "-h"}}
    assert line("--", "-h")["model"] == "-h"


@pytest.mark.parametrize("word", ["--lrr", "--model.name", "--no-lr"])
def test_unknown_options(word: str) -> None:
    with pytest.raises(click.NoSuchOption):
        line(word, "3")


@pytest.mark.parametrize("option", ["--lr", "--model.n-layer", "--prompt"])
def test_an_option_at_the_end_without_its_value(option: str) -> None:
    with pytest.raises(click.BadOptionUsage, match=f"{option}' requires an argument"):
        line("m", option)
