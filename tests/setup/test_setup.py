"""Run `scripts/setup` in a small repository made for the test, without network and torch."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_NO_INDEX": "1"}
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "1"
[dependency-groups]
dev = []
"""
# Builds a wheel that points to the project's folder; waits or fails if a test asks for it.
BACKEND = """
import os, pathlib, sys, time, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    if "HANG" in os.environ:
        pathlib.Path(os.environ["HANG"]).touch()
        time.sleep(60)
    if "FAIL" in os.environ:
        sys.exit("error: " + os.environ["FAIL"])
    info = "{name}-1.dist-info/"
    with zipfile.ZipFile(pathlib.Path(folder, "{name}-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("{name}.pth", os.getcwd())
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n{needs}")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return "{name}-1-py3-none-any.whl"
"""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


class Tree:
    """A folder with `scripts/setup` and four distributions; the umbrella depends on two of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder, name in (
            ("pea", "first"),
            ("pealm_core", "core"),
            ("plugins/second", "second"),
            (".", "umbrella"),
        ):
            needs = "Requires-Dist: first\\nRequires-Dist: second\\n" if folder == "." else ""
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / "pyproject.toml").write_text(PROJECT.format(name=name))
            (root / folder / "backend.py").write_text(BACKEND.format(name=name, needs=needs))
            (root / folder / f"{name}.py").write_text("")
        (root / "constraints.txt").write_text("")
        (root / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "setup", root / "scripts" / "setup")

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def start(self, *options: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.root / "scripts" / "setup", *options],
            cwd="/",
            env=os.environ | OFFLINE | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def set_up(self, *options: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*options, **environment)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def imports(self, *modules: str) -> bool:
        done = subprocess.run([self.venv / "bin" / "python", "-c", f"import {', '.join(modules)}"], cwd="/")
        return done.returncode == 0


def stub(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree in which setup has run, in a folder whose name has a space."""
    tree = Tree(tmp_path_factory.mktemp("setup") / "it's a folder")
    code, out, err = tree.set_up(PYTHON=sys.executable)
    assert code == 0, err
    assert "creating .venv" in out
    assert "installing" in out
    assert tree.imports("first", "second", "umbrella")
    return tree


