"""pea imports nothing outside the standard library, and graphviz only when something is drawn."""

import ast
import subprocess
import sys
from pathlib import Path

import pea

HERE = Path(pea.__file__).parent


def imports(tree: ast.AST) -> set[str]:
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            modules.add(node.module.split(".")[0])
    return modules


def test_only_the_standard_library() -> None:
    files = sorted(HERE.glob("*.py"))
    assert "engine.py" in {file.name for file in files}
    for file in files:
        outside = imports(ast.parse(file.read_text(encoding="utf-8"))) - sys.stdlib_module_names - {"pea"}
        assert outside == ({"graphviz"} if file.name == "viz.py" else set()), file.name


def test_importing_pea_imports_no_graphviz() -> None:
    code = "import sys, pea; print(sorted({m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'pea'" in done.stdout
    assert "graphviz" not in done.stdout


def test_it_is_typed() -> None:
    assert (HERE / "py.typed").exists()
