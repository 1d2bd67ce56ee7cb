"""The page in a real browser: two widths, light and dark, by mouse and by keyboard."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pealm_report.page import write
from pealm_report.reading import read

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

Make = Callable[..., Path]
NASTY = "</script><script>document.title = 'caught'; console.error(1)</script>"
SIZES = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
TIP = "document.querySelector('[data-chart=loss] .tip').innerText"
LONG = "W" * 300


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with Page(tmp_path / "profile") as page:
        yield page


def show(page: Page, tmp_path: Path, *runs: Path) -> None:
    write([read(run) for run in runs], tmp_path / "page.html")
    page.open((tmp_path / "page.html").as_uri())


def test_two_runs_fit_every_window_and_answer(
    page: Page, tmp_path: Path, make_run: Make, add_samples: Any, add_evaluation: Any
) -> None:
    runs = [make_run("a-run-with-quite-a-long-name"), make_run("b", done=25, lr=0.02, device=LONG)]
    for run in runs:
        add_samples(run, NASTY, LONG, "Once.", prompt="<b>")
        add_evaluation(run, "hellaswag", acc=(0.3, 0.02), acc_norm=(0.31, 0.0))
    show(page, tmp_path, *runs)
    backgrounds = set()
    for width in (400, 1280):
        for scheme in ("light", "dark"):
            page.show(width, scheme)
            inside, window = page.run(SIZES)
            assert inside == window == width, scheme
            backgrounds.add(page.run("getComputedStyle(document.body).backgroundColor"))
            widths = page.run("[...document.querySelectorAll('.plot svg')].map((svg) => svg.viewBox.baseVal.width)")
            assert len(widths) == 4 and widths[0] > 0.85 * min(width, 1200)
    assert len(backgrounds) == 2
    assert page.run("document.title") != "caught"
    assert NASTY in page.run("document.querySelector('.samples pre').innerText")

    # By mouse: the values beside the pointer, of both runs, and of the longer one alone where the other has ended.
    box = page.run("document.querySelector('.plot').getBoundingClientRect().toJSON()")
    half = box["x"] + 52 + (box["width"] - 66) * 0.4
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=half, y=box["y"] + 50)
    tip = page.run(TIP)
    assert "2k tokens" in tip and tip.count("validation") == 2 and "1.4000" in tip and "step 20" in tip
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + box["width"] - 30, y=box["y"] + 50)
    assert page.run(TIP).count("validation") == 1
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    assert page.run(TIP) == ""

    # By keyboard.
    page.run("document.querySelector('.plot').focus()")
    page.key("End")
    assert "2.5000" in page.run(TIP) and "5k tokens" in page.run(TIP)
    page.key("ArrowLeft")
    assert "4.95k tokens" in page.run(TIP)
    page.key("Escape")
    assert page.run(TIP) == ""

    # A run that is switched off is gone; another unit is another axis.
    lines = "document.querySelectorAll('[data-chart=loss] .series:not(.floor)').length"
    assert page.run(lines) == 6
    page.run("document.querySelector('[name=run]').click()")
    assert page.run(lines) == 3
    page.run(
        "const x = document.querySelector('[name=x]'); x.value = 'seconds'; x.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.run("document.querySelector('.plot').focus()")
    page.key("End")
    assert "2.5 s" in page.run(TIP)
    assert page.problems == []


def test_a_run_without_a_step_and_one_alone(page: Page, tmp_path: Path, make_run: Make) -> None:
    run = make_run("empty", done=0, status="running")
    (run / "metrics.jsonl").write_text("")  # not even the validation before the first step
    show(page, tmp_path, run)
    page.show(400, "light")
    assert page.run(SIZES) == [400, 400]
    assert "nothing yet" in page.run("document.querySelector('.plot').textContent")
    alone = make_run("alone", lr=0.00005)
    with (alone / "metrics.jsonl").open("a") as file:
        file.write('{"step": 51, "tokens": 5100, "seconds": 5.1, "score": 145.13}\n')
    show(page, tmp_path, alone)
    labels = page.run(
        "[...document.querySelectorAll('[data-chart=\"more/score\"] text[text-anchor=end]')].map((t) => t.textContent)"
    )
    assert len(set(labels)) == len(labels) > 2  # of an axis from 145.09 to 145.17
    page.run("document.querySelector('.plot').focus()")
    page.key("End")
    assert "training" in page.run(TIP) and page.problems == []
    colours = "new Set([...document.querySelectorAll('[data-chart=loss] .series')].map((p) => getComputedStyle(p).stroke)).size"
    assert page.run(colours) == 3  # training, validation, floor
    texts = "[...document.querySelectorAll('[data-chart=lr] text')].map((t) => [t.textContent, t.getBBox().x >= 0])"
    assert ["4e-5", True] in (found := page.run(texts)) and all(inside for _, inside in found)
