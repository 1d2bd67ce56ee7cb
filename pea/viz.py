"""Draw the graph of a value, or save it as a page: numbers in boxes, operations in circles, slopes on the arrows."""

from __future__ import annotations

import os
import shutil
import warnings
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from pea.engine import Value

if TYPE_CHECKING:
    import graphviz  # type: ignore[import-untyped]

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 80rem; padding: 0 1rem; }
figure { margin: 0; overflow-x: auto; background: #fff; border: 1px solid #8c959f; padding: 0.5rem; }
table { border-collapse: collapse; margin-top: 1rem; }
th, td { border: 1px solid #8c959f; padding: 0.2rem 0.6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
<h1>$title</h1>
<figure tabindex="0" role="img" aria-label="The graph; its inputs and result are in the table below">$svg</figure>
<table>
<tr><th scope="col">value</th><th scope="col">data</th><th scope="col">gradient</th></tr>
$rows
</table>
</body>
</html>
""")

MOST_NODES = 500  # graphviz takes minutes for more, and the picture is unreadable


def draw(value: Value, *, depth: int | None = None) -> graphviz.Source:
    """Return the graph of `value` as a graphviz object; `.render("g", format="svg")` saves a picture.

    Notebooks display it. `depth` limits the number of operations from `value` to an input. Requires the extra
    `pealm-pea[viz]`. If the program `dot` is missing, a warning explains how to render the text in `.source`.
    """
    try:
        import graphviz
    except ImportError:
        raise ImportError(
            "drawing needs graphviz: pip install 'pealm-pea[viz]' (pea.viz.source works without)"
        ) from None
    nodes = _nodes(value, depth)
    if len(nodes) > MOST_NODES:
        raise ValueError(f"{len(nodes)} values are too many to draw (at most {MOST_NODES}); limit them with depth=")
    if shutil.which("dot") is None:
        warnings.warn(
            "the program `dot`, which renders pictures, is missing: install Graphviz (apt or brew install graphviz), "
            "or save .source as g.dot and run `dot -Tsvg g.dot -o g.svg` on another machine",
            stacklevel=2,
        )
    return graphviz.Source(source(value, depth=depth))


def save_html(value: Value, path: str | Path, *, title: str = "Graph", depth: int | None = None) -> None:
    """Write one HTML file with the graph as SVG, and a table of its labelled values with their gradients.

    The file needs nothing else: no script, style or picture from elsewhere. Requires the extra `pealm-pea[viz]` and
    the program `dot`, without which this is a RuntimeError.
    """
    if shutil.which("dot") is None:
        raise RuntimeError("the program `dot` is missing: install Graphviz (apt or brew install graphviz)")
    svg = draw(value, depth=depth).pipe(format="svg", encoding="utf-8")
    named = [node for node in _nodes(value, depth) if node.label or node is value]
    rows = [
        f"<tr><td>{escape(node.label or 'result')}</td><td>{node.data:.6g}</td><td>{node.grad:.6g}</td></tr>"
        for node in named
    ]
    page = PAGE.substitute(title=escape(title), svg=svg[svg.index("<svg") :], rows="\n".join(rows))
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def source(value: Value, *, depth: int | None = None) -> str:
    """Return the graph of `value` in the DOT language. Requires neither graphviz nor `dot`."""
    nodes = _nodes(value, depth)
    lines = [
        "digraph pea {",
        '  graph [rankdir=LR, nodesep=0.2, ranksep=0.35, bgcolor="white"]',
        '  node [fontname="Helvetica", fontsize=11, style="filled", color="#57606a", penwidth=0.8]',
        '  edge [fontname="Helvetica", fontsize=9, fontcolor="#57606a", color="#8c959f", arrowsize=0.6]',
    ]
    for node, i in nodes.items():
        lines.append(f"  v{i} [{_box(node, root=node is value)}]")
        if not node.parents:
            continue
        lines.append(f'  o{i} [label="{_quoted(node.op)}", shape=circle, width=0.4, margin=0, fillcolor="white"]')
        lines.append(f"  o{i} -> v{i}")
        if not all(parent in nodes for parent in node.parents):
            lines.append(f'  c{i} [label="…", shape=plain, style="", tooltip="cut at depth {depth}"]')
            lines.append(f"  c{i} -> o{i} [style=dotted]")
        slopes = node.slopes or (0.0,) * len(node.parents)
        for parent, slope in zip(node.parents, slopes, strict=True):
            if parent in nodes:
                dead = "" if slope else ", style=dashed"
                lines.append(f'  v{nodes[parent]} -> o{i} [label="{slope:.3g}"{dead}]')
    return "\n".join([*lines, "}", ""])


def _nodes(value: Value, depth: int | None) -> dict[Value, int]:
    """Number the values at most `depth` operations away from `value`, nearest first."""
    nodes = {value: 0}
    level = [value]
    while level and (depth is None or depth > 0):
        parents = dict.fromkeys(p for node in level for p in node.parents if p not in nodes)
        nodes |= {p: len(nodes) + k for k, p in enumerate(parents)}
        level = list(parents)
        depth = None if depth is None else depth - 1
    return nodes


def _box(node: Value, *, root: bool) -> str:
    name = f"<b>{escape(node.label)}</b>  " if node.label else ""
    colour = "#ffe8c7" if root else "#dff3e3" if not node.parents else "#f6f8fa"
    text = f'{name}{node.data:.4g}<br/><font point-size="9" color="#57606a">grad {node.grad:.4g}</font>'
    look = f'shape=box, style="rounded,filled", fillcolor="{colour}", height=0.3, margin="0.1,0.04"'
    return f"label=<{text}>, {look}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
