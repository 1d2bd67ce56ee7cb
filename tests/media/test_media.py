"""The pictures are SVG that every browser reads, and scripts/media.py draws the ones that are there."""

import csv
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
PICTURES = sorted((ROOT / "media").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def draw(*options: object) -> None:
    script = ROOT / "scripts" / "media.py"
    subprocess.run([sys.executable, str(script), *map(str, options)], check=True, timeout=120)


def words(picture: Path) -> str:
    return " ".join(text.text or "" for text in ElementTree.parse(picture).iter(f"{SVG}text"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_stands_alone(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    assert root.tag == f"{SVG}svg" and root.get("viewBox") and root.get("aria-label")
    numbers = " ".join(value for element in root.iter() for key, value in element.items() if key != "aria-label")
    assert not {"nan", "inf"} & set(re.split(r"[\s,MLH]+", numbers))
    text = picture.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text and "<script" not in text
    assert picture.stat().st_size < 100_000


def test_the_charts_are_what_the_script_draws(tmp_path: Path) -> None:
    draw("--out", tmp_path)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name: path.read_text(encoding="utf-8") for path in PICTURES if path.name != "logo.svg"}


def test_a_chart_shows_its_figures(tmp_path: Path) -> None:
    """With figures of our own: the curves' ends, and when the second run was where the first one ended."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("media_script", ROOT / "scripts" / "media.py")
    assert spec is not None and spec.loader is not None
    media = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = media
    spec.loader.exec_module(media)
    rows = [
        "run,seconds,loss",
        "a seed 1,10,2.5",
        "a seed 1,40,2.0",
        "b seed 1,10,2.25",
        "b seed 1,20,2.0",
        "b seed 1,40,1.5",
    ]
    media.time_to_loss(csv.DictReader(rows), tmp_path / "times.svg")
    shown = words(tmp_path / "times.svg")
    assert "nanoGPT's recipe 2.00" in shown and "pealm's sprout 1.50" in shown and "sprout needs 20 s" in shown
