"""`pealm new-plugin`: write a small, complete plugin to start from.

`templates/` has one text for each kind and one for the files that all kinds have. A line `==> path <==` starts a
file, and `${name}` and similar are substituted. The section `facts` is TOML.
"""

import keyword
import re
import shutil
import tomllib
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

import click

from pealm_core import UserError
from pealm_core.contract.specs import KINDS
from pealm_core.plugins.host import CORE_COMMANDS, PluginHost


def write(kind: str, name: str) -> None:
    """Write the folder pealm-NAME and print the next steps. Raises UserError if it can't be written."""
    name = name.removeprefix("pealm-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        suggestion = re.sub(r"[^a-z0-9]+", "-", re.sub(r"([a-z])([A-Z])", r"\1-\2", name).lower()).strip(
            "-0123456789"
        )
        hint = f"; try {suggestion}" if suggestion else ""
        raise UserError(
            f"{name!r} is not a valid plugin name: use a-z, 0-9 and single '-', starting with a letter{hint}"
        )
    if kind == "command" and name in CORE_COMMANDS:
        raise UserError(f"{name!r} is a command of pealm itself; choose another name")
    host = PluginHost.installed()
    if taken := host.entries(KINDS[kind]).get(name):
        raise UserError(f"{taken[0].plugin.dist} already provides the {kind} {name!r}; choose another name")
    folder = Path(f"pealm-{name}")
    if folder.exists():
        raise UserError(f"{folder} already exists; nothing was written")
    package = _package(name)
    if any(plugin.dist == folder.name for plugin in host.plugins) or find_spec(package):
        raise UserError(f"{folder} (package {package}) is already installed; choose another name")
    files, commands = fill(kind, name, host.versions()["pealm-core"])
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    click.echo(f"wrote {_a(kind)} to {folder}. Next:")
    for line in [f"cd {folder}", "pip install -e '.[test]'", "pytest", *commands]:
        click.echo(f"  {line}")
    click.echo(f"Then edit {package}/{_main_file(files)}; pytest checks that it still works with pealm.")


def fill(kind: str, name: str, core: str) -> tuple[dict[str, str], list[str]]:
    """Return the files of a new plugin (path → text), and command lines to try it. core: pealm-core's version."""
    common, own = _sections("common"), _sections(kind)
    major, minor = (int(part) for part in core.split(".")[:2])
    words = {
        "name": name,
        "module": name.replace("-", "_"),
        "package": _package(name),
        "core": f"{major}.{minor}",
        "next_core": f"{major}.{minor + 1}",
    }
    words["title"] = _title(name, kind, "".join(own.values()))
    facts = tomllib.loads(Template(own.pop("facts")).substitute(words))
    commands: list[str] = facts.pop("commands")
    words |= {
        "summary": facts["summary"],
        "about": f"{_a(kind).capitalize()} for pealm: {facts['summary'][0].lower()}{facts['summary'][1:]}",
        "needs": " ".join(facts["test_dependencies"]),
        "ignore": "".join(f"\n{line}" for line in facts.get("ignore", [])),
        "dependencies": "".join(f'    "{item}",\n' for item in facts["dependencies"]),
        "test_dependencies": ", ".join(f'"{item}"' for item in facts["test_dependencies"]),
        "commands": "".join(f"    {line}\n" for line in commands),
    }
    sections = {**common, **own}
    return {Template(p).substitute(words): Template(t).substitute(words) for p, t in sections.items()}, commands


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _package(name: str) -> str:
    return "pealm_" + name.replace("-", "_")


def _title(name: str, kind: str, template: str) -> str:
    """The class name; the kind is appended if the name alone is a keyword or is used in the template."""
    title = "".join(part.capitalize() for part in name.split("-"))
    taken = keyword.iskeyword(title) or re.search(rf"\b{title}\b", template)
    return title + kind.capitalize() if taken else title


def _main_file(files: dict[str, str]) -> str:
    """The file to edit first: neither records nor settings."""
    names = (Path(path).name for path in files if path.startswith("pealm_"))
    return next(n for n in names if n not in ("__init__.py", "py.typed", "plugin.py", "config.py"))


def _sections(name: str) -> dict[str, str]:
    text = (resources.files("pealm_testing") / "templates" / f"{name}.txt").read_text(encoding="utf-8")
    parts = re.split(r"^==> (.+) <==\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
