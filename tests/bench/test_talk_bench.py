"""The goals of the talk, at a toy size."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_talk", ROOT / "scripts" / "bench" / "talk.py")
    assert spec and spec.loader
    talk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(talk)
    return talk


def test_the_recipe_is_that_of_the_quickstart() -> None:
    talk, quickstart = script(), (ROOT / "scripts" / "quickstart").read_text().replace("\\\n", "")
    trainings = [line.split() for line in quickstart.splitlines() if "pealm train sprout" in line]
    for recipe, words in zip((talk.FIRST, talk.SECOND), trainings[:2], strict=True):
        assert {*recipe.replace("--eval-every 0", "").split()} <= {*words}
    weights = (ROOT / "scripts" / "weights.py").read_text()
    shipped = re.sub(r'"\s+"', "", weights[weights.index('"sprout-kindergarten": ') :])
    assert f"sprout {talk.FIRST} --steps" in shipped
    assert f"{talk.SECOND.partition(' --eval')[0].removeprefix('--preset chat ')} --eval" in shipped


@pytest.mark.slow
def test_every_goal_is_shown_beside_what_the_seeds_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = script()
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    small = "--input.stories 20 --batch-size 2 --eval-tokens 200"
    line = ["--steps", 1, 2, "--seeds", 3, "--count", 2, "--stories", 2, "--out", tmp_path, "--first", small]
    monkeypatch.setattr(sys, "argv", ["talk.py", *map(str, line), "--second", small])
    for _ in range(2):  # the second time, nothing is trained
        with pytest.raises(SystemExit) as ended:
            talk.main()
        assert ended.value.code == 1
        head, _, columns, *rows, last = capsys.readouterr().out.splitlines()
        assert head.startswith("seed 3: 1 and 2 steps; worst kind: ")
        assert columns.split() == ["percent", "goal", "seed", "3"]
        assert [row[:32].strip() for row in rows] == list(talk.GOALS)
        assert all(-100 <= float(row.split()[-1]) <= 100 for row in rows) and last.endswith("goals missed")
        monkeypatch.setattr(talk, "FIRST", "--no-such-option")
