"""`pealm plugins`: what is installed, what it provides, why something failed, and whether it keeps the contract."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from pealm_core.contract.errors import PealmError, PluginError, UserError
from pealm_core.contract.specs import Spec
from pealm_core.plugins.host import Entry, Plugin, PluginHost

SLOW_MS = 50  # an import that every `pealm --help` waits for


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="The list as JSON.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins: version, status, load time, what each provides."""
    if ctx.invoked_subcommand is not None:
        return
    host = PluginHost.installed()
    rows = [_row(host, plugin) for plugin in host.plugins]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif sys.stdout.isatty():
        _table(rows)
    else:
        for row in rows:
            what = "; ".join(filter(None, [", ".join(row["provides"]), row["reason"]]))
            head = f"{row['plugin']}  {row['dist']} {row['version']}  {row['status']}  {row['load_ms']:.1f} ms"
            click.echo(f"{head}  {what}".rstrip())


@plugins.command()
@click.argument("name")
def show(name: str) -> None:
    """Everything about one plugin: records, options, where it is installed, a failure's traceback."""
    host = PluginHost.installed()
    for plugin in _named(host, name):
        row = _row(host, plugin)
        click.echo(f"{plugin.name} ({plugin.dist} {plugin.version})")
        click.echo(f"  status    {row['status']}" + (f": {row['reason']}" if row["reason"] else ""))
        click.echo(f"  module    {plugin.module}")
        click.echo(f"  installed {_folder(plugin)}")
        click.echo(f"  loaded in {plugin.load_ms:.1f} ms")
        for record in plugin.records:
            click.echo(f"  {record.kind:<9} {record.name}: {record.summary}")
            for line in _options(plugin, record):
                click.echo(f"    {line}")
        if plugin.traceback:
            click.echo("\n" + plugin.traceback.rstrip())


@plugins.command()
@click.argument("name")
@click.option("--slow", is_flag=True, help="Also what takes ten seconds: torch.compile, a second process.")
def check(name: str, slow: bool) -> None:
    """Run the conformance kit on an installed plugin; exit code 3 where a check fails."""
    host = PluginHost.installed()
    found = _named(host, name)
    ended: Counter[str] = Counter()
    for plugin in found:
        if plugin.status != "ok":
            raise PluginError(f"{plugin.dist} is {plugin.status}: {plugin.reason}")
        for line in host.conflicts(plugin):
            click.echo(f"note: {line}; users write {plugin.dist}/NAME")
        from pealm_core.testing.check import import_ms, run  # brings torch

        for record in plugin.records:
            click.echo(f"{record.kind} {record.name}")
            reasons = dict[str, list[str]]()
            for label, outcome, message in run(plugin, record, slow=slow):
                ended[outcome] += 1
                if outcome == "skipped":
                    reasons.setdefault(message, []).append(label)
                else:
                    click.echo(f"  {outcome:<8}{label}" + (f": {message}" if message else ""))
            for reason, labels in reasons.items():
                click.echo(f"  skipped {len(labels)}: {reason} ({', '.join(labels)})")
        if (ms := import_ms(plugin)) > SLOW_MS:
            click.echo(f"note: importing {plugin.module} takes {ms:.0f} ms, and every `pealm --help` waits for it")
    counts = ", ".join(f"{ended[outcome]} {outcome}" for outcome in ("ok", "skipped", "failed") if ended[outcome])
    if ended["failed"]:
        raise PluginError(f"{name} does not keep the contract: {counts}")
    click.echo(f"{name} keeps the contract: {counts or 'it provides nothing to check'}")


def _folder(plugin: Plugin) -> Path:
    """Where its code lies, which of an editable install is not where its metadata lies."""
    file = getattr(sys.modules.get(plugin.module), "__file__", None)
    return Path(file).parent if file else Path(plugin.location)


def _named(host: PluginHost, name: str) -> list[Plugin]:
    """The plugins of an entry point's or a distribution's name. Raises UserError where there is none."""
    found = [plugin for plugin in host.plugins if name in (plugin.name, plugin.dist)]
    if not found:
        known = ", ".join(plugin.name for plugin in host.plugins)
        raise UserError(f"no plugin {name!r} is installed; installed: {known}")
    return found


def _options(plugin: Plugin, record: Spec) -> list[str]:
    """The settings of a record as options with their defaults, or what is wrong with them."""
    from dataclasses import MISSING

    from pealm_core.config.choice import COMPONENTS
    from pealm_core.contract.fields import settings_of

    tables = {spec.kind: table for table, spec in COMPONENTS.items()}
    try:
        items = settings_of(Entry(record, plugin, record.name).config)
    except PealmError as error:
        return [f"its settings can't be read: {error}"]
    lines = []
    for item in items.values():
        if item.hidden or record.kind not in tables:
            continue
        needed = item.default is MISSING
        default = "needed" if needed else "not set" if item.default is None else str(item.default)
        bare = item.name == getattr(record, "value", None)
        option = f"--input.{record.name}" if bare else f"--{tables[record.kind]}.{item.key}"
        lines.append(f"{option}  {item.help}{'  ' if item.help else ''}[{default}]")
    return lines


def _row(host: PluginHost, plugin: Plugin) -> dict[str, Any]:
    conflicts = host.conflicts(plugin)
    return {
        "plugin": plugin.name,
        "dist": plugin.dist,
        "version": plugin.version,
        "status": "conflict" if conflicts else plugin.status,
        "reason": "; ".join(conflicts) or plugin.reason,
        "load_ms": round(plugin.load_ms, 1),
        "provides": [f"{record.kind} {record.name}" for record in plugin.records],
    }


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "plugin", "version", "status", "ms", "provides", box=None, header_style="bold", padding=(0, 2, 0, 0)
    )
    for row in rows:
        colour = {"ok": "green", "disabled": "dim"}.get(row["status"], "red")
        what = "\n".join(filter(None, [", ".join(row["provides"]), row["reason"]]))
        table.add_row(row["dist"], row["version"], f"[{colour}]{row['status']}[/]", f"{row['load_ms']:.1f}", what)
    Console().print(table)
