"""A plugin can neither end a command as a success nor print into its results."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core.plugins.import_checks import no_exit

SOURCE = """
import os
from pealm_core import DatasetSpec, hookimpl
@hookimpl
def pealm_datasets():
    return DatasetSpec(name='odd', summary='odd', factory='odd_plugin:make')
@hookimpl
def pealm_step_end(trainer):
    if 'HOOK' in os.environ: os._exit(0)
class Data:
    def documents(self, split):
        if 'HOOK' not in os.environ: os._exit(0)
        yield 'the quick brown fox ' * 100
make = Data
"""


@pytest.mark.parametrize(("where", "code"), [("DOCUMENTS", 3), ("HOOK", 0)])
def test_a_plugin_cannot_end_a_command_as_a_success(tmp_path: Path, where: str, code: int) -> None:
    """A dataset that exits fails; an observer of the run that exits is named, and the run continues."""
    info = tmp_path / "pealm_odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: pealm-odd\n")
    (info / "entry_points.txt").write_text("[pealm]\nodd = odd_plugin\n")
    (tmp_path / "odd_plugin.py").write_text(SOURCE)
    command = [sys.executable, "-m", "pealm", "train", "char-bigram", "--input.odd", "--steps", "3", "--out", "r"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), where: "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "pealm-odd" in done.stderr and "SystemExit: os._exit(0) was called" in done.stderr
    assert not code or "this is a bug in pealm" not in done.stderr


TOKENIZER = """
import sys
from pealm_core import TokenizerSpec, hookimpl

class Leaving:
    vocab_size = 128
    def encode(self, text): return [ord(c) % 128 for c in text]
    def decode(self, ids): return "".join(map(chr, ids))
    {fit}
    def save(self, folder): (folder / "vocabulary").write_text("a")
    def load(self, folder): pass
    {method} = eval("lambda self, arg: leave()", {{"leave": sys.exit, "__name__": "library"}})

@hookimpl
def pealm_tokenizers():
    return TokenizerSpec(name="leaving", summary="x", factory=Leaving)
"""


@pytest.mark.parametrize(
    ("method", "fits"),
    [("fit", True), ("save", True), ("load", True), ("save", False), ("encode", False)],
)
def test_a_tokenizer_that_exits_is_one_line(
    method: str,
    fits: bool,
    pealm: Callable[..., Any],
    local: Callable[..., Path],
    book: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Learning from the text, or when the token cache hashes what it saves or encodes the text."""
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    fit = "def fit(self, texts): pass" if fits else ""
    plugin = local(f"leaving_{method}{fits:d}", TOKENIZER.format(method=method, fit=fit))
    line = ("train", "char-bigram", "--tokenizer", "leaving", "--input.text", book, "--out", tmp_path / "run")
    done = pealm("--plugin", plugin, *line)
    (said,) = done.err.splitlines()
    assert done.code == 3 and "file:leaving_" in said and "SystemExit" in said, done.err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_may_exit() -> None:
    real = os._exit
    with no_exit():
        if (process := os.fork()) == 0:
            os._exit(7)
        with pytest.raises(SystemExit, match=r"os\._exit\(0\)"):
            os._exit(0)
    assert os._exit is real
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7


@pytest.mark.parametrize(
    "source",
    [
        "import os; os.write(1, b'printed')",
        "import os; os.system('echo printed')",
        "import os; os.write(1, b'printed'); os.close(1)",
        "import os; os.write(2, b'printed')\nclass E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    ],
)
def test_what_is_printed_at_import_goes_to_stderr(tmp_path: Path, source: str) -> None:
    """Also what native code, a process or a failing plugin prints."""
    info = tmp_path / "pealm_odd-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[pealm]\nodd = odd_plugin\n")
    (tmp_path / "odd_plugin.py").write_text(source)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "pealm", "plugins"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pealm-odd" in done.stdout and "printed" not in done.stdout and "printed" in done.stderr
