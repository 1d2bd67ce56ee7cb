"""`scripts/release`: equal versions, complete files, known dependencies; and what it refuses."""

import importlib.util
import os
import re
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


def run(*words: object, root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    line = [str(root / "scripts" / "release"), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})


def test_a_draft_of_two(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--draft", "--only", "pealm-pea", "--only", "pealm-gpt2")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name.partition("-")[0] for name in names} == {"pealm_pea", "pealm_gpt2"} and len(names) == 4
    assert "twine upload" in done.stdout
    unknown = run(tmp_path / "out", "--draft", "--only", "pea")
    assert unknown.returncode == 1 and unknown.stderr.startswith(
        "release: --only pea: no such distribution; pealm-pea"
    )
    again = run(tmp_path / "out", "--draft")
    assert again.returncode == 1 and again.stderr == f"release: {tmp_path / 'out'} is not empty\n"


def test_it_finds_every_distribution(release: Any) -> None:
    versions = release.read_versions(release.projects(ROOT))
    assert list(versions)[-1] == "pealm" and "pealm-pea" in versions and len(versions) > 15
    assert release.common_version(versions)


def test_versions_that_differ_are_refused(release: Any) -> None:
    with pytest.raises(release.ReleaseError, match=r"the versions differ: a 1.0, b 1.1"):
        release.common_version({"a": "1.0", "b": "1.1"})


DEPENDENCIES = [
    ("pea", "not a distribution of this repository, and not in THIRD_PARTY"),
    ("pealm_cor>=0.1,<0.2", "not a distribution of this repository"),
    ('rihc>=13; extra == "bars"', "not a distribution of this repository"),
    ("torch @ https://example.org/torch.whl", "a URL is not accepted"),
    ("pealm-core", "give it a lower and an upper bound"),
    ("pealm-core>=0.1", "give it a lower and an upper bound"),
    ("Pealm_Core<0.2", "give it a lower and an upper bound"),
    ("pealm-core>=0.2,<0.3", "but this release is 0.1.4"),
]


@pytest.mark.parametrize(("line", "reason"), DEPENDENCIES)
def test_a_wrong_dependency_is_refused(release: Any, line: str, reason: str) -> None:
    with pytest.raises(release.ReleaseError) as refused:
        release.check_dependencies("a.whl", ["click", line], {"pealm-core": "0.1.4"})
    message = str(refused.value)
    assert message.startswith(f"a.whl needs {line}") and reason in message and "\n" not in message


def test_right_dependencies_pass(release: Any) -> None:
    lines = ["pealm-core>=0.1,<0.2", "Pealm.Core~=0.1.0", "huggingface_hub>=1", 'graphviz; extra == "viz"']
    release.check_dependencies("a.whl", lines, {"pealm-core": "0.1.4"})


@pytest.mark.parametrize("where", ["dependencies = [", "viz = [", "requires = ["])
def test_the_name_of_a_stranger_fails_the_release(where: str, tmp_path: Path) -> None:
    for name in ("scripts/release", "scripts/release_check.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "plugins").mkdir()
    shutil.copytree(ROOT / "pea", tmp_path / "pea", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    file = tmp_path / "pea" / "pyproject.toml"
    file.write_text(file.read_text().replace(where, f'{where}"no-such-project",', 1))
    done = run(tmp_path / "out", "--draft", "--only", "pealm-pea", root=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("release: pealm_pea-0.1.0-py3-none-any.whl needs no-such-project")
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_missing_is_named(release: Any, tmp_path: Path) -> None:
    project = tmp_path / "source"
    shutil.copytree(ROOT / "plugins" / "char", project, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    wheel, source = release.build(project, tmp_path / "out")
    versions = release.read_versions(release.projects(ROOT))
    release.check(project, wheel, source, versions)
    (project / "pealm_char" / "new.py").touch()  # made after the build, as if it had been left out
    with pytest.raises(release.ReleaseError, match=r"\.whl lacks pealm_char/new.py"):
        release.check(project, wheel, source, versions)
    (project / "pealm_char" / "new.py").unlink()
    with pytest.raises(release.ReleaseError, match="version"):
        release.check(project, wheel, source, {"pealm-char": "9.9"})
    less = tmp_path / "less.tar.gz"
    with tarfile.open(source) as old, tarfile.open(less, "w:gz") as new:
        for member in old.getmembers():
            if not member.name.endswith("tokenizer.py"):
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with pytest.raises(release.ReleaseError, match=r"less.tar.gz lacks pealm_char/tokenizer.py"):
        release.check(project, wheel, less, versions)
    assert "pealm_char/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_what_is_not_committed_or_noted_is_refused(release: Any, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n")
    with pytest.raises(release.ReleaseError, match=r"not committed: CHANGELOG.md and maybe others"):
        release.check_checkout(tmp_path, "1.0")
    (tmp_path / ".gitignore").write_text("*\n")
    with pytest.raises(release.ReleaseError, match=r"no section `## 1\.0`"):
        release.check_checkout(tmp_path, "1.0")
    (tmp_path / "CHANGELOG.md").write_text("## 1.0 (2026-11-22)\n")
    release.check_checkout(tmp_path, "1.0")


def test_readmes_have_absolute_links(release: Any, tmp_path: Path) -> None:
    for folder in release.projects(ROOT):
        copy = tmp_path / folder.name
        copy.mkdir()
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(folder / name, copy / name)
        release.add_addresses(copy, folder.relative_to(ROOT).as_posix(), "https://e.org/pealm")
        text = (copy / "README.md").read_text()
        assert not re.search(r'(\]\(|src=")(?!https:)[^#]', text)
        for place in re.findall(r"https://e.org/pealm/(?:blob|raw)/v0.1.0/([^)#\s\"]+)", text):
            assert (ROOT / place).exists(), place
        project = release.pyproject(copy)["project"]
        assert project["urls"]["Changelog"] == "https://e.org/pealm/blob/v0.1.0/CHANGELOG.md"
        assert project["keywords"] and project["classifiers"] and project["readme"] == "README.md"
    assert "/raw/v0.1.0/media/shakespeare.svg" in (tmp_path / ROOT.name / "README.md").read_text()
    assert "/blob/v0.1.0/docs/trainer.md#sizes-and-training-by-depth" in (tmp_path / "gpt2" / "README.md").read_text()
