"""Make docstrings Markdown for the site: doctests become code blocks, lines such as `name: meaning` a list."""

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(\w+(?:, \w+)*): +(?=\S)")


class Docstrings(griffe.Extension):
    """Rewrite the docstring of every object that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Return a docstring as Markdown.

    >>> print(markdown("Add.\\n\\na: one.\\nb: another.\\n\\n>>> add(1, 2)\\n3"))
    Add.
    <BLANKLINE>
    - `a`: one.
    - `b`: another.
    <BLANKLINE>
    ```pycon
    >>> add(1, 2)
    3
    ```
    """
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", text.strip())))


def _paragraph(text: str) -> str:
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if text.startswith("    "):
        return text
    lines = text.splitlines()
    if not ENTRY.match(lines[0]):
        return text
    return "\n".join(ENTRY.sub(r"- `\1`: ", line) if ENTRY.match(line) else f"  {line.strip()}" for line in lines)
