"""docs/contract.md: every public name is there, with the parameters, fields and defaults that it has in the code."""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pealm_core
from pealm_core.config.settings import TrainSettings
from pealm_core.contract import hookspecs
from pealm_core.hardware.distributed import World
from pealm_core.inference.lm import Sample

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "contract.md").read_text(encoding="utf-8")
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("pealm_")}
PUBLIC = {name: getattr(pealm_core, name) for name in dir(pealm_core)}
OTHERS = {"TrainSettings": TrainSettings, "World": World, "Sample": Sample}  # what public functions give
NOT_LISTED = {  # for the core only, or click's
    "World": {"agree", "once", "texts"},
    "PluginHost": {"blame", "call", "switch_off", "versions", "with_hook"},
    "ComponentCommand": {"get_params", "parse_args", "format_options", "shell_complete"},
}
Stub = ast.FunctionDef | ast.ClassDef | ast.Assign


def stubs() -> Iterator[tuple[str, Stub]]:
    """The functions, classes and constants of the page's signatures."""
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for node in ast.parse(block).body:
            assert isinstance(node, Stub), ast.unparse(node)
            if isinstance(node, ast.Assign):
                assert isinstance(node.targets[0], ast.Name)
            yield node.targets[0].id if isinstance(node, ast.Assign) else node.name, node


STUBS = dict(stubs())


def test_every_public_name_is_there_once() -> None:
    assert sorted(name for name, _ in stubs()) == sorted({*PUBLIC, *HOOKS, *OTHERS})


def parameters(function: ast.FunctionDef) -> list[tuple[str, str, str | None]]:
    """Each parameter: its name with its stars, whether it is keyword-only, its default as text (`...`: any)."""
    a = function.args
    defaults = [None] * (len(a.args) - len(a.defaults)) + [ast.unparse(d) for d in a.defaults]
    found = [(arg.arg, "", default) for arg, default in zip(a.args, defaults, strict=True)]
    found += [(f"*{a.vararg.arg}", "", None)] if a.vararg else []
    for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True):
        found.append((arg.arg, "keyword", ast.unparse(default) if default else None))
    return [*found, *([(f"**{a.kwarg.arg}", "", None)] if a.kwarg else [])]


def real_parameters(function: Any) -> list[tuple[str, str, str | None]]:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        (
            stars.get(p.kind, "") + p.name,
            "keyword" if p.kind is p.KEYWORD_ONLY else "",
            None
            if p.default is p.empty
            else "..."
            if callable(p.default) or isinstance(p.default, dict)
            else repr(p.default),
        )
        for p in inspect.signature(function).parameters.values()
    ]


def fields(node: ast.ClassDef) -> dict[str, str | None]:
    """The annotated names of a class, and their defaults as values."""
    found = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            assert isinstance(item.target, ast.Name)
            found[item.target.id] = None if item.value is None else repr(ast.literal_eval(item.value))
    return found


def real_fields(cls: type) -> dict[str, str | None]:
    """The fields of a dataclass and its properties; of another class, what its body annotates."""
    if not dataclasses.is_dataclass(cls):
        own = dict.fromkeys(inspect.get_annotations(cls))
        return own | {name: None for name, value in vars(cls).items() if isinstance(value, property)}
    found: dict[str, str | None] = {}
    for f in dataclasses.fields(cls):
        if f.default_factory is not dataclasses.MISSING:
            found[f.name] = repr(f.default_factory())
        else:
            found[f.name] = None if f.default is dataclasses.MISSING else repr(f.default)
    kinds = (property, functools.cached_property)
    return found | {name: None for name, value in vars(cls).items() if isinstance(value, kinds)}


@pytest.mark.parametrize("name", sorted({*PUBLIC, *HOOKS, *OTHERS}))
def test_a_name_is_as_in_the_code(name: str) -> None:
    node, real = STUBS[name], {**PUBLIC, **HOOKS, **OTHERS}[name]
    if isinstance(node, ast.FunctionDef):
        assert parameters(node) == real_parameters(real)
    elif isinstance(node, ast.ClassDef):
        documented = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        methods = {n for n, value in vars(real).items() if inspect.isfunction(value) and not n.startswith("_")}
        assert methods - NOT_LISTED.get(name, set()) <= documented.keys() <= vars(real).keys() | {"__init__"}
        for method, stub in documented.items():
            assert parameters(stub) == real_parameters(vars(real)[method]), method
        if issubclass(real, Exception):
            (code,) = (item for item in node.body if isinstance(item, ast.Assign))
            assert ast.unparse(code) == f"exit_code = {real.exit_code}"
        elif name != "KVCache":  # its `length` is set by the constructor
            assert fields(node) == real_fields(real)
    elif name == "IGNORE":
        assert ast.literal_eval(node.value) == real


def test_the_checks_are_current() -> None:
    spec = importlib.util.spec_from_file_location("contract", DOCS / "contract.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE, "run: python docs/contract.py"


def test_links_within_the_pages_lead_to_headings() -> None:
    for page in sorted(DOCS.glob("*.md")):
        for target, anchor in re.findall(r"\]\(([\w.-]*)#([\w-]+)\)", page.read_text(encoding="utf-8")):
            text = (DOCS / (target or page.name)).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"
