"""`pealm new-plugin`: what it writes installs, passes its own tests and does what its README says, for every kind."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pealm_core import UserError
from pealm_core.contract.specs import KINDS
from pealm_core.plugins.loading import PluginHost
from pealm_testing.new_plugin import fill, new_plugin

ALL = list(KINDS)
ROOT = Path(__file__).resolve().parents[2]


def install(folder: Path) -> None:
    """What `pip install -e` leaves, as far as finding a plugin goes: metadata beside the package."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {need}\n" for need in project["dependencies"])
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{needs}"
    )
    points = project["entry-points"]["pealm"]
    (info / "entry_points.txt").write_text("[pealm]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A plugin of every kind, `a-KIND`, installed."""
    home, before = tmp_path_factory.mktemp("new"), Path.cwd()
    os.chdir(home)
    try:
        for kind in ALL:
            new_plugin.main([kind, f"a-{kind}"], standalone_mode=False)
            install(home / f"pealm-a-{kind}")
            sys.path.insert(0, str(home / f"pealm-a-{kind}"))
        yield home
    finally:
        os.chdir(before)
        sys.path[:] = [path for path in sys.path if not path.startswith(str(home))]
        for module in [name for name in sys.modules if name.startswith("pealm_a_")]:
            del sys.modules[module]


@pytest.mark.slow
def test_its_own_tests_pass(written: Path) -> None:
    path = os.pathsep.join(str(written / f"pealm-a-{kind}") for kind in ALL)
    tests = [f"pealm-a-{kind}/tests" for kind in ALL]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *tests]
    done = subprocess.run(
        command, cwd=written, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert all(f"a_{kind}" in done.stdout or " passed" in done.stdout for kind in ALL)


@pytest.mark.parametrize("kind", ALL)
def test_the_commands_of_its_readme_work(
    kind: str, written: Path, pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written / f"pealm-a-{kind}"
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("    pealm ")]
    assert len(lines) >= 2
    for words in lines:
        if "--steps" in words:
            words[words.index("--steps") + 1] = "3"
        result = pealm(*words[1:])
        assert result.code == 0, result.err
    assert "status    ok" in pealm("plugins", "show", f"a-{kind}").out
    for left in ("runs", "theirs", "ours"):
        shutil.rmtree(folder / left, ignore_errors=True)


@pytest.mark.parametrize("kind", ALL)
def test_a_single_file_works_as_its_next_steps_say(
    kind: str, pealm: Callable[..., Any], local: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = pealm("new-plugin", kind, f"one-{kind}", "--file")
    assert (written.code, written.err) == (0, "")
    file = tmp_path / f"one_{kind}.py"
    local(file.stem, file.read_text())
    lines = [line.split() for line in written.out.splitlines() if line.startswith("  pealm ")]
    lines += [f"pealm --plugin {file.name} plugins check {file.stem}".split()]
    for words in lines:
        if "--steps" in words:
            words[words.index("--steps") + 1] = str(2 + lines.index(words))
        result = pealm(*words[1:])
        assert result.code == 0, (words, result)
        assert "without it" not in result.err
    assert "already exists" in pealm("new-plugin", kind, f"one-{kind}", "--file").err
    tidy(tmp_path, file.name)


def test_what_it_writes_is_tidy(written: Path) -> None:
    for kind in ALL:
        tidy(written / f"pealm-a-{kind}", ".")  # with its own pyproject.toml


def tidy(folder: Path, path: str) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    more = ["--extend-select", "B,C4,E,F,I,N,PTH,SIM,UP,W", "--ignore", "N812"]
    own = [] if path == "." else ["--isolated", "--line-length=118"]
    for words in (["check", *more], ["check"], ["format", "--check"]):
        line = [*ruff, *words, *own, "--no-cache", path]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_pip_installs_it_with_all_of_its_files(written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "pealm-a-model", tmp_path / "copy", ignore=shutil.ignore_patterns("*.dist-info"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    target = tmp_path / "site"
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", target, copy], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (target / "pealm_a_model").iterdir() if path.suffix != ".pyc")
    assert [n for n in names if n != "__pycache__"] == [
        "__init__.py",
        "config.py",
        "model.py",
        "plugin.py",
        "py.typed",
    ]
    (points,) = target.glob("*.dist-info/entry_points.txt")
    assert "a-model = pealm_a_model.plugin" in points.read_text()


def test_next_steps_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    new_plugin.main(["evaluator", "pealm-mine"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "wrote an evaluator to pealm-mine. Next:",
        "  cd pealm-mine",
        "  pip install -e '.[test]'",
        "  pytest",
    ]
    assert any("--on mine" in line for line in lines)
    assert lines[-1] == "Then edit pealm_mine/evaluator.py; pytest checks that it still works with pealm."


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "name", ["none", "any", "path", "block", "tensor", "counter", "iterator", "lion", "optimizer"]
)
def test_a_name_that_the_code_uses_itself_works(kind: str, name: str) -> None:
    """A class of the plugin's name hides nothing that its module imports, and is no word of Python's."""
    files, _ = fill(kind, name, "0.1.0")
    for path, text in files.items():
        if path.endswith(".py"):
            body = ast.parse(text, path).body
            names = [
                alias.asname or alias.name
                for node in body
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            ]
            names += [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
            assert len(set(names)) == len(names), (path, names)


def test_a_model_brings_its_own_tokenizer(written: Path) -> None:
    project = tomllib.loads((written / "pealm-a-model" / "pyproject.toml").read_text())["project"]
    assert "pealm-char>=0.1,<0.2" in project["dependencies"]


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("model", "MyModel", "'MyModel' is not a valid plugin name: use a-z, 0-9 and single '-', starting with a letter; try my-model"),
        ("model", "../up", "; try up"),
        ("model", "2nd", "; try nd"),
        ("model", "a--b", "; try a-b"),
        ("model", "char-bigram", "pealm-char-bigram already provides the model 'char-bigram'"),
        ("model", "char", "pealm-char (package pealm_char) is already installed"),
        ("model", "core", "pealm-core (package pealm_core) is already installed"),
        ("command", "train", "'train' is a command of pealm itself"),
        ("command", "new-plugin", "'new-plugin' is a command of pealm itself"),
    ],
)  # fmt: skip
def test_a_bad_name_is_refused(
    kind: str, name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        new_plugin.main([kind, name], standalone_mode=False)
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pealm-mine").mkdir()
    with pytest.raises(UserError, match="pealm-mine already exists; nothing was written"):
        new_plugin.main(["model", "mine"], standalone_mode=False)
    assert list((tmp_path / "pealm-mine").iterdir()) == []
    with pytest.raises(click.BadParameter):
        new_plugin.main(["modle", "mine"], standalone_mode=False)


def test_plugins_change_nothing_for_each_other(written: Path) -> None:
    """Seven more, and the others are listed as before, in the same order."""
    ours = [p.dist for p in PluginHost.installed().plugins if not p.dist.startswith("pealm-a-")]
    assert ours == sorted(ours)
    assert all(p.status == "ok" for p in PluginHost.installed().plugins if p.dist.startswith("pealm-a-"))
