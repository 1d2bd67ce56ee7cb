"""The public names that need click or packaging but neither numpy nor torch: a help page imports them."""

from pealm_core.cli.components import ComponentCommand as ComponentCommand
from pealm_core.config.job import plan_evaluation as plan_evaluation
from pealm_core.plugins.loading import Entry as Entry
from pealm_core.plugins.loading import PluginHost as PluginHost
