"""Every snippet of docs/plugins.md runs, docs/contract.md is current, and links lead somewhere."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pealm_core.contract.specs import KINDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PLUGINS = (DOCS / "plugins.md").read_text(encoding="utf-8")
# What is not run here: it installs, uploads, or is the test itself.
ELSEWHERE = ("cd ", "pip install", "pytest", "python -m build", "twine ")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PLUGINS, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's plugin, put together from its snippets: their first line says where each belongs."""
    home = tmp_path_factory.mktemp("docs") / "pealm-mine"
    files: dict[str, list[str]] = {}
    for block in blocks("python"):
        first, _, code = block.partition("\n")
        assert first.startswith("# "), f"a snippet's first line names its file, not {first!r}"
        files.setdefault(first.removeprefix("# "), []).append(code)
    for name, parts in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("\n\n".join(parts))
    (home / "pealm_mine" / "__init__.py").touch()
    (pyproject,) = blocks("toml")
    project = tomllib.loads(pyproject)["project"]
    info = home / "pealm_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (points,) = project["entry-points"]["pealm"].items()
    (info / "entry_points.txt").write_text("[pealm]\n{} = {}\n".format(*points))
    sys.path.insert(0, str(home))
    yield home
    sys.path.remove(str(home))
    for module in [name for name in sys.modules if name.startswith("pealm_mine")]:
        del sys.modules[module]


def test_the_pages_plugin_passes_the_pages_tests(mine: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests"]
    env = {**os.environ, "PYTHONPATH": str(mine)}
    done = subprocess.run(command, cwd=mine, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_every_command_of_the_page_works(
    mine: Path, pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = 0
    for line in "".join(blocks("sh")).splitlines():
        words = line.split()
        if line.startswith("pealm new-plugin"):
            assert words[2] in KINDS  # tests/testing runs it
        elif line.startswith(ELSEWHERE):
            continue
        elif line.startswith("pealm plugins check"):
            assert pealm(*words[1:], "--help").code == 0  # tests/testing runs it
        else:
            if "--steps" in words:
                words[words.index("--steps") + 1] = "3"
            result = pealm(*words[1:])
            assert result.code == 0, f"{line}\n{result.err}"
            run += 1
    assert run >= 7


def test_the_pages_hook_is_called(
    mine: Path, pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train mine --input.mine 50 --steps 100 --eval-tokens 64 --batch-size 2 --out r"
    assert pealm(*words.split()).code == 0
    assert re.fullmatch(r"100 \d\.\d+\n", (tmp_path / "r" / "diary.txt").read_text())


def test_the_page_has_a_section_for_every_kind() -> None:
    headings = [line for line in PLUGINS.splitlines() if line.startswith("## A")]
    names = [re.sub(r"^## An? ", "", heading) for heading in headings]
    assert names == ["evaluation" if kind == "evaluator" else kind for kind in KINDS]
    sections = re.split(r"^## ", PLUGINS, flags=re.MULTILINE)
    assert all(len(section.splitlines()) <= 80 for section in sections)  # a page each, at most


def test_the_contract_is_current() -> None:
    spec = importlib.util.spec_from_file_location("contract", DOCS / "contract.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.contract()
    assert (DOCS / "contract.md").read_text(encoding="utf-8") == text, "run: python docs/contract.py"
    for name in ("pealm_models()", "pealm_metrics(trainer, step, metrics)", "FormatSpec", "forward(idx, targets"):
        assert name in text


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
