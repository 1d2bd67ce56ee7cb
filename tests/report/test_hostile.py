"""Runs that are damaged, or made to harm whoever lists them: the others are listed, and nothing waits or is sent."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_report.reading import is_number, read

Make = Callable[..., Path]
DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["=", DEEP, b"\xff", f"x = {DEEP}"])
def test_a_run_that_cannot_be_read_does_not_end_the_list(
    pealm: Callable[..., Any], make_run: Make, tmp_path: Path, text: str | bytes
) -> None:
    make_run("good")
    (make_run("bad") / "config.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = pealm("runs", tmp_path / "runs")
    assert result.code == 0 and "good" in result.out and "bad" not in result.out
    assert "pealm: not listed: " in result.err and "bad" in result.err
    assert len(json.loads(pealm("runs", tmp_path / "runs", "--json").out)) == 1


@pytest.mark.parametrize("name", ["config.toml", "run.json", "metrics.jsonl", "samples.jsonl", ".lock", "eval.json"])
def test_nothing_waits_for_a_pipe(pealm: Callable[..., Any], make_run: Make, tmp_path: Path, name: str) -> None:
    run = make_run("r")
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert pealm("runs", tmp_path / "runs").code == 0
    assert pealm("report", run).code == (2 if name == "config.toml" else 0)


def test_names_do_not_control_the_terminal(pealm: Callable[..., Any], make_run: Make, tmp_path: Path) -> None:
    run = make_run("a\nb\x1b[2J")
    config = (run / "config.toml").read_text().replace('"sprout"', '"x\\u001b[31m\\ny"')
    (run / "config.toml").write_text(config)
    result = pealm("runs", tmp_path / "runs")
    assert len(result.out.splitlines()) == 2 and "\x1b" not in result.out
    assert "\x1b" not in pealm("report", run, "--output", tmp_path / "c\x1b[2J.html").out


@pytest.mark.parametrize("name", ["config.toml", "run.json", "best/model.safetensors", "other.txt"])
def test_a_page_replaces_only_pages(pealm: Callable[..., Any], make_run: Make, tmp_path: Path, name: str) -> None:
    run = make_run("r")
    target = run / name
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        target.write_text("x")
    before = target.read_bytes()
    result = pealm("report", run, "--output", target)
    assert result.code == 2 and "choose another file" in result.err and target.read_bytes() == before
    page = tmp_path / "page.html"
    page.touch()
    assert [pealm("report", run, "--output", page).code for _ in range(2)] == [0, 0]


def test_a_page_does_not_replace_a_device(pealm: Callable[..., Any], make_run: Make, tmp_path: Path) -> None:
    run, pipe = make_run("r"), tmp_path / "pipe"
    os.mkfifo(pipe)
    assert pealm("report", run, "--output", pipe).code == 2 and pipe.is_fifo()


@pytest.mark.parametrize("value", ['"many"', "[]", "{}", "1" + "0" * 400, "NaN", "true", "null", "1e308"])
def test_facts_of_wrong_types_are_left_out(pealm: Callable[..., Any], make_run: Make, value: str) -> None:
    run = make_run("r")
    names = ("status", "parameters", "seconds", "entropy_floor", "first_val_loss", "device")
    (run / "run.json").write_text("{" + ", ".join(f'"{name}": {value}' for name in names) + "}")
    line = {"step": 51, "loss": 1.0}
    odd = json.dumps(line)[:-1] + f', "tokens": {value}, "val_loss": {value}, "seconds": {value}}}\n'
    with (run / "metrics.jsonl").open("a") as file:
        file.write(odd)
    (run / "samples.jsonl").write_text(f'{{"step": 1, "text": "x", "tokens": {value}, "prompt": {value}}}\n')
    (run / "e.json").write_text(f'{{"evaluation": {value}, "n": {value}, "metrics": {{"a": {{"value": {value}}}}}}}')
    assert pealm("runs", run).code == 0
    assert pealm("report", run).code == 0
    from pealm_report.picture import draw

    assert draw(run) == run / "loss.png"
    assert read(run).state in ("killed", "done")


def test_numbers() -> None:
    assert [is_number(x) for x in (1, 1.5, 10**400, 1e308, float("nan"), True, "1")] == [True, True] + [False] * 5
