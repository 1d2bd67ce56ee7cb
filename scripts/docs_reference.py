"""Generate the reference pages of the site from the installed code; mkdocs runs this as a hook.

Settings of every component, help of every command, the Python API, and every message that ends a command.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click

import pealm_core
from pealm_core import ModelSpec, PluginHost
from pealm_core.cli.command_group import pealm
from pealm_core.config.choose_components import COMPONENTS
from pealm_core.config.settings import RESUMABLE, Sampling, TrainSettings
from pealm_core.config.toml_layers import Resolved, option_name
from pealm_core.contract.fields import Setting, settings_of, word

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pealm_core", "plugins/*")
TYPES = {int: "whole number", float: "number", str: "text", bool: "true, false", Path: "path"}
ERRORS = {"UserError": 2, "PealmError": 1, "PluginError": 3}
BELOW = {"at least": "≥", "at most": "≤", "above": ">", "below": "<"}
# The Python API by topic; what is not named here is for authors of plugins, and in the contract.
API = {
    "Train, load, generate": ("train", "TrainSettings", "depth_preset", "load", "LM", "Sampling", "use_plugin"),
    "Score": ("score", "Score", "cover", "mean", "ratio", "Sample"),
    "Evaluate": ("plan_evaluation", "processes", "call_plugin"),
    "Checkpoints": ("read_checkpoint", "write_checkpoint", "load_tokenizer", "Checkpoint"),
    "Look inside": ("Trace",),
    "Generate ids": (
        *(
            "generate_ids",
            "generate_steps",
            "ContinuousBatch",
            "start_token",
            "probabilities",
            "stream_decoder",
            "Stopper",
        ),
        *("KVCache", "causal_attention", "head_loss"),
    ),
    "Conversations": ("chat_document", "chat_prompt", "ChatPrompt"),
    "Records": (
        *(f"{kind}Spec" for kind in ("Model", "Tokenizer", "Dataset", "Evaluator", "Optimizer", "Schedule")),
        *(f"{kind}Spec" for kind in ("Objective", "Strategy", "Adapter", "Format", "Observer", "Command")),
        "setting",
    ),
    "Data": ("Segment", "TokenFile", "TokenWriter", "noise"),
    "Commands over components": (
        *("ComponentCommand", "make_datasets", "make_tokenizer", "load_saved_tokenizer"),
        *("encode_document", "PluginHost", "Entry"),
    ),
    "Errors": ("PealmError", "UserError", "PluginError"),
    "Small ones": ("cache_root", "available_cpus", "fast_bf16", "faster"),
}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Return the text of every generated page by its name."""
    return {"settings": settings(), "commands": commands(), "python": api(), "messages": messages()}


def cell(text: str) -> str:
    """Return text that a table of Markdown shows as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def row(name: str, item: Setting, default: Any = MISSING) -> list[str]:
    """Return a setting's row: option, values, default, help."""
    choices = [choice for choice in getattr(item.type, "__args__", ()) if isinstance(choice, str)]
    kind = ", ".join(f"`{choice}`" for choice in choices) or TYPES.get(item.type, "list: a,b,c")
    bounds = ", ".join(f"{BELOW[words]} {bound:,}" for words, bound in item.bounds.items())
    value = item.default if default is MISSING else default
    shown = "required" if value is MISSING else f"`{word(value)}`" if value not in ("", ()) else ""
    return [f"`{name}`", f"{kind} {bounds}".strip(), shown, cell(item.help)]


def settings() -> str:
    """Return the page of all settings."""
    head = ("option", "values", "default", "meaning")
    parts = [
        "# Settings\n",
        "Every setting of everything that is installed here, as an option of the command line. In a TOML file, "
        "`--lr` is `lr` under `[train]`, and `--model.n-layer` is `n-layer` under `[model]`; in Python, the names "
        "have `_` instead of `-`. `pealm train MODEL --print-config` shows the values of a run and where each comes "
        "from: default, recipe, preset, file or command line.\n",
        "## Training\n",
        "Settings of `pealm train`, of any model. Those with a • may change when a run resumes.\n",
    ]
    rows = []
    for key, item in settings_of(TrainSettings).items():
        option, *rest = row(f"--{key}", item)
        rows.append([f"{option}{' •' if item.name in RESUMABLE else ''}", *rest])
    parts.append(table(head, rows))
    sampling = [row(f"--{k}", i) for k, i in settings_of(Sampling).items() if not i.hidden]
    parts += ["## Sampling\n", "Settings of `pealm sample`, and fields of `Sampling`.\n", table(head, sampling)]
    host = PluginHost.installed()
    for name, kind in COMPONENTS.items():
        entries = {n: group[0] for n, group in sorted(host.entries(kind).items())}
        if entries:
            parts += [f"## {kind.kind.capitalize()}s\n".replace("ys\n", "ies\n"), use(name) + "\n"]
            parts += [component(name, entry, head) for entry in entries.values()]
    return "\n".join(['<div class="settings" markdown>\n', *parts, "\n</div>\n"])  # the style sheet knows the class


