"""Everything that the kit uses of the core beyond its public names, in one place. Importing it loads torch."""

from pealm_core.checkpoints.adapters import apply as apply_adapter
from pealm_core.checkpoints.adapters import merged_state as merged_state
from pealm_core.checkpoints.adapters import trainable_state as trainable_state
from pealm_core.checkpoints.build_model import make_model as make_model
from pealm_core.checkpoints.build_tokenizer import make_tokenizer as make_tokenizer
from pealm_core.checkpoints.folder import save as save_checkpoint
from pealm_core.checkpoints.tensors import load_model as load_model
from pealm_core.checkpoints.tensors import read_tree as read_tree
from pealm_core.checkpoints.tensors import write_tree as write_tree
from pealm_core.cli.components import option_rows as option_rows
from pealm_core.config.choose_components import COMPONENTS as COMPONENTS
from pealm_core.config.resolve_job import plan as plan
from pealm_core.config.toml_layers import Layer as Layer
from pealm_core.config.toml_layers import Resolved as Resolved
from pealm_core.contract.fields import dump as dump
from pealm_core.contract.fields import settings_of as settings_of
from pealm_core.contract.fields import word as word
from pealm_core.contract.protocols import has as has
from pealm_core.contract.specs import Spec as Spec
from pealm_core.data.token_cache import fingerprint as fingerprint
from pealm_core.hardware.device import autocast as autocast
from pealm_core.inference.generate import stream_decoder as stream_decoder
from pealm_core.inference.trace import trace as trace
from pealm_core.plugins.import_checks import HEAVY as HEAVY
from pealm_core.plugins.loading import Entry as Entry
from pealm_core.plugins.loading import Plugin as Plugin
from pealm_core.plugins.loading import PluginHost as PluginHost
from pealm_core.training.ddp import DataParallel as DataParallel
from pealm_core.training.objective import part as part
from pealm_core.training.objective import scored as scored

__all__ = ["apply_adapter", "save_checkpoint"]  # the names that differ from those in the core
