"""The walk through a graph says what `backward()` does, and the page of a graph needs nothing else."""

import os
import pty
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pea import Value, viz, walk
from pea.nn import MLP


def last_gradients(lines: list[str]) -> dict[str, float]:
    """What the lines add up to, by name."""
    found: dict[str, float] = {}
    for line in lines:
        name, number = re.match(r"grad (\w+).* = (\S+)", line).groups()  # type: ignore[union-attr]
        found[name] = found.get(name, 0.0) + float(number)
    return found


def test_the_walk_gives_the_numbers_of_backward() -> None:
    model = MLP(2, [3, 2, 1], activation="tanh", rng=random.Random(0))
    for number, p in enumerate(model.parameters()):
        p.label = f"p{number}"
    loss = (model([Value(0.3, label="x"), 0.7]) - 1.0) ** 2 + pea_sum_of_squares(model.parameters())
    loss.label = "loss"
    steps = list(walk.forward(loss))
    assert steps[-1] == f"{steps[-1].partition(' = ')[0]} = {steps[-1].split(' = ')[1]} = {loss.data:.4g}"
    found = last_gradients(list(walk.backward(loss)))
    assert all(p.grad == 0 for p in model.parameters())  # walking changes nothing
    loss.backward()
    for p in model.parameters():
        assert found[p.label] == pytest.approx(p.grad, rel=2e-3, abs=2e-3)  # shown with four digits


def pea_sum_of_squares(params: list[Value]) -> Value:
    return 0.1 * sum((p * p for p in params), Value(0.0))


def test_operations_are_in_order_and_named() -> None:
    a, b = Value(2.0, label="a"), Value(3.0, label="b")
    out = (a * b).relu() ** 2 - a / 4.0 + 2.0**b
    names: set[str] = {"a", "b"}
    for line in walk.forward(out):
        name, formula, _ = line.split(" = ")
        assert all(word in names for word in re.findall(r"\b[abv]\d*\b", formula)), line
        names.add(name)
    assert "v2 = relu(v1) = 6" in list(walk.forward(out))


def test_the_demo_walks_without_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-m", "pea", "--walk"], capture_output=True, text=True, check=True)
    assert "  loss = v5 ** 2 = 2.138\n" in done.stdout and "  grad w2 += slope 2 * grad v2 = -4.6\n" in done.stdout
    assert done.stdout.endswith("the loss was 2.138 and is now 0.08623\n")


@pytest.mark.parametrize(
    ("typed", "shown", "missing"), [(b"\n\nq\n", "v3 = v1 + v2", "v4 ="), (b"a\na\na\n", "is now", "!")]
)
def test_on_a_terminal_it_waits_for_enter(typed: bytes, shown: str, missing: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "pea", "--walk"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, typed)
    text = b""
    try:
        while piece := os.read(ours, 4096):
            text += piece
    except OSError:  # what Linux says at the end of a terminal
        pass
    os.close(ours)
    assert process.wait() == 0
    assert shown in text.decode() and missing not in text.decode()


class Page(HTMLParser):
    """Elements by name, cells of tables, and every address that something would be loaded from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["td"] and data.strip():
            self.cells.append(data)


def test_the_page_of_a_graph_is_one_file(tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("the program dot is not installed")
    target = tmp_path / "neuron.html"
    done = subprocess.run([sys.executable, "-m", "pea", "--html", str(target)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{target}: the neuron's graph\n", done.stderr
    page = Page(target.read_text(encoding="utf-8"))
    assert {"svg", "table"} <= {*page.tags} and "script" not in page.tags and page.loads == []
    assert "url(" not in target.read_text() and "<!DOCTYPE svg" not in target.read_text()
    rows = {page.cells[i]: page.cells[i + 1 : i + 3] for i in range(0, len(page.cells), 3)}
    assert rows["w2"][0] == "-0.5" and float(rows["w2"][1]) == pytest.approx(-4.5995, abs=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["neuron.html"]
    value = Value(1.0, label="<script>") * 2.0
    viz.save_html(value, target, title="<b>")
    assert "<script>" not in target.read_text() and "&lt;b&gt;" in target.read_text()


def test_a_page_needs_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = subprocess.run(
        [sys.executable, "-m", "pea", "--html", str(tmp_path / "g.html")], capture_output=True, text=True
    )
    assert done.returncode == 2 and "the program `dot` is missing: install Graphviz" in done.stderr
    assert not list(tmp_path.iterdir())
