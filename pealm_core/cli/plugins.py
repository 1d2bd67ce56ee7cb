"""`pealm plugins`: list, show and check installed plugins."""

import json
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from pealm_core.cli.help import option_rows, print_table
from pealm_core.config.choose_components import COMPONENTS
from pealm_core.config.job import settle
from pealm_core.contract.errors import PealmError, UserError
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
        return
    lines = []
    for row in rows:
        what = "; ".join(filter(None, [", ".join(row["provides"]), row["reason"]]))
        lines.append((row["plugin"], f"{row['dist']} {row['version']}", row["status"], f"{row['load_ms']} ms", what))
    print_table(lines)


@plugins.command()
@click.argument("name")
def show(name: str) -> None:
    """Show one plugin: records, options, location, and the traceback if it failed to load."""
    host = PluginHost.installed()
    for plugin in _named(host, name):
        row = _row(host, plugin)
        place = getattr(sys.modules.get(plugin.module), "__file__", None) or plugin.location
        click.echo(f"{plugin.name} ({plugin.dist} {plugin.version})")
        click.echo(f"  status    {row['status']}" + (f": {row['reason']}" if row["reason"] else ""))
        click.echo(f"  module    {plugin.module}, {place}")
        click.echo(f"  loaded in {plugin.load_ms:.1f} ms")
        for record in plugin.records:
            click.echo(f"  {record.kind:<9} {record.name}: {record.summary}")
            for table in (table for table, kind in COMPONENTS.items() if isinstance(record, kind)):
                entry = Entry(record, plugin, record.name)
                table = f"observer.{record.name}" if table == "observer" else table
                try:
                    options = option_rows(table, entry, settle({}, {table: entry}, []))
                except PealmError as error:
                    options = [("its settings can't be read:", str(error))]
                print_table([(f"    {option}", text) for option, text in options])
        if plugin.error:
            click.echo("\n" + "".join(traceback.format_exception(plugin.error)).rstrip())


@plugins.command()
@click.argument("name")
@click.option("--slow", is_flag=True, help="Also run slow checks (ten seconds each): torch.compile, two processes.")
def check(name: str, slow: bool) -> None:
    """Run the conformance kit on an installed plugin; exit code 3 if a check fails."""
    host = PluginHost.installed()
    import_module("pealm_testing.check").check(name, host, _named(host, name), slow=slow)


def _named(host: PluginHost, name: str) -> list[Plugin]:
    """The plugins with this entry point or distribution name. Raises UserError if there is none."""
    matches = [plugin for plugin in host.plugins if name in (plugin.name, plugin.dist)]
    if not matches:
        known = ", ".join(plugin.name for plugin in host.plugins)
        raise UserError(f"no plugin {name!r} is installed; installed: {known}")
    return matches


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
