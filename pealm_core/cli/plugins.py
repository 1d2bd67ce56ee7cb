"""`pealm plugins`: list, show and check installed plugins."""

import json
from importlib import import_module
from typing import Any

import click

from pealm_core.config.paths import printable
from pealm_core.contract.specs import Spec
from pealm_core.plugins.loading import Plugin, PluginHost


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List installed plugins: version, status, load time, and what each provides."""
    if ctx.invoked_subcommand is not None:
        return
    host = PluginHost.installed()
    rows = [_row(plugin, host) for plugin in host.plugins]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    lines = []
    for row in rows:
        what = "; ".join(filter(None, [", ".join(row["provides"]), row["reason"]]))
        lines.append((row["plugin"], f"{row['dist']} {row['version']}", row["status"], f"{row['load_ms']} ms", what))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        click.echo(printable("  ".join(padded).rstrip()))


@plugins.command()
@click.argument("name")
def show(name: str) -> None:
    """Show one plugin: records, options, location, and the traceback if it failed to load."""
    import_module("pealm_testing.show").show(name)


@plugins.command()
@click.argument("name")
@click.option("--slow", is_flag=True, help="Also run slow checks (ten seconds each): torch.compile, two processes.")
def check(name: str, slow: bool) -> None:
    """Run the conformance kit on an installed plugin; exit code 3 if a check fails."""
    import_module("pealm_testing.check").check(name, slow=slow)


def _row(plugin: Plugin, host: PluginHost) -> dict[str, Any]:
    known = conflicts(plugin, host)
    return {
        "plugin": plugin.name,
        "dist": plugin.dist,
        "version": plugin.version,
        "status": "conflict" if known else plugin.status,
        "reason": "; ".join(known) or plugin.reason,
        "load_ms": round(plugin.load_ms, 1),
        "provides": [f"{record.kind} {record.name}" for record in plugin.records],
    }


def conflicts(plugin: Plugin, host: PluginHost) -> list[str]:
    """Return this plugin's names that others provide as well: `model 'gpt2' is also in pealm-other`."""
    named = {kind: host.entries(kind) for kind in {type(record) for record in plugin.records}}
    return [
        f"{record.kind} {record.name!r} is also in {other.plugin.dist}"
        for record in plugin.records
        for other in named[type(record)][record.name]
        if other.plugin is not plugin and not _distinct(record, other.spec)
    ]


def _distinct(one: Spec, other: Spec) -> bool:
    """Whether two records of one name are for different model families, as formats may be."""
    families = [set(getattr(record, "families", ())) for record in (one, other)]
    return all(families) and families[0].isdisjoint(families[1])
