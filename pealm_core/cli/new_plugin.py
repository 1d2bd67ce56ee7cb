"""`pealm new-plugin`: a folder with a small, complete plugin to begin with.

The files are in `pealm_core/templates`, one text for each kind and one for what all have in common: sections that
begin with a line `==> path <==`, with `${name}` and the like to be filled in. The section `facts` is TOML.
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

from pealm_core.contract.errors import UserError
from pealm_core.contract.specs import KINDS
from pealm_core.plugins.host import CORE_COMMANDS, PluginHost


@click.command("new-plugin", short_help="Write a plugin of your own to begin with.")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
def new_plugin(kind: str, name: str) -> None:
    """Write a small, complete plugin of a KIND as the folder pealm-NAME, with tests.

    \b
    pealm new-plugin model mine
    cd pealm-mine
    pip install -e '.[test]'
    pytest
    """
    name = name.removeprefix("pealm-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        made = re.sub(r"[^a-z0-9]+", "-", re.sub(r"([a-z])([A-Z])", r"\1-\2", name).lower()).strip("-0123456789")
        hint = f"; try {made}" if made else ""
        raise UserError(f"{name!r} can't be a plugin's name: a-z, 0-9 and single '-', beginning with a letter{hint}")
    if kind == "command" and name in (*CORE_COMMANDS, "new-plugin"):
        raise UserError(f"pealm has a command {name!r}, which a plugin can't replace; choose another name")
    host = PluginHost.installed()
    if taken := host.entries(KINDS[kind]).get(name):
        raise UserError(f"{taken[0].plugin.dist} provides the {kind} {name!r} already; choose another name")
    folder = Path(f"pealm-{name}")
    if folder.exists():
        raise UserError(f"{folder} is there already; nothing was written")
    package = _package(name)
    if any(plugin.dist == folder.name for plugin in host.plugins) or find_spec(package):
        raise UserError(f"{folder} (package {package}) is installed here already; choose another name")
    files, commands = fill(kind, name, host.versions()["pealm-core"])
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder} can't be written: {error.strerror}") from error
    click.echo(f"{folder} holds {_a(kind)} that works. Next:")
    for line in [f"cd {folder}", "pip install -e '.[test]'", "pytest", *commands]:
        click.echo(f"  {line}")
    click.echo(f"Then make {package}/{_main_file(files)} yours; pytest tells whether it keeps the contract.")


def fill(kind: str, name: str, core: str) -> tuple[dict[str, str], list[str]]:
    """The files of a new plugin, path → text, and the command lines that try it. core: pealm-core's version."""
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
    """The class's name: with the kind at its end where the template, or Python, has a use for the name alone."""
    title = "".join(part.capitalize() for part in name.split("-"))
    taken = keyword.iskeyword(title) or re.search(rf"\b{title}\b", template)
    return title + kind.capitalize() if taken else title


def _main_file(files: dict[str, str]) -> str:
    """The file that an author changes first: the one that is neither records nor settings."""
    names = (Path(path).name for path in files if path.startswith("pealm_"))
    return next(n for n in names if n not in ("__init__.py", "py.typed", "plugin.py", "config.py"))


def _sections(name: str) -> dict[str, str]:
    text = (resources.files("pealm_core") / "templates" / f"{name}.txt").read_text(encoding="utf-8")
    parts = re.split(r"^==> (.+) <==\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
