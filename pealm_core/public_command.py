"""The public name that needs click but neither numpy nor torch: a help page imports it."""

from pealm_core.cli.components import ComponentCommand as ComponentCommand
