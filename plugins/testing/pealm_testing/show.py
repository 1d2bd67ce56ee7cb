"""`pealm plugins show`: records and options of an installed plugin, or why it failed to load."""

import sys
import traceback
from collections.abc import Iterator

import click

from pealm_core import PealmError, UserError
from pealm_core.cli.plugins import conflicts
from pealm_testing.core import COMPONENTS, Entry, Plugin, PluginHost, Resolved, Spec, option_rows


def show(name: str) -> None:
    """Print what is known of the plugins with this name. Raises UserError if there is none."""
    host = PluginHost.installed()
    for plugin in named(host, name):
        known = conflicts(plugin, host)
        reason = "; ".join(known) or plugin.reason
        place = getattr(sys.modules.get(plugin.module), "__file__", None) or plugin.location
        click.echo(f"{plugin.name} ({plugin.dist} {plugin.version})")
        click.echo(f"  status    {'conflict' if known else plugin.status}" + (f": {reason}" if reason else ""))
        click.echo(f"  module    {plugin.module}, {place}")
        click.echo(f"  loaded in {plugin.load_ms:.1f} ms")
        for record in plugin.records:
            click.echo(f"  {record.kind:<9} {record.name}: {record.summary}")
            rows = [*_options(record, plugin)]
            width = max((len(option) for option, _ in rows), default=0)
            for option, text in rows:
                click.echo(f"    {option:<{width}}  {text}".rstrip())
        if plugin.error:
            click.echo("\n" + "".join(traceback.format_exception(plugin.error)).rstrip())


def named(host: PluginHost, name: str) -> list[Plugin]:
    """Return the plugins with this entry point or distribution name. Raises UserError if there is none."""
    matches = [plugin for plugin in host.plugins if name in (plugin.name, plugin.dist)]
    if not matches:
        known = ", ".join(plugin.name for plugin in host.plugins)
        raise UserError(f"no plugin {name!r} is installed; installed: {known}")
    return matches


def _options(record: Spec, plugin: Plugin) -> Iterator[tuple[str, str]]:
    """Yield the options of a record's settings, as on a help page."""
    for table in (table for table, kind in COMPONENTS.items() if isinstance(record, kind)):
        entry = Entry(record, plugin, record.name)
        table = f"observer.{record.name}" if table == "observer" else table
        try:
            yield from option_rows(table, entry, Resolved({}, {table: entry}))
        except PealmError as error:
            yield "its settings can't be read:", str(error)
