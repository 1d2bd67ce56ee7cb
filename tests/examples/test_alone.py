"""Every distribution of ours works alone: from its wheel, with exactly what its metadata asks for to be imported.

Environments are made of links to what is installed here, so nothing is downloaded; `scripts/proof/fresh_installs.sh` is
the version with truly fresh ones.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for pattern in ("pea", "pealm_core", "plugins/*")
    for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
}
# All wheels in one process: loading setuptools takes longer than building one.
BUILD = """
import os, sys
import setuptools.build_meta as backend
target, *copies = sys.argv[1:]  # building changes sys.argv
for copy in copies:
    os.chdir(copy)
    backend.build_wheel(target)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution → its unpacked wheel."""
    home = tmp_path_factory.mktemp("alone")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "dist")
    copies = [
        str(shutil.copytree(folder, home / "source" / name, ignore=ignored)) for name, folder in FOLDERS.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(home / "wheels"), *copies], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    unpacked = {}
    for wheel in (home / "wheels").glob("*.whl"):
        name = wheel.name.partition("-")[0].replace("_", "-")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(home / "site" / name)
        unpacked[name] = home / "site" / name
    assert set(unpacked) == set(FOLDERS)
    return unpacked


def needed(name: str) -> set[str]:
    """The distributions that a distribution asks for, directly or through others, itself included."""
    found: set[str] = set()
    todo = [name]
    while todo:
        one = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if one in found:
            continue
        try:
            lines = (
                tomllib.loads((FOLDERS[one] / "pyproject.toml").read_text())["project"]["dependencies"]
                if one in FOLDERS
                else importlib.metadata.requires(one) or []
            )
        except importlib.metadata.PackageNotFoundError:
            continue  # torch's, for other machines
        found.add(one)
        for line in lines:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *need.extras)):
                todo.append(need.name)
    return found


@pytest.fixture
def alone(wheels: dict[str, Path], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run Python where one distribution and what it asks for are all that there is."""

    def run(name: str, *words: str, code: int = 0) -> str:
        links = tmp_path / "site"
        if not links.exists():
            links.mkdir()
            for dist in needed(name) - set(FOLDERS):
                for top in {file.parts[0] for file in importlib.metadata.files(dist) or () if file.parts[0] != ".."}:
                    place = Path(str(importlib.metadata.distribution(dist).locate_file(top)))
                    if place.exists() and not (links / top).exists():
                        (links / top).symlink_to(place)
        path = [*(str(wheels[dist]) for dist in sorted(needed(name) & set(FOLDERS))), str(links)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
        # -S: without site-packages, where all of ours are installed.
        done = subprocess.run([sys.executable, "-S", *words], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code, f"{name}: {' '.join(words)}\n{done.stderr[-1500:]}"
        return done.stderr if code else done.stdout

    return run


def points(name: str) -> dict[str, dict[str, str]]:
    """The entry points of a distribution: group → name → module."""
    project = tomllib.loads((FOLDERS[name] / "pyproject.toml").read_text())["project"]
    return dict(project.get("entry-points", {}))


def test_the_library_for_cpus_needs_nothing_of_ours(alone) -> None:  # type: ignore[no-untyped-def]
    assert alone("pealm-cpu", "-c", "import pealm_cpu, sys; print('pealm_core' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - {"pealm-pea", "pealm-cpu"}))
def test_its_plugins_load_alone(name: str, alone) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads(alone(name, "-m", "pealm", "plugins", "--json"))
    assert {row["dist"] for row in rows} == {dist for dist in needed(name) & set(FOLDERS) if "pealm" in points(dist)}
    assert [row for row in rows if row["status"] != "ok"] == []


@pytest.mark.parametrize(
    ("dist", "words"),
    [
        ("pealm-testing", "new-plugin model mine"),
        ("pealm-testing", "plugins check core"),
        ("pealm-testing", "plugins show core"),
        ("pealm-clean", "clean"),
        ("pealm-convert", "convert --help"),
        ("pealm-data", "prepare x"),
    ],
)
def test_the_core_says_what_to_install_for_a_command(dist: str, words: str, alone) -> None:  # type: ignore[no-untyped-def]
    error = alone("pealm-core", "-m", "pealm", *words.split(), code=2)
    assert error == f"pealm: this command needs {dist}; try: pip install {dist}\n"


def test_the_kit_alone_checks_and_writes_plugins(alone, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "core passes: " in alone("pealm-testing", "-m", "pealm", "plugins", "check", "core")
    alone("pealm-testing", "-m", "pealm", "new-plugin", "model", "mine")
    assert (tmp_path / "pealm-mine" / "pealm_mine" / "model.py").is_file()


def test_gpt2_alone_trains(alone, tmp_path: Path, tiktoken_files: Path) -> None:  # type: ignore[no-untyped-def]
    """`pip install pealm-gpt2` is enough: shards of its own format, and the tokenizer whose files are at hand."""
    code = f"""
import os, runpy, sys
import numpy as np
os.environ["TIKTOKEN_CACHE_DIR"] = {str(tiktoken_files)!r}
os.mkdir("shards")
for split in ("train", "val"):
    np.save(f"shards/x_{{split}}_000001.npy", np.arange(400, dtype=np.uint16))
small = "--model.n-layer 1 --model.n-head 1 --model.n-embd 8 --model.block-size 16 --batch-size 4"
words = "train gpt2 --input.npy-shards shards --steps 2 --micro-batch-size 2 --out run " + small
sys.argv[1:] = words.split()
runpy.run_module("pealm", run_name="__main__")
"""
    out = alone("pealm-gpt2", "-c", code)
    assert "validation loss" in out and (tmp_path / "run" / "best").is_dir()


def test_pea_alone_has_no_torch(alone) -> None:  # type: ignore[no-untyped-def]
    code = (
        "import sys; from pea import Value; a = Value(3.0); (a * a).backward(); print(a.grad, 'torch' in sys.modules)"
    )
    assert alone("pealm-pea", "-c", code).split() == ["6.0", "False"]
    assert needed("pealm-pea") == {"pealm-pea"}
