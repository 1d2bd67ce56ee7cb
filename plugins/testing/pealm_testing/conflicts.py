"""Names that several plugins provide."""

from pealm_core.contract.specs import Spec
from pealm_core.plugins.host import Plugin, PluginHost


def conflicts(host: PluginHost, plugin: Plugin) -> list[str]:
    """Return this plugin's names that others provide as well: `model 'gpt2' is also in pealm-other`."""
    return [
        f"{record.kind} {record.name!r} is also in {entry.plugin.dist}"
        for record in plugin.records
        for entry in host.entries(type(record))[record.name]
        if entry.plugin is not plugin and not _distinct(record, entry.spec)
    ]


def _distinct(one: Spec, other: Spec) -> bool:
    """Whether two records of one name are for different model families, as formats may be."""
    families = [set(getattr(record, "families", ())) for record in (one, other)]
    return all(families) and families[0].isdisjoint(families[1])
