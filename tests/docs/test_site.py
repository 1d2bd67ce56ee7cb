"""The documentation site builds without a warning, and its pages say what the code does."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pealm_core

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link or anchor, or a page that the navigation lacks, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PEALM_PLUGINS": "", "PEALM_DISABLE_PLUGINS": ""}
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(folder),
    ]  # --quiet hides warnings
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_has_every_setting_command_and_name(site: Path) -> None:
    settings = (site / "reference/settings.html").read_text()
    for words in ("--model.n-layer", "--optimizer.momentum", "--input.val-fraction", "--adapter.rank", "≥ 1"):
        assert words in settings
    assert 'id="model-gpt2"' in settings and "--preset tiny" in settings
    assert "--input.text" in settings and "--input.path" not in settings  # the name of its field is not an option
    assert "--tokenizer.vocab-size" in settings and "--model.vocab-size" not in settings
    commands = (site / "reference/commands.html").read_text()
    assert all(f'id="pealm-{name}"' in commands for name in ("train", "sample", "eval", "chat", "convert", "plugins"))
    names = (site / "reference/python.html").read_text()
    assert "causal_attention" in names and "Return a conversation as a document" in names
    messages = (site / "reference/messages.html").read_text()
    assert 'id="is-a-checkpoint-of-not-of"' in messages
    anchors = re.findall(r'<span id="([^"]+)"', messages)
    assert len(anchors) > 300 and len(set(anchors)) == len(anchors)
    assert (site / "reference/plugins/gpt2.html").is_file() and (site / "media/shakespeare.svg").is_file()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """The pages work offline, and nobody learns who reads them."""
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)\b[^>]*?(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text())
        assert loaded == [], page


def test_the_python_page_has_every_public_name() -> None:
    """Protocols, type aliases and constants are in the contract only."""
    api = script("docs_reference").API
    listed = [name for names in api.values() for name in names]
    assert len(set(listed)) == len(listed)
    protocols = {n for n in dir(pealm_core) if getattr(getattr(pealm_core, n), "_is_protocol", False)}
    others = {"hookimpl", "Batch", "Document", "IGNORE", "CHAT_LAYOUT", "EvalResult", "Run", "Trainer"}
    assert set(dir(pealm_core)) - protocols - others == set(listed)


def test_docstrings_become_markdown() -> None:
    markdown = script("docs_docstrings").markdown
    assert markdown("Add.\n\na: one,\n    first.\nb: two.") == "Add.\n\n- `a`: one,\n  first.\n- `b`: two."
    assert markdown("Add.\n\n>>> 1 + 1\n2") == "Add.\n\n```pycon\n>>> 1 + 1\n2\n```"
    assert markdown("See: this\nand that.") == "- `See`: this\n  and that."


def test_links_out_of_the_site() -> None:
    moved = script("docs_site").moved
    text = "[a](../examples/ema.py) [b](../plugins/gpt2) [c](results.md#x) ![d](../media/logo.svg) [e](https://e.org)"
    assert moved(text, "docs/index.md", "index.md", None) == (
        "a [b](reference/plugins/gpt2.md) [c](results.md#x) ![d](media/logo.svg) [e](https://e.org)"
    )
    assert (
        moved("[a](../LICENSE)", "docs/x.md", "x.md", "https://e.org/p") == "[a](https://e.org/p/blob/main/LICENSE)"
    )
    assert moved("```\n[a](../b)\n```", "docs/x.md", "x.md", None) == "```\n[a](../b)\n```"


def commands() -> Iterator[tuple[str, str]]:
    """Yield page and line of every command of pealm in the docs that no other test runs."""
    for page in PAGES:
        if page.name == "plugins.md" or page.parent.name == "tutorial":
            continue
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"\$\w+", "1", line.strip().partition("  #")[0])
                if re.match(r"(torchrun .*-m )?pealm ", line):
                    yield page.relative_to(DOCS).as_posix(), re.sub(r"^torchrun .*-m ", "", line)


@pytest.mark.parametrize("page", sorted({page for page, _ in commands()}))
def test_the_options_of_every_command_exist(page: str, pealm: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    for _, line in (pair for pair in commands() if pair[0] == page):
        words = shlex.split(line)[1:]
        words = [word for word in words if word != "--plugin" and not word.endswith(".py")]
        result = pealm(*words, "--help")
        assert result.code == 0, f"{line}\n{result.err}"
        for word in words:
            if word.startswith("-"):
                assert re.search(rf"(^|[\s,/]){re.escape(word)}\b", result.out), f"{line}: {word}"


def test_every_environment_variable_is_listed() -> None:
    page = (DOCS / "reference" / "environment.md").read_text()
    sources = [path.read_text() for part in ("pealm_core", "plugins") for path in (ROOT / part).rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\b_?PEALM_[A-Z]+\b", text)}
    assert {name for name in used if f"`{name}" not in page} == set()


BOOK = "the quick brown fox jumps over the lazy dog. " * 200
# Heading of docs/troubleshooting.md → the command line that says it; {} is a folder.
PROVOKED = {
    "resume with the same value, or start a new run": "train --out {}/run --batch-size 7",
    "is not a checkpoint; give a run or a checkpoint folder": "sample --ckpt {}",
    "is damaged: its content is not what was saved": "sample --ckpt {}/damaged",
    "whose code runs only if you name it": "sample --ckpt {}/local",
    "the prompt can't be encoded": f"sample --ckpt {ROOT}/weights/char-bigram --prompt é",
    "is not UTF-8: byte 0xe9 at position 3": "train char-bigram --input.text {}/latin.txt",
    "the training text is too short": "train char-bigram --input.text {}/tiny.txt",
    "is its plugin installed?": "train nothing --input.text {}/book.txt",
    "--plugin FILE.py comes before the command": "train --plugin mine.py",
    "is not finite at step": "train char-bigram --input.text {}/book.txt --lr 1e38 --optimizer.eps 1e-30 --steps 9",
}  # fmt: skip


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a damaged checkpoint, one of a local plugin, and texts that can't be used."""
    folder = tmp_path_factory.mktemp("trouble")
    (folder / "book.txt").write_text(BOOK)
    (folder / "tiny.txt").write_text("tiny")
    (folder / "latin.txt").write_bytes("café au lait".encode("latin-1"))
    return folder


