"""`pealm convert`: which of several plugins with one format is used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FORMAT = """
from pathlib import Path
from pealm_core import FormatSpec, hookimpl

def exporter(source, target):
    target.mkdir()
    (target / "by").write_text("{dist}")

def importer(source, target):
    exporter(source, target)

def detect(folder):
    return (folder / "kind").read_text() in {families}

@hookimpl
def pealm_formats():
    return FormatSpec(
        name="{name}", summary="A format", exporter={exporter}, importer="{module}:importer", detect={detect},
        families={families}
    )
"""


@pytest.fixture
def install(stranger: Callable[..., None]) -> Callable[..., None]:
    def run(dist: str, *families: str, name: str = "foreign", detect: bool = True, exporter: bool = True) -> None:
        module = dist.replace("-", "_") + "_plugin"
        parts = {"detect": detect, "exporter": exporter}
        refs = {part: repr(f"{module}:{part}") if given else None for part, given in parts.items()}
        stranger(dist, FORMAT.format(dist=dist, module=module, families=families, name=name, **refs))

    return run


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "kind").write_text("llama")
    return folder


@pytest.fixture
def ours(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> Path:
    line = ("--input.text", book, "--steps", 1, "--batch-size", 1, "--out", tmp_path / "run")
    assert pealm("train", "char-bigram", *line).code == 0
    return tmp_path / "run"


def test_the_folder_decides_among_importers(
    install: Callable[..., None], pealm: Callable[..., Any], theirs: Path, tmp_path: Path
) -> None:
    install("pealm-a", "gpt2")
    install("pealm-b", "llama", "mistral")
    assert pealm("convert", theirs, tmp_path / "x", "--from", "foreign").code == 0
    assert (tmp_path / "x" / "by").read_text() == "pealm-b"
    rows = json.loads(pealm("plugins", "--json").out)
    assert {row["status"] for row in rows if row["dist"] in ("pealm-a", "pealm-b")} == {"ok"}  # no conflict


def test_none_or_several_that_fit_are_one_error(
    install: Callable[..., None], pealm: Callable[..., Any], theirs: Path, tmp_path: Path
) -> None:
    install("pealm-a", "gpt2")
    install("pealm-b", "mistral")
    line = ("convert", theirs, tmp_path / "x", "--from")
    result = pealm(*line, "foreign")
    ways = "there is pealm-a/foreign (gpt2) or pealm-b/foreign (mistral)"
    assert (result.code, result.err) == (2, f"pealm: no format 'foreign' fits {theirs}: {ways}\n")
    install("pealm-c", "llama")
    install("pealm-d", detect=False)
    result = pealm(*line, "foreign")
    assert result.code == 2
    ways = "pealm-c/foreign (llama) or pealm-d/foreign (any model)"
    assert f"2 formats 'foreign' fit {theirs}; say which: {ways}" in result.err
    assert pealm(*line, "pealm-d/foreign").code == 0
    assert (tmp_path / "x" / "by").read_text() == "pealm-d"


def test_the_model_decides_among_exporters(
    install: Callable[..., None], pealm: Callable[..., Any], ours: Path, tmp_path: Path
) -> None:
    install("pealm-a", "gpt2")
    install("pealm-b", "char-bigram")
    install("pealm-c", "char-bigram", exporter=False)
    assert pealm("convert", ours, tmp_path / "x", "--to", "foreign").code == 0
    assert (tmp_path / "x" / "by").read_text() == "pealm-b"


def test_mistakes(install: Callable[..., None], pealm: Callable[..., Any], ours: Path, tmp_path: Path) -> None:
    install("pealm-a", "gpt2", exporter=False)
    assert "format 'foreign' can't be written" in pealm("convert", ours, tmp_path / "x", "--to", "foreign").err
    assert "unknown format 'foreing'; did you mean" in pealm("convert", ours, tmp_path / "x", "--to", "foreing").err
    assert "no such file" in pealm("convert", tmp_path / "none", tmp_path / "x", "--to", "foreign").err
