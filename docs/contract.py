"""Write the section "Checks" of docs/contract.md from the docstrings of `pealm_testing`. The rest is written by hand.

python docs/contract.py
"""

import inspect
import re
from pathlib import Path
from typing import Any

from pealm_testing import Conformance
from pealm_testing.base import ComponentConformance
from pealm_testing.check import KITS

TARGET = Path(__file__).with_name("contract.md")
TITLE = "## Checks\n"
CHECKS = """
The checks of `pealm_testing`, and the defects that each one catches; written by `python docs/contract.py`. Above each
table are the attributes that a test class can set, besides these:

{about}
"""


def document(thing: Any) -> str:
    """The docstring: its paragraphs, and its lists of `name: meaning` as they stand."""
    paragraphs = inspect.cleandoc(thing.__doc__ or "").split("\n\n")
    return "\n\n".join(f"```text\n{p}\n```" if _is_list(p) else p for p in paragraphs)


def _is_list(paragraph: str) -> bool:
    return re.match(r"[a-z_]+(\(\))?(, [a-z_]+)*:\s", paragraph) is not None


def checks() -> str:
    """The section."""
    parts = [TITLE + CHECKS.format(about=document(Conformance))]
    shared = _checks(ComponentConformance)
    any_plugin = _checks(Conformance)
    parts.append(_table("All plugins", any_plugin))
    made = {name: doc for name, doc in shared.items() if name not in any_plugin}
    parts.append(_table("All components that a factory makes", made))
    for kind, kit in KITS.items():
        own = {name: doc for name, doc in _checks(kit).items() if name not in shared}
        parts.append(_table(f"`{kit.__name__}`: {_plural(kind)}", own, document(kit)))
    return "\n".join(parts)


def _plural(kind: str) -> str:
    return f"{kind}s".replace("ys", "ies")


def page() -> str:
    """The page with the section as it should be."""
    return TARGET.read_text(encoding="utf-8").partition(TITLE)[0] + checks()


def _checks(kit: type[Conformance]) -> dict[str, str]:
    """The checks of a kit in the order of its source: name → what it catches."""
    checks: dict[str, str] = {}
    for base in reversed(kit.__mro__):
        names = (name for name in vars(base) if name.startswith("test_"))
        checks |= {name: " ".join(inspect.cleandoc(getattr(kit, name).__doc__ or "").split()) for name in names}
    return checks


def _table(title: str, checks: dict[str, str], about: str = "") -> str:
    rows = (
        f"| {name.removeprefix('test_').replace('_', ' ')} | {doc.removeprefix('Catches ')} |"
        for name, doc in checks.items()
    )
    head = [f"### {title}\n", *([f"{about}\n"] if about else [])]
    return "\n".join([*head, "| check | catches |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
