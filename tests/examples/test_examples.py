"""The plugins in examples/ are built as wheels, installed from them, and used, as a stranger's would be."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))
BOOK = "the quick brown fox jumps over the lazy dog. " * 100
SETTINGS = {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"}


def run(*words: object, cwd: Path, **env: str) -> str:
    line = [str(word) for word in words]
    done = subprocess.run(line, cwd=cwd, env={**os.environ, **SETTINGS, **env}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder into which the examples were installed from their wheels."""
    home = tmp_path_factory.mktemp("examples")
    copies = []
    for example in EXAMPLES:  # building leaves things behind in the folder
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        copies.append(shutil.copytree(example, home / "source" / example.name, ignore=ignored))
    pip = (sys.executable, "-m", "pip", "-q")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", home / "wheels", *copies, cwd=home)
    wheels = sorted((home / "wheels").glob("*.whl"))
    assert len(wheels) == len(EXAMPLES)
    run(*pip, "install", "--no-deps", "--target", home / "site", *wheels, cwd=home)
    yield home / "site"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_its_wheel_has_all_of_its_files(example: Path, site: Path) -> None:
    package = example.name.replace("-", "_")
    (wheel,) = (site.parent / "wheels").glob(f"{package}-*.whl")
    ours = {p.relative_to(example).as_posix() for p in (example / package).rglob("*") if "__pycache__" not in p.parts}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(f"{package}/")} == ours


def test_their_own_tests_pass_on_what_is_installed(site: Path) -> None:
    folders = [site.parent / "source" / example.name for example in EXAMPLES]
    for folder in folders:  # so that only the installed package can be imported
        shutil.rmtree(folder / folder.name.replace("-", "_"), ignore_errors=True)
        shutil.rmtree(folder / "build", ignore_errors=True)
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", site.parent)
    out = run(sys.executable, "-m", "pytest", *options, *folders, cwd=site.parent, PYTHONPATH=str(site))
    assert " passed" in out


# Several command lines in one process, for the time that torch takes to load.
PEALM = """
from pealm_core.cli import main

def pealm(*words):
    try:
        main(list(words))
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


def test_the_commands_of_their_readmes_work(site: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    env = {"PYTHONPATH": str(site), "PEALM_CACHE": str(tmp_path / "cache")}
    code = PEALM
    for example in EXAMPLES:
        text = (example / "README.md").read_text()
        lines = [line.split() for line in text.splitlines() if line.startswith("    pealm ")]
        assert len(lines) >= 2
        for words in lines:
            if "--steps" in words:
                words[words.index("--steps") + 1] = "3"
            code += f"pealm(*{words[1:]!r})\n"
    out = run(sys.executable, "-c", code, cwd=tmp_path, **env)
    assert "900 words, 8 different ones" in out and "200  the" in out
    assert "known words" in out


def test_a_run_goes_on_and_scores_the_same_with_its_own_cache(site: Path, tmp_path: Path) -> None:
    """What nobody wrote for the recurrent model: resume, and scores through its cache."""
    (tmp_path / "book.txt").write_text(BOOK)
    env = {"PYTHONPATH": str(site), "PEALM_CACHE": str(tmp_path / "cache")}
    code = """
import torch
from pealm_core import load, score

train = ("train", "rnn", "--input.text", "book.txt", "--model.n-embd", "16", "--model.block-size", "32")
pealm(*train, "--steps", "6", "--warmup-steps", "0", "--schedule.min-lr-ratio", "1", "--out", "whole")
pealm(*train, "--steps", "3", "--warmup-steps", "0", "--schedule.min-lr-ratio", "1", "--out", "parts")
pealm("train", "--out", "parts", "--steps", "6")
whole, parts = (load(f"{name}/checkpoints/step-00000006") for name in ("whole", "parts"))
for name, value in whole.model.state_dict().items():
    assert torch.equal(value, parts.model.state_dict()[name]), name
ids = whole.encode("the quick brown fox")
requests = [(ids[:9], ids[9:12]), (ids[:9], ids[10:15]), (ids[:8], ids[9:12])]
fast = [s.log_prob for s in score(whole.model, requests)]
type(whole.model).make_cache = None
slow = [s.log_prob for s in score(whole.model, requests)]
assert all(abs(a - b) < 1e-4 for a, b in zip(fast, slow)), (fast, slow)
"""
    run(sys.executable, "-c", PEALM + code, cwd=tmp_path, **env)


def test_source_archives_hold_the_same(site: Path, tmp_path: Path) -> None:
    """An sdist from which the wheel can be built again."""
    for example in EXAMPLES:
        copy = shutil.copytree(example, tmp_path / example.name, ignore=shutil.ignore_patterns("build", "*.egg-info"))
        code = "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])"
        run(sys.executable, "-c", code, tmp_path / "dist", cwd=copy)
    for archive in (tmp_path / "dist").glob("*.tar.gz"):
        with tarfile.open(archive) as content:
            names = content.getnames()
        assert any(name.endswith("plugin.py") for name in names) and any(name.endswith("py.typed") for name in names)
    assert len(list((tmp_path / "dist").iterdir())) == len(EXAMPLES)
