"""The kit under pytest: --pealm-slow, settings from fixtures, several configs, records that are not installed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pealm_testing import ConformanceError, ModelConformance, TokenizerConformance

from .plugin import ALONE, COMMAND, CONFIG, PARTS

HERE = """
import pytest
from pealm_core import CommandSpec, EvaluatorSpec, ModelSpec, TokenizerSpec
from pealm_testing import CommandConformance, EvaluatorConformance, ModelConformance, TokenizerConformance
"""


def run(folder: Path, test: str, *options: str) -> tuple[int, str]:
    """Run pytest on a test file in a new process, beside the modules of the plugin, which is not installed."""
    for name, text in {"config": CONFIG, "parts": PARTS, "command": COMMAND}.items():
        (folder / f"pealm_it_{name}.py").write_text(text)
    (folder / "test_it.py").write_text(HERE + test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-rs",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


MODEL = 'ModelSpec(name="m", summary="A model", config="pealm_it_config:Config", factory="pealm_it_parts:Model")'


@pytest.mark.slow
def test_slow_checks_run_with_the_option(tmp_path: Path) -> None:
    test = f"""
class TestModel(ModelConformance):
    spec = {MODEL}
class TestEvaluator(EvaluatorConformance):
    spec = EvaluatorSpec(name="e", summary="s", config="pealm_it_config:Eval", factory="pealm_it_parts:Evaluator")
    config = {{"lines": 3}}
"""
    code, out = run(tmp_path, test, "-k", "compile or processes")
    assert code == 0 and "3 skipped" in out and "slow: pass --pealm-slow to pytest" in out, out
    code, out = run(tmp_path, test, "-k", "compile or processes", "--pealm-slow")
    assert code == 0 and "3 passed" in out, out


def test_records_that_are_not_installed(tmp_path: Path) -> None:
    test = f"""
class TestModel(ModelConformance):
    spec = {MODEL}
    config = {{"width": 12}}
class TestTokenizer(TokenizerConformance):
    spec = TokenizerSpec(name="t", summary="A tokenizer", factory="pealm_it_parts:Tokenizer")
class TestCommand(CommandConformance):
    spec = CommandSpec(name="c", summary="A command", command="pealm_it_command:command")
    arguments = ["--times", "2"]
    def test_output(self):
        assert self.run("--times", "2").out.strip() == "it it"
"""
    code, out = run(tmp_path, test)
    assert code == 0 and " passed" in out and "failed" not in out, out


def test_a_record_of_another_kind() -> None:
    from pealm_core import TokenizerSpec

    class Wrong(ModelConformance):
        spec = TokenizerSpec(name="t", summary="A tokenizer", factory="a:b")

    with pytest.raises(ConformanceError, match="spec is a TokenizerSpec; this kit checks a ModelSpec"):
        Wrong().test_shapes()


def test_attributes_from_fixtures(tmp_path: Path) -> None:
    test = """
class TestCommand(CommandConformance):
    spec = CommandSpec(name="c", summary="A command", command="pealm_it_command:command")
    @pytest.fixture
    def arguments(self, tmp_path):
        return ["--times", str(len(list(tmp_path.iterdir())) + 2)]
    def test_output(self, tmp_path):
        assert self.run(*self.arguments).out.split() == ["it", "it"] and tmp_path.is_dir()
"""
    code, out = run(tmp_path, test)
    assert code == 0 and "test_output PASSED" in out and "test_it_runs PASSED" in out, out


def test_several_configs(tmp_path: Path) -> None:
    test = f"""
WIDTHS = set()
class TestModel(ModelConformance):
    spec = {MODEL}
    configs = [{{"width": 4, "block_size": 4}}, {{"width": 12}}]
    def test_width(self):
        WIDTHS.add((self.make().config.width, self.make().config.block_size))
def test_widths():
    assert WIDTHS == {{(4, 4), (12, 8)}}
"""
    code, out = run(tmp_path, test, "-k", "test_width or test_shapes")
    assert code == 0 and "5 passed" in out, out
    assert "test_shapes[width=4 block_size=4]" in out and "test_shapes[width=12]" in out


def test_checks_fail_under_python_o(stranger: Callable[..., None], tmp_path: Path) -> None:
    """Without `assert` statements, the kit still finds a defect."""
    stranger("pealm-it", ALONE)
    site = tmp_path / "site-pealm-it"
    (site / "pealm_it_parts.py").write_text(PARTS.replace("eot_id = 256", "eot_id = 300"))
    command = [sys.executable, "-O", "-m", "pealm", "plugins", "check", "it"]
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 3 and "  failed  ids are below vocab size: eot_id is 300" in done.stdout, (
        done.stdout + done.stderr
    )


def test_a_failure_is_an_assertion_error() -> None:
    class Missing(TokenizerConformance):
        spec = "no-such-tokenizer"

    with pytest.raises(AssertionError, match="no-such-tokenizer"):
        Missing().test_round_trip()


def test_the_pytest_plugin_imports_nothing_heavy() -> None:
    """Every pytest run of an environment with pealm-testing imports it."""
    code = "import sys, pytest; before = set(sys.modules); import pealm_testing.pytest_plugin\n"
    code += "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pealm_testing"]
