"""`pealm plugins`: list, show and check installed plugins."""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from pealm_core.contract.errors import PealmError, UserError
from pealm_core.contract.specs import Spec
from pealm_core.plugins.host import Entry, Plugin, PluginHost


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List installed plugins: version, status, load time, and what each provides."""
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
    """Show one plugin: records, options, location, and the traceback if it failed to load."""
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
        if plugin.error:
            click.echo("\n" + "".join(traceback.format_exception(plugin.error)).rstrip())


@plugins.command()
@click.argument("name")
@click.option("--slow", is_flag=True, help="Also run slow checks (ten seconds each): torch.compile, two processes.")
def check(name: str, slow: bool) -> None:
    """Run the conformance kit on an installed plugin; exit code 3 if a check fails."""
    from pealm_core.cli.new_plugin import testing

    host = PluginHost.installed()
    testing("check").check(name, host, _named(host, name), slow=slow)


def _folder(plugin: Plugin) -> Path:
    """The folder of its code; for an editable install, its metadata is elsewhere."""
    file = getattr(sys.modules.get(plugin.module), "__file__", None)
    return Path(file).parent if file else Path(plugin.location)


def _named(host: PluginHost, name: str) -> list[Plugin]:
    """The plugins with this entry point or distribution name. Raises UserError if there is none."""
    matches = [plugin for plugin in host.plugins if name in (plugin.name, plugin.dist)]
    if not matches:
        known = ", ".join(plugin.name for plugin in host.plugins)
        raise UserError(f"no plugin {name!r} is installed; installed: {known}")
    return matches


def _options(plugin: Plugin, record: Spec) -> list[str]:
    """The settings of a record as options with help and default, or the error if they can't be read."""
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
        required = item.default is MISSING
        default = "required" if required else "not set" if item.default is None else str(item.default)
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
