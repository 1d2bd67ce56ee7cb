"""`pealm plugins`: what is installed, what it provides, and why something failed."""

import json
import sys
from typing import Any

import click

from pealm_core.errors import UserError
from pealm_core.plugins import Plugin, PluginHost


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="The list as JSON.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins: version, status, what each provides."""
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
            what = ", ".join(row["provides"]) if row["status"] == "ok" else row["reason"]
            click.echo(f"{row['plugin']}  {row['dist']} {row['version']}  {row['status']}  {what}")


@plugins.command()
@click.argument("name")
def show(name: str) -> None:
    """Everything about one plugin: records, where it is installed, a failure's traceback."""
    host = PluginHost.installed()
    found = [plugin for plugin in host.plugins if name in (plugin.name, plugin.dist)]
    if not found:
        known = ", ".join(plugin.name for plugin in host.plugins)
        raise UserError(f"no plugin {name!r} is installed; installed: {known}")
    for plugin in found:
        row = _row(host, plugin)
        click.echo(f"{plugin.name} ({plugin.dist} {plugin.version})")
        click.echo(f"  status    {row['status']}" + (f": {row['reason']}" if row["reason"] else ""))
        click.echo(f"  module    {plugin.module}")
        click.echo(f"  installed {plugin.location}")
        click.echo(f"  loaded in {plugin.load_ms:.1f} ms")
        for record in plugin.records:
            click.echo(f"  {record.kind:<9} {record.name}: {record.summary}")
        if plugin.traceback:
            click.echo("\n" + plugin.traceback.rstrip())


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
