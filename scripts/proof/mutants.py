"""Which changes of a module do its tests miss? Each mutant has one operator, number or condition changed.

    python scripts/proof/mutants.py plugins/muon/pealm_muon/optimizer.py tests/muon/test_muon.py [-k EXPRESSION]
    python scripts/proof/mutants.py pealm_core/data/order.py tests/data/test_data.py tests/data/test_mixture.py

A mutant is compiled from the changed syntax tree in a forked process, which runs the tests and stops at the first to
fail; no file is changed. Tests must import the module in their own process: subprocesses run the original. Survivors
are printed with their line. Some are equivalent to the original (a batch size, a tolerance); the others lack a test.
"""

import argparse
import ast
import copy
import importlib
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}
PRELOAD = "torch,torch.distributed,hypothesis.strategies,click,safetensors.torch,xml.etree.ElementTree,pdb"
SKIPPED = {"annotation", "returns", "decorator_list", "type_params"}  # fields that are no behaviour of a function


def changes(node: ast.AST) -> Iterator[Callable[[Any], Any]]:
    """Yield what may be done to a node: functions that return what replaces it."""
    if type(node) in SWAPS:
        yield lambda node: SWAPS[type(node)]()
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield lambda node: ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield lambda node: ast.Constant(node.value + 1)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield lambda node: node.operand
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield lambda node: negated(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        yield lambda node: ast.Pass()
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        yield lambda node: node.args[0]


def negated(node: Any) -> Any:
    """The statement or expression with the opposite condition."""
    node.test = ast.UnaryOp(ast.Not(), node.test)
    return node


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Yield where nodes are: parent, field, and index in a list of nodes."""
    for field, value in ast.iter_fields(tree):
        if field in SKIPPED:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield tree, field, index
                yield from places(child)


def mutants(source: str) -> Iterator[tuple[ast.Module, int, str]]:
    """Yield syntax trees with one change each, its line, and the changed code in that line."""
    tree = ast.parse(source)
    for parent, field, index in places(tree):
        value = getattr(parent, field)
        node = value if index is None else value[index]
        for change in changes(node):
            new = change(copy.deepcopy(node))
            put(parent, field, index, new)
            whole = parent if isinstance(parent, ast.expr) else new if isinstance(new, ast.expr) else parent
            line = getattr(node, "lineno", getattr(parent, "lineno", 0))
            yield ast.fix_missing_locations(copy.deepcopy(tree)), line, ast.unparse(whole).splitlines()[0]
            put(parent, field, index, node)


def put(parent: ast.AST, field: str, index: int | None, node: Any) -> None:
    """Set a field of a node, or an item in it."""
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def survives(tree: ast.Module, path: Path, arguments: list[str], seconds: int) -> bool:
    """Whether all tests pass with this code in place of the file's."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        original = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader: Any, name: str) -> Any:
            if Path(loader.path).resolve() == path:
                return compile(tree, str(path), "exec")
            return original(loader, name)

        importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign,assignment]
        signal.alarm(seconds)  # ends the process: an endless loop is a failure
        os._exit(int(pytest.main(arguments)))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def main() -> None:
    """Run all mutants of a module and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+", help="files, folders or tests, as pytest takes them")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only these tests, as pytest's -k")
    parser.add_argument("--seconds", type=int, default=60, help="for the tests of a mutant")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every Nth mutant, from the Ith on [1/1]")
    parser.add_argument("--preload", default=PRELOAD, metavar="NAMES", help="modules to import once [torch and more]")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    path = given.module.resolve()
    arguments = [*given.tests, "-x", "-q", "-p", "no:cacheprovider", "-k", given.k]
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take longer than tests
    for name in given.preload.split(","):
        importlib.import_module(name)
    source = path.read_text(encoding="utf-8")
    if not survives(ast.parse(source), path, arguments, given.seconds):
        sys.exit("the tests fail without a change")
    count, alive = 0, 0
    for tree, line, code in islice(mutants(source), part - 1, None, parts):
        count += 1
        if survives(tree, path, arguments, given.seconds):
            alive += 1
            print(f"{given.module}:{line}: {code}", flush=True)
    print(f"{given.module}: {count - alive} of {count} mutants fail a test, {alive} survive")


if __name__ == "__main__":
    main()