def test_troubleshooting_quotes_the_messages(trouble: Path, pealm: Callable[..., Any], local: Any) -> None:
    few = ("--steps", 1, "--eval-tokens", 64)
    text = ("--input.text", trouble / "book.txt")
    assert pealm("train", "char-bigram", *text, *few, "--out", trouble / "run").code == 0
    source = (DOCS / "plugins.md").read_text().partition("# utf8.py\n")[2].partition("```")[0]
    plugin = local("utf8", source)
    made = pealm(
        "--plugin", plugin, "train", "char-bigram", "--tokenizer", "utf8", *text, *few, "--out", trouble / "local"
    )
    assert made.code == 0, made.err
    damaged = trouble / "damaged"
    subprocess.run(["cp", "-r", trouble / "run" / "best", damaged], check=True)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    page = (DOCS / "troubleshooting.md").read_text()
    for heading, line in PROVOKED.items():
        assert f"### {heading}\n" in page
        result = pealm(*line.format(trouble).split())
        assert result.code != 0 and heading in result.err, f"{line}\n{result.err}"


def test_no_dependency_is_gpl() -> None:
    module = script("docs_dependencies")
    listed = {name: licence for name, _, licence, _ in module.rows()}
    assert {"torch", "click", "numpy", "safetensors"} <= listed.keys()
    assert {name: words for name, words in listed.items() if re.search(r"\b[AL]?GPL", words) or words == "?"} == {}


def test_licences_are_read_in_each_form() -> None:
    from email.message import Message
    from types import SimpleNamespace

    licence = script("docs_dependencies").licence
    for key, value, expected in (
        ("License-Expression", "MIT", "MIT"),
        (
            "Classifier",
            "License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
            "GNU General Public License v3 (GPLv3)",
        ),
        ("License", "Apache 2.0\nmore", "Apache 2.0"),
        ("Name", "x", "?"),
    ):
        metadata = Message()
        metadata[key] = value
        assert licence(SimpleNamespace(metadata=metadata)) == expected
