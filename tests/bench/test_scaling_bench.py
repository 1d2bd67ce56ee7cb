"""The miniseries of models at a toy size, and the fit against a known law."""

import csv
import doctest
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scaling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_scaling", ROOT / "scripts" / "bench" / "scaling.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


def test_the_fit(scaling: ModuleType) -> None:
    assert doctest.testmod(scaling) == (0, 4)
    points = [scaling.Point(1, 1, 1, c, 0.5 + 3 * c**-0.25, 0.5, 1.0) for c in (1e3, 1e5)]
    assert scaling.predicted(points, 1e9) == pytest.approx(0.5 + 3 * 1e9**-0.25)


@pytest.mark.slow
def test_a_miniseries(
    scaling: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--width", "4", "--depths", "1,2,3", "--fraction", "0.2", "--stories", "100", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *map(str, line)])
    scaling.main()
    table = capsys.readouterr().out.partition("gpt2, 4 features")[2].splitlines()
    assert [row.split()[0] for row in table[2:]] == ["1", "2", "3", "law:"]
    with (tmp_path / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["compute"]) for row in rows] == sorted(float(row["compute"]) for row in rows)
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True) and losses[-1] > float(rows[0]["floor"])
    assert "<svg" in (tmp_path / "scaling.svg").read_text()

    monkeypatch.setattr(sys, "argv", [*sys.argv[:-2], "--minutes", "0.0001", "--model", "sprout"])
    scaling.main()
    out = capsys.readouterr().out
    assert "depth 2 would take" in out and "law:" not in out
