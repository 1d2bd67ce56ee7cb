"""Splitting a command line without knowing the components."""

from typing import Any

import click
import pytest

from pealm_core.cli.words import Line, split
from pealm_core.config.settings import Sampling, TrainSettings
from pealm_core.plugins.host import PluginHost

PARAMS = [
    click.Argument(["model"], required=False),
    click.Option(["--prompt"]),
    click.Option(["--stop"], multiple=True),
    click.Option(["--stream/--no-stream"], default=True),
]


def line(*args: str) -> Line:
    return split(args, PARAMS, {"train": TrainSettings, "sample": Sampling}, PluginHost.installed())


@pytest.mark.parametrize(
    ("args", "static", "words"),
    [
        ("gpt2 --model.bias false", "gpt2", {"model": {"bias": "false"}}),
        ("--model.bias false gpt2", "gpt2", {"model": {"bias": "false"}}),
        ("--model.bias=false gpt2", "gpt2", {"model": {"bias": "false"}}),
        ("--model.no-bias gpt2 x", "x", {"model": {"no-bias": "gpt2"}}),
        ("--model.bias --lr gpt2", "gpt2", {"model": {"bias": "--lr"}}),
        ("--model.a.b -1 gpt2", "gpt2", {"model": {"a.b": "-1"}}),
        ("--lr -1 gpt2", "gpt2", {"train": {"lr": "-1"}}),
        ("--batch_size 3 --batch-size=4", "", {"train": {"batch-size": "4"}}),
        ("-n 5 m", "m", {"sample": {"max-new-tokens": "5"}}),
        ("-n5 m", "m", {"sample": {"max-new-tokens": "5"}}),
        ("--prompt --lr m", "--prompt --lr m", {}),
        ("--prompt=--lr --no-stream m", "--prompt=--lr --no-stream m", {}),
        ("--stop -- --lr 3", "--stop --", {"train": {"lr": "3"}}),
        ("--lr 3 -- --lr 4", "-- --lr 4", {"train": {"lr": "3"}}),
        ("--input.text a.txt gpt2", "gpt2", {"input": {"text": "a.txt"}}),
        ("--input.text=--a gpt2", "gpt2", {"input": {"text": "--a"}}),
        ("--input.text - gpt2", "gpt2", {"input": {"text": "-"}}),
        ("--input.kindergarten -3 gpt2", "gpt2", {"input": {"kindergarten": "-3"}}),
        ("--input.kindergarten --lr 3", "", {"input": {"kindergarten": True}, "train": {"lr": "3"}}),
        ("--input.pealm-text/text a gpt2", "gpt2", {"input": {"pealm-text/text": "a"}}),
        ("--input.val_fraction .5 gpt2", "gpt2", {"input": {"val-fraction": ".5"}}),
    ],
)
def test_every_word_is_an_option_a_value_or_left_for_click(args: str, static: str, words: dict[str, Any]) -> None:
    result = line(*args.split())
    assert (result.static, result.words, result.mistake) == (static.split(), words, None)


def test_help_is_an_option_and_not_a_value() -> None:
    assert line("m", "--help").help and line("-h").help
    assert not line("--prompt", "--help").help and not line("--model.x", "-h").help and not line("--", "-h").help


def test_mistakes() -> None:
    assert "--lr needs a value" in str(line("m", "--lr").mistake)
    assert isinstance(line("--lrr", "3").mistake, click.NoSuchOption)
