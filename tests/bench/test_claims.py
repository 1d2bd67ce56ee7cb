"""The quoted ratios: every claim has a script and a bound, and one that falls short is told."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def claims(tmp_path: Path) -> ModuleType:
    """The script, with claims of its own beside it."""
    (tmp_path / "claims.py").write_text((ROOT / "scripts/bench/claims.py").read_text())
    (tmp_path / "one.py").write_text("print('ratio 1.5\\nratio 2.5\\nratio 9')")
    (tmp_path / "claims.toml").write_text(
        "[good]\nwhat = 'a'\ncommand = 'one.py'\nread = '^ratio ([\\d.]+)'\nleast = 2.5\n"
        "[bad]\nwhat = 'b'\ncommand = 'one.py'\nread = '^ratio ([\\d.]+)'\nmost = 2.4\n"
        "[missing]\nwhat = 'c'\ncommand = 'one.py'\nread = 'nothing ([\\d.]+)'\nmost = 1\n"
    )
    spec = importlib.util.spec_from_file_location("claims_script", tmp_path / "claims.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("names", "code"), [(["good"], 0), (["bad"], 1), (["missing"], 1), ([], 1)])
def test_a_claim_that_falls_short_is_told(
    claims: ModuleType,
    names: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims.py", "text.txt", *names])
    with pytest.raises(SystemExit) as ending:
        claims.main()
    assert ending.value.code == code
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert all(line.endswith("FALLS SHORT") == (name in ("bad", "missing")) for name, line in lines.items())
    assert "2.50" in lines.get("good", "2.50")


def test_every_claim_can_be_run() -> None:
    import tomllib

    for name, claim in tomllib.loads((ROOT / "scripts/bench/claims.toml").read_text()).items():
        assert (ROOT / "scripts/bench" / claim["command"].split()[0]).exists(), name
        assert ("least" in claim) != ("most" in claim), name