@pytest.fixture
def old_python(tmp_path: Path) -> str:
    """A Python that is too old, so that a setup which uses it fails."""
    return str(stub(tmp_path / "python3", 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac'))


def test_done_is_done(made: Tree, old_python: str) -> None:
    log = made.venv / "set-up.log"
    before = log.stat()
    (broken,) = made.venv.glob("lib/*/site-packages/pip/__main__.py")
    text = broken.read_text()
    broken.write_text("raise SystemExit('pip was called')")
    try:
        assert made.set_up(PYTHON=old_python) == (0, "", "")
    finally:
        broken.write_text(text)
    assert log.stat() == before


def test_a_change_is_installed(made: Tree, old_python: str) -> None:
    shutil.copytree(made.root / "pea", made.root / "plugins" / "third")
    for file in (made.root / "plugins" / "third").glob("*.*"):
        file.write_text(file.read_text().replace("first", "third"))
    (made.root / "plugins" / "third" / "third.py").touch()
    code, out, err = made.set_up(PYTHON=old_python)
    assert (code, err) == (0, "")
    assert "creating" not in out
    assert made.imports("first", "second", "third")


def test_a_killed_one_is_repaired(made: Tree, old_python: str, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    (made.root / "constraints.txt").write_text("# other\n")
    process = made.start(HANG=str(hanging))
    while not hanging.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, _, err = made.set_up(PYTHON=old_python)
    assert (code, err) == (0, "")
    assert made.imports("first", "second")


def test_a_failed_download_is_one_line(made: Tree, old_python: str) -> None:
    project = made.root / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace("dev = []", 'dev = ["no-such-thing-anywhere"]'))
    for environment, expected in (
        ({}, "pip failed: No matching distribution found for no-such-thing-anywhere;"),
        (
            {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"},
            "pip failed: no connection to the package index (No matching distribution found for no-such-thing-anywhere);",
        ),
    ):
        code, _, err = made.set_up(PYTHON=old_python, **environment)
        assert code == 1
        assert err == f"setup: {expected} its output is in .venv/set-up.log\n"
    project.write_text(text)
    assert made.set_up(PYTHON=old_python)[0] == 0  # and the .venv was kept


def test_a_broken_project_is_one_line(made: Tree, old_python: str) -> None:
    (made.root / "constraints.txt").write_text("# another\n")
    code, _, err = made.set_up(PYTHON=old_python, FAIL="a defect")
    assert code == 1
    assert err == "setup: pip failed: a defect; its output is in .venv/set-up.log\n"
    assert made.set_up(PYTHON=old_python)[0] == 0


@pytest.fixture
def moved(made: Tree) -> Iterator[None]:
    other = made.root.with_name("elsewhere")
    home = made.root.rename(other)
    made.root, home = other, made.root
    yield
    made.root = other.rename(home)


def test_a_moved_one_is_made_anew(made: Tree, moved: None, old_python: str) -> None:
    assert made.set_up(PYTHON=old_python)[0] == 2


def test_one_without_its_python_is_made_anew(made: Tree, old_python: str) -> None:
    link = made.venv / "bin" / "python"
    target = link.readlink()
    link.unlink()
    link.symlink_to("/nowhere/python3")
    assert made.set_up(PYTHON=old_python)[0] == 2
    link.unlink()
    link.symlink_to(target)


def test_one_cut_off_between_packages_is_made_anew(made: Tree, old_python: str) -> None:
    stamp = made.venv / "set-up.sha256"
    text = stamp.read_text()
    stamp.unlink()
    assert "Installing collected packages" in (made.venv / "set-up.log").read_text()
    assert made.set_up(PYTHON=old_python)[0] == 2
    stamp.write_text(text)


def test_an_old_python_is_one_line(tmp_path: Path, old_python: str) -> None:
    tree = Tree(tmp_path / "tree")
    for environment in ({"PYTHON": old_python}, {"PATH": f"{tmp_path}:/usr/bin:/bin"}):
        if "PATH" in environment:
            for name in ("python3.14", "python3.13", "python3.12", "python3.11"):
                stub(tmp_path / name, "exit 127")
        code, out, err = tree.set_up(**environment)
        assert (code, out) == (2, "")
        assert err == (
            f"setup: pealm needs Python 3.11 or newer, and {environment.get('PYTHON', 'python3')} is Python 3.9.2; "
            "install one, or set PYTHON=/path/to/python\n"
        )
    assert not tree.venv.exists()


def test_no_python_is_one_line(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "tree")
    code, _, err = tree.set_up(PYTHON="/no/such/python")
    assert code == 2
    assert err.startswith("setup: pealm needs Python 3.11 or newer, and PYTHON=/no/such/python does not run; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_missing_module_is_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "shadow" / module).mkdir(parents=True)
    (tmp_path / "shadow" / module / "__init__.py").write_text("raise ImportError")
    tree = Tree(tmp_path / "tree")
    code, _, err = tree.set_up(PYTHON=sys.executable, PYTHONPATH=str(tmp_path / "shadow"))
    assert code == 2
    assert "lacks the module venv or ensurepip" in err
    assert err.count("\n") == 1


def fake_torch(folder: Path, version: str) -> None:
    """A wheel called torch with a version and nothing in it."""
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def torch_version(tree: Tree) -> str:
    code = "import importlib.metadata as m; print(m.version('torch'))"
    return subprocess.run([tree.venv / "bin" / "python", "-c", code], capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or Path("/proc/driver/nvidia/version").exists(), reason="has a GPU")
def test_the_build_of_torch(made: Tree, old_python: str, tmp_path: Path) -> None:
    """Without a GPU it is the small build, if the index has it; the user decides otherwise."""
    links = tmp_path / "links"
    links.mkdir()
    fake_torch(links, "9.9")
    stub(tmp_path / "bin" / "nvidia-smi", "exit 9")  # installed, without a driver
    env = {"PYTHON": old_python, "PIP_FIND_LINKS": str(links), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    (made.root / "constraints.txt").write_text("torch==9.9\n")
    assert (
        made.set_up(**env)[0] == 0 and torch_version(made) == ""
    )  # the index has no small build; nothing needs torch
    fake_torch(links, "9.9+cpu")
    (made.root / "constraints.txt").write_text("torch==9.9\n# again\n")
    code, out, err = made.set_up(**env)
    assert (code, err) == (0, "") and "no NVIDIA driver here: installing the CPU build" in out
    assert torch_version(made) == "9.9+cpu"
    for option, version in (("--cuda", "9.9"), ("--cpu", "9.9+cpu")):
        assert made.set_up(option, **env)[0] == 0
        assert torch_version(made) == version
        assert made.set_up(**env) == (0, "", "")  # a later set-up leaves it as it is
    assert made.set_up("--gpu", **env) == (2, "", "setup: usage: scripts/setup [--cpu | --cuda]\n")
