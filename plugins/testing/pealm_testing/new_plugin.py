"""`pealm new-plugin`: write a small, complete plugin to start from, as a package or as one file.

`templates/` has one text for each kind and one for the files that all kinds have. A line `==> path <==` starts a
file, and `${name}` and similar are substituted. The section `facts` is TOML.
"""

import ast
import keyword
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

import click

from pealm_core import UserError
from pealm_core.contract.specs import KINDS
from pealm_core.plugins.builtin import COMMANDS
from pealm_core.plugins.loading import PluginHost


@click.command("new-plugin")
@click.argument("kind", type=click.Choice([*KINDS]))
@click.argument("name")
@click.option("--file", "single", is_flag=True, help="Write one file for `pealm --plugin`, not a package.")
def new_plugin(kind: str, name: str, single: bool) -> None:
    """Write a small, complete plugin of a KIND to the folder pealm-NAME, with tests.

    \b
    pealm new-plugin model mine
    cd pealm-mine
    pip install -e '.[test]'
    pytest

    \b
    pealm new-plugin model mine --file
    pealm --plugin mine.py train mine --input.text book.txt
    """
    name = name.removeprefix("pealm-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        suggestion = re.sub(r"[^a-z0-9]+", "-", re.sub(r"([a-z])([A-Z])", r"\1-\2", name).lower()).strip(
            "-0123456789"
        )
        hint = f"; try {suggestion}" if suggestion else ""
        raise UserError(
            f"{name!r} is not a valid plugin name: use a-z, 0-9 and single '-', starting with a letter{hint}"
        )
    if kind == "command" and name in COMMANDS:
        raise UserError(f"{name!r} is a command of pealm itself; choose another name")
    host = PluginHost.installed()
    if taken := host.entries(KINDS[kind]).get(name):
        raise UserError(f"{taken[0].plugin.dist} already provides the {kind} {name!r}; choose another name")
    package = name.replace("-", "_") if single else _package(name)
    target = Path(f"{package}.py" if single else f"pealm-{name}")
    if target.exists():
        raise UserError(f"{target} already exists; nothing was written")
    if any(plugin.dist == target.name for plugin in host.plugins) or find_spec(package):
        what = f"a module {package!r} is installed already" if single else f"{target} (package {package}) is already"
        raise UserError(f"{what}{'' if single else ' installed'}; choose another name")
    files, commands = fill(kind, name, host.versions()["pealm-core"])
    steps = ["pip install -e '.[test]'", "pytest"]
    if single:
        files, steps = {"": in_one_file(files, kind)}, []
        commands = [line.replace("pealm ", f"pealm --plugin {target} ", 1) for line in commands]
    try:
        for path, text in files.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text, encoding="utf-8")
    except OSError as error:
        if not single:
            shutil.rmtree(target, ignore_errors=True)
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    click.echo(f"wrote {_a(kind)} to {target}. Next:")
    for line in [*([] if single else [f"cd {target}"]), *steps, *commands]:
        click.echo(f"  {line}")
    if single:
        click.echo(
            f"Then edit {target}; `pealm --plugin {target} plugins check {package}` checks that it still works."
        )
    else:
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


def in_one_file(files: Mapping[str, str], kind: str) -> str:
    """Return the modules of a new plugin as one, whose records name their parts as objects."""
    sources = {Path(path).name: text for path, text in files.items() if path.startswith("pealm_")}
    own = [name for name in sources if name.endswith(".py") and name not in ("__init__.py", "config.py", "plugin.py")]
    named, plain, bodies, docs = dict[str, set[str]](), set[str](), list[str](), list[str]()
    for name in ("config.py", *own, "plugin.py"):
        tree = ast.parse(sources.get(name, ""))
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in imports:
            names = {f"{a.name} as {a.asname}" if a.asname else a.name for a in node.names}
            if isinstance(node, ast.Import):
                plain |= names
            elif not str(node.module).startswith("pealm_") or node.module == "pealm_core":
                named.setdefault(str(node.module), set()).update(names)
        if tree.body:
            start = max((node.end_lineno or 0 for node in imports), default=1)
            bodies.append("\n".join(sources[name].splitlines()[start:]).strip())
            docs.append(ast.get_docstring(tree) or "")
    lines = [f"import {module}" for module in sorted(plain)]
    lines += [
        f"from {module} import {', '.join(sorted(names, key=_order))}" for module, names in sorted(named.items())
    ]
    ours = [line for line in lines if line.split()[1].partition(".")[0] not in sys.stdlib_module_names]
    groups = ["\n".join(line for line in lines if line not in ours), "\n".join(ours)]
    body = re.sub(r'"pealm_\w+(\.\w+)+:(\w+)"', r"\2", "\n\n\n".join(bodies))
    body = re.sub(r"(?m)  # imported when .*$", "", body)
    doc = f'"""{docs[-2] if own else docs[-1]}\n\n{_a(kind).capitalize()} for `pealm --plugin`.\n"""'
    gap = "\n\n\n" if body.startswith(("@", "class ", "def ")) else "\n\n"
    return "\n\n".join([doc, *filter(None, groups)]) + f"{gap}{body}\n"


def _order(name: str) -> tuple[int, str]:
    """The order of imported names: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


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
