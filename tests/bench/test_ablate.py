"""The table of what fine-tuning's parts are worth, at a toy size."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_of_the_talk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:  # type: ignore[type-arg]
    spec = importlib.util.spec_from_file_location("bench_ablate", ROOT / "scripts" / "bench" / "ablate.py")
    assert spec and spec.loader
    ablate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ablate)
    changes = ("not trained on stories before",)
    monkeypatch.setattr(ablate, "TALK", {change: ablate.TALK[change] for change in changes})
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    line = [
        "--talk",
        ROOT / "weights" / "sprout-stories",
        "--steps",
        1,
        "--seeds",
        1,
        "--count",
        2,
        "--out",
        tmp_path,
    ]
    train = "--input.stories 20 --batch-size 2 --eval-tokens 200"
    monkeypatch.setattr(sys, "argv", ["ablate.py", *map(str, line), "--train", train])
    ablate.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "1 seeds; 1 steps; 2 questions and 2 stories; percent"
    assert [row[:32].strip() for row in printed[2:]] == list(changes)
    with (tmp_path / "ablate.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows] == list(ablate.SCORES)
    assert all(0 <= float(row["percent"]) <= 100 for row in rows)
    monkeypatch.setattr(sys, "argv", ["ablate.py"])
    with pytest.raises(SystemExit):
        ablate.main()
