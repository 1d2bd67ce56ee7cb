"""List every package that `pip install pealm` brings, with its licence, from the installed metadata.

mkdocs runs this as a hook; `python scripts/docs_dependencies.py` prints the list.
"""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def on_files(files: Any, config: Any) -> Any:
    """Add the page to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/dependencies.md", content=page()))
    return files


def needed(root: str = "pealm") -> dict[str, tuple[Distribution, set[str]]]:
    """Map each package that `root` requires, directly or not, to its metadata and the packages that require it."""
    found: dict[str, tuple[Distribution, set[str]]] = {}
    waiting = [(root, "")]
    while waiting:
        name, parent = waiting.pop()
        if name in found:
            found[name][1].add(parent)
            continue
        try:
            found[name] = (distribution(name), {parent} if parent else set())
        except PackageNotFoundError:  # for another system or Python
            continue
        for line in found[name][0].requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append((canonicalize_name(need.name), name))
    return found


def licence(dist: Distribution) -> str:
    """Return a package's licence: its SPDX expression, else its classifiers, else the first line of its text."""
    meta: Any = dist.metadata
    if expression := meta.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    return ", ".join(classifiers) or str(meta.get("License") or "?").strip().splitlines()[0]


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, version, licence and who needs it, of each package of others."""
    for name, (dist, parents) in sorted(needed().items()):
        if name != "pealm" and not name.startswith("pealm-"):
            yield name, dist.version, licence(dist), ", ".join(sorted(parents))


def page() -> str:
    """Return the page."""
    lines = [
        "# Dependencies\n",
        "Every package that `pip install pealm` brings besides our own, at the versions of this build. "
        "All of our own are MIT-licensed. A test fails if one of these has a licence of the GPL family.\n",
        "| package | version | licence | needed by |",
        "|---|---|---|---|",
    ]
    lines += [re.sub(r"\s+", " ", f"| {' | '.join(row)} |") for row in rows()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for row in rows():
        print("\t".join(row))
