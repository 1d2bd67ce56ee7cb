"""`scripts/release`: one version, whole files, built again alike; and what it refuses."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def release() -> Any:
    spec = importlib.util.spec_from_file_location("release_check", ROOT / "scripts" / "release_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    line = [str(ROOT / "scripts" / "release"), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})


def test_a_draft_of_two(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--draft", "--only", "pealm-pea", "--only", "pealm-gpt2")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name.partition("-")[0] for name in names} == {"pealm_pea", "pealm_gpt2"} and len(names) == 4
    assert "twine upload" in done.stdout
    again = run(tmp_path / "out", "--draft")
    assert again.returncode == 1 and again.stderr == f"release: {tmp_path / 'out'} is not empty\n"


def test_it_finds_every_distribution(release: Any) -> None:
    names = [release.table(folder)["name"] for folder in release.projects(ROOT)]
    assert names[-1] == "pealm" and "pealm-pea" in names and len(names) == len(set(names)) > 15
    assert release.one_version(release.projects(ROOT))


def two(tmp_path: Path, first: str, second: str, need: str) -> list[Path]:
    for name, version, lines in (("a", first, "[]"), ("b", second, f'["{need}"]')):
        (tmp_path / name).mkdir()
        text = f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {lines}\n'
        (tmp_path / name / "pyproject.toml").write_text(text)
    return [tmp_path / "a", tmp_path / "b"]


def test_versions_that_differ_are_refused(release: Any, tmp_path: Path) -> None:
    with pytest.raises(release.WrongError, match=r"the versions differ: a 1.0, b 1.1"):
        release.one_version(two(tmp_path, "1.0", "1.1", "a"))


def test_a_sibling_that_would_not_fit_is_refused(release: Any, tmp_path: Path) -> None:
    with pytest.raises(release.WrongError, match=r"b needs a>=0.1,<0.2, and this release is 0.2.0"):
        release.one_version(two(tmp_path, "0.2.0", "0.2.0", "a>=0.1,<0.2"))


def test_a_file_that_is_missing_is_named(release: Any, tmp_path: Path) -> None:
    project = tmp_path / "source"
    shutil.copytree(ROOT / "plugins" / "char", project, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    wheel, source = release.build(project, tmp_path / "out")
    version = release.table(project)["version"]
    release.check(project, wheel, source, version)
    (project / "pealm_char" / "new.py").touch()  # made after the build, as if it had been left out
    with pytest.raises(release.WrongError, match=r"\.whl lacks pealm_char/new.py"):
        release.check(project, wheel, source, version)
    (project / "pealm_char" / "new.py").unlink()
    with pytest.raises(release.WrongError, match="version"):
        release.check(project, wheel, source, "9.9")
    less = tmp_path / "less.tar.gz"
    with tarfile.open(source) as old, tarfile.open(less, "w:gz") as new:
        for member in old.getmembers():
            if not member.name.endswith("tokenizer.py"):
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with pytest.raises(release.WrongError, match=r"less.tar.gz lacks pealm_char/tokenizer.py"):
        release.check(project, wheel, less, version)
    assert "pealm_char/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_what_is_not_committed_or_noted_is_refused(release: Any, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n")
    with pytest.raises(release.WrongError, match=r"not committed: CHANGELOG.md and others"):
        release.clean(tmp_path, "1.0")
    (tmp_path / ".gitignore").write_text("*\n")
    with pytest.raises(release.WrongError, match=r"no section `## 1\.0`"):
        release.clean(tmp_path, "1.0")
    (tmp_path / "CHANGELOG.md").write_text("## 1.0 (2026-11-22)\n")
    release.clean(tmp_path, "1.0")
