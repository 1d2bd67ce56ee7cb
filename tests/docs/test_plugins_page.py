"""docs/plugins.md: every plugin file on the page loads and trains, every command works, the package passes its kit."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pealm_core.contract.specs import KINDS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "plugins.md").read_text(encoding="utf-8")
SMALL = ("--eval-tokens", "64", "--batch-size", "2")
# What is not run here: it installs, uploads, or is the test itself.
ELSEWHERE = ("pip install", "pytest", "python -m build", "twine ")


def blocks(language: str) -> dict[str, str]:
    """The code blocks of a language: the file that the first line names → the rest; commands have no name."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return {block.partition("\n")[0].removeprefix("# "): block.partition("\n")[2] for block in found}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files of the page, and its package installed beside them."""
    home, before = tmp_path_factory.mktemp("page"), {*sys.modules}
    package = home / "pealm-mine"
    for name, code in {**blocks("python"), "mix.toml": blocks("toml")["mix.toml"]}.items():
        path = package / name if "/" in name else home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    config, _, model = (home / "trigram.py").read_text().partition("@dataclass")[2].partition("class Last:")
    head = "from dataclasses import dataclass\nfrom pealm_core import setting\n@dataclass"
    (package / "pealm_mine/config.py").write_text(head + config)
    head = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\nclass Last:"
    (package / "pealm_mine/model.py").write_text(head + model.partition("@hookimpl")[0])
    (package / "pealm_mine/__init__.py").touch()
    (pyproject,) = re.findall(r"^```toml\n(\[build-system\].*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    project = tomllib.loads(pyproject)["project"]
    info = package / "pealm_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (points,) = project["entry-points"]["pealm"].items()
    (info / "entry_points.txt").write_text("[pealm]\n{} = {}\n".format(*points))
    sys.path.insert(0, str(package))
    yield home
    sys.path.remove(str(package))
    for module in {*sys.modules} - before:
        if module.partition(".")[0] == "pealm_mine" or (home / f"{module}.py").exists():
            del sys.modules[module]


def python(page: Path, *arguments: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(page / "pealm-mine")}
    done = subprocess.run([sys.executable, *arguments], cwd=page, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_command_works(page: Path, pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, with fewer steps. So every plugin file trains, samples, evaluates or converts."""
    monkeypatch.chdir(page)
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    used = set()
    for line in lines.replace("\\\n", "").splitlines():
        words = shlex.split(line)
        used |= {word for word in words if word.endswith(".py")}
        if line.startswith(ELSEWHERE):
            continue
        assert words[0] == "pealm"
        if line.startswith("pealm plugins check"):
            words.append("--help")  # tests/testing runs it
        elif "--steps" in words:
            resumes = "--out" in words and Path(words[words.index("--out") + 1]).exists()
            words[words.index("--steps") + 1] = "5" if resumes else "3"
            words += SMALL
        result = pealm(*words[1:])
        assert result.code == 0, f"{line}\n{result.err}"
        assert "failed" not in result.err, f"{line}\n{result.err}"  # an observer that fails doesn't end the run
    assert used == {name for name, code in blocks("python").items() if "/" not in name and "@hookimpl" in code}
    assert re.search(r"mean_loss", (page / "runs/diary/metrics.jsonl").read_text())
    assert (page / "runs/diary/diary.txt").read_text().startswith("step 0: validation loss ")


def test_the_script_works(page: Path) -> None:
    script = page / "first.py"
    script.write_text(script.read_text().replace("steps=100", "steps=3, eval_tokens=64, batch_size=2"))
    python(page, "first.py")


def test_the_package_passes_its_tests(page: Path) -> None:
    python(page / "pealm-mine", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests")


def test_there_is_a_section_for_every_kind() -> None:
    names = re.findall(r"^## An? (\w+)$", PAGE, re.MULTILINE)
    assert names == ["evaluation" if kind == "evaluator" else kind for kind in KINDS]
