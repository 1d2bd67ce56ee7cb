"""Drawings, with and without the program `dot`."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import pea
from pea import Value, viz


def example() -> Value:
    a, b = Value(2.0, label="a<b"), Value(-3.0, label='"b"')
    out = (a * b).relu() + a**2
    out.label = "out"
    out.backward()
    return out


def test_source_tells_everything() -> None:
    text = viz.source(example())
    assert "<b>a&lt;b</b>  2<br/>" in text  # label and data
    assert ">grad 4<" in text
    for op in ("*", "+", "relu", "**2"):
        assert f'label="{op}", shape=circle' in text
    assert 'label="0", style=dashed' in text  # nothing flows through the relu
    assert text.count("shape=box") == 6


def test_each_value_is_drawn_once() -> None:
    a = Value(1.0)
    text = viz.source(a * a + a)
    assert text.count("shape=box") == 3
    assert text.count("v2 -> o1") == 2  # both operands


def test_depth_cuts() -> None:
    out = example()
    assert viz.source(out, depth=0).count("shape=box") == 1
    shallow = viz.source(out, depth=1)
    assert shallow.count("shape=box") == 3
    assert shallow.count('label="…"') == 2
    assert viz.source(out, depth=99).count('label="…"') == 0


def test_draw_says_how_to_render_without_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.warns(UserWarning, match=r"dot -Tsvg g\.dot -o g\.svg"):
        drawing = viz.draw(example())
    assert drawing.source == viz.source(example())


def test_draw_renders_with_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("dot") is None:
        pytest.skip("the program dot is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = viz.draw(example())
    rendered = Path(drawing.render(tmp_path / "graph", format="svg")).read_text(encoding="utf-8")
    assert "a&lt;b" in rendered
    assert "grad 4" in rendered


def test_too_large_a_graph_names_the_way_out() -> None:
    total = Value(0.0)
    for _ in range(600):
        total = total + 1.0
    with pytest.raises(ValueError, match=r"1201 values are too many .*depth="):
        viz.draw(total)


def test_without_the_package_graphviz() -> None:
    code = (
        "import sys; sys.modules['graphviz'] = None\n"
        "import pea\n"
        "print(pea.viz.source(pea.Value(1.0))[:11])\n"
        "pea.viz.draw(pea.Value(1.0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "digraph pea\n"
    assert "ImportError: drawing needs graphviz: pip install 'pealm-pea[viz]'" in done.stderr


def test_draw_is_reachable_from_the_package() -> None:
    assert pea.viz is viz