def use(name: str) -> str:
    """Say how a component of a table is chosen."""
    if name == "model":
        return "`pealm train NAME`."
    if name == "observer":
        return "They work whenever their plugin is installed."
    return f"`--input.NAME`: {name}s of text." if name == "input" else f"`--{'on' if name == 'eval' else name} NAME`."


def component(name: str, entry: Any, head: Iterable[str]) -> str:
    """Return the section of a component: what it is, where it comes from, its settings, presets and recipe."""
    origin = "pealm-core" if entry.plugin.dist == "pealm-core" else f"[{entry.plugin.dist}](plugins.md)"
    parts = [f"### {entry.name} {{ #{name}-{entry.name} }}\n", f"{cell(entry.spec.summary)}. From {origin}.\n"]
    title = f"observer.{entry.name}" if name == "observer" else name
    items = {k: i for k, i in Resolved({}, {title: entry}).settings[title].items() if not i.hidden}
    rows = [row(option_name(title, key), item) for key, item in items.items()]
    if name == "input" and entry.spec.value is None:
        rows.insert(0, [f"`--input.{entry.name}`", "no value", "", cell(entry.spec.summary)])
    if rows:
        parts.append(table(head, rows))
    if isinstance(entry.spec, ModelSpec):
        recipe = {"tokenizer": {"name": entry.spec.tokenizer}, **entry.spec.recipe}
        parts.append(f"Recipe: {'; '.join(f'`{line}`' for line in flat(recipe))}\n")
        for preset, values in entry.spec.presets.items():
            parts.append(f"`--preset {preset}`: {'; '.join(f'`{line}`' for line in flat(values, 'model'))}\n")
    return "\n".join(parts)


def flat(tables: Any, name: str = "") -> Iterator[str]:
    """Yield the options that nested tables stand for: `--lr 0.001`, `--optimizer muon`."""
    for key, value in tables.items():
        if isinstance(value, dict) or hasattr(value, "items"):
            yield from flat(value, key)
        elif key == "name":
            yield f"--{name} {value}"
        else:
            yield f"{option_name(name, key.replace('_', '-'))} {word(value)}"


def commands() -> str:
    """Return the page of all commands: their help pages."""
    intro = "The help page of every command, as `pealm COMMAND --help` prints it.\n"
    lines = [[], *([name] for name in pealm.list_commands(click.Context(pealm)))]
    return "\n".join(["# Commands\n", intro, *(page for words in lines for page in help_of(words))])


def help_of(words: list[str]) -> Iterator[str]:
    """Yield the help of a command and of its subcommands."""
    from click.testing import CliRunner

    result = CliRunner().invoke(pealm, [*words, "--help"], prog_name="pealm", terminal_width=92)
    if result.exit_code:
        raise RuntimeError(f"pealm {' '.join(words)} --help: {result.output}")
    yield f"## {' '.join(['pealm', *words])}\n\n```text\n{result.output.strip()}\n```\n"
    with click.Context(pealm) as context:
        command = pealm.get_command(context, words[0]) if words else None
    if len(words) == 1 and isinstance(command, click.Group):
        for child in command.commands:
            yield from help_of([*words, child])


def api() -> str:
    """Return the page of the Python API: a line of mkdocstrings for each public name."""
    parts = [
        "# Python\n",
        "Import these names from `pealm_core`. Shapes, units and errors are in [the contract](../contract.md), which "
        "is written for authors of plugins; the sections here come from the docstrings.\n",
    ]
    for title, names in API.items():
        parts.append(f"## {title}\n")
        for name in names:
            thing = getattr(pealm_core, name)
            parts.append(f"::: {thing.__module__}.{name}\n    options: {{ heading_level: 3 }}\n")
    return "\n".join(parts)


def messages() -> str:
    """Return the page of all messages that end a command, by distribution."""
    parts = [
        "# Messages\n",
        "What ends a command, with its exit code, by the package that says it; `…` is where a value stands. "
        "[Troubleshooting](../troubleshooting.md) explains those that are met most.\n",
    ]
    used: set[str] = set()
    for pattern in SOURCES:
        for folder in sorted(ROOT.glob(pattern)):
            if rows := sorted(set(raised(folder))):
                parts.append(f"## {'pealm-core' if folder.name == 'pealm_core' else f'pealm-{folder.name}'}\n")
                lines = []
                for text, code in rows:
                    anchor = slug(text)
                    while anchor in used:  # said by another package as well
                        anchor = f"{folder.name}-{anchor}"
                    used.add(anchor)
                    lines.append([f'<span id="{anchor}"></span>{cell(text)}', str(code)])
                parts.append(table(("message", "exit code"), lines))
    return "\n".join(parts)


def slug(text: str) -> str:
    """Return a message's anchor."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:80]


def raised(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the messages that the code in a folder raises, with their exit codes."""
    for path in sorted(folder.rglob("*.py")):
        if {"tests", "build", "templates"} & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ERRORS
                and node.args
            ):
                text = template(node.args[0])
                if len(text.replace("…", "").strip(" ;:,.")) > 8:
                    yield text, ERRORS[node.func.id]


def template(node: ast.expr) -> str:
    """Return the text of a string or f-string, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values)
    return ""
