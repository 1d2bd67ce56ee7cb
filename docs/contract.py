"""Writes docs/contract.md from the docstrings of the hooks, the records, the protocols and the kit's checks.

python docs/contract.py
"""

import inspect
import re
from pathlib import Path
from typing import Any

from pealm_core.contract import hookspecs, protocols
from pealm_core.contract.specs import KINDS, Spec
from pealm_core.testing import Conformance
from pealm_core.testing.check import KITS

TARGET = Path(__file__).with_name("contract.md")
HEAD = """# The contract

Written by `python docs/contract.py` from the docstrings of `hookspecs.py`, `specs.py`, `protocols.py` and `testing`:
change it there. [plugins.md](plugins.md) explains it with examples.
"""
CHECKS = """## Checks

What `pealm_core.testing` checks, and the failure that each one catches. What a test class may set stands above its
table; `spec`, the component's name, and `config`, values of its settings, are everybody's.
"""
COMPONENTS = (protocols.Model, protocols.Tokenizer, protocols.Dataset, protocols.Evaluator, protocols.EvalResult)


def document(thing: Any) -> str:
    """The docstring: its paragraphs, and its lists of `name: meaning` as they stand."""
    paragraphs = inspect.cleandoc(thing.__doc__ or "").split("\n\n")
    return "\n\n".join(f"```text\n{p}\n```" if _is_list(p) else p for p in paragraphs)


def _is_list(paragraph: str) -> bool:
    return re.match(r"[a-z_]+(, [a-z_]+)*:\s", paragraph) is not None


def signature(name: str, function: Any) -> str:
    """`name(a, b)`: types are in the source."""
    names = [p for p in inspect.signature(function).parameters if p != "self"]
    return f"`{name}({', '.join(names)})`"


def contract() -> str:
    """The page."""
    parts = [HEAD, "## Hooks\n"]
    for name, function in vars(hookspecs).items():
        if name.startswith("pealm_"):
            parts.append(f"### {signature(name, function)}\n\n{document(function)}\n")
    parts.append(f"## Records\n\n{document(Spec)}\n")
    for spec in KINDS.values():
        parts.append(f"### {spec.__name__}\n\n{document(spec)}\n")
    parts.append(f"## Components\n\n{document(protocols)}\n")
    for component in COMPONENTS:
        parts.append(f"### {component.__name__}\n\n{document(component)}\n")
        for name, function in vars(component).items():
            if inspect.isfunction(function) and function.__doc__ and (name == "__call__" or not name.startswith("_")):
                label = signature("forward" if name == "__call__" else name, function)
                parts.append(f"#### {label}\n\n{document(function)}\n")
    parts.append(CHECKS)
    shared = _checks(Conformance)
    parts.append(_table("Any plugin", shared))
    for kind, kit in KITS.items():
        own = {name: doc for name, doc in _checks(kit).items() if name not in shared}
        parts.append(_table(f"`{kit.__name__}`: {kind}s", own, document(kit)))
    return "\n".join(parts)


def _checks(kit: type[Conformance]) -> dict[str, str]:
    """The checks of a kit in the order of its source: name → what it catches."""
    found: dict[str, str] = {}
    for base in reversed(kit.__mro__):
        names = (name for name in vars(base) if name.startswith("test_"))
        found |= {name: " ".join(inspect.cleandoc(getattr(kit, name).__doc__ or "").split()) for name in names}
    return found


def _table(title: str, checks: dict[str, str], about: str = "") -> str:
    rows = (
        f"| {name.removeprefix('test_').replace('_', ' ')} | {doc.removeprefix('Catches ')} |"
        for name, doc in checks.items()
    )
    head = [f"### {title}\n", *([f"{about}\n"] if about else [])]
    return "\n".join([*head, "| check | catches |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    TARGET.write_text(contract(), encoding="utf-8")
