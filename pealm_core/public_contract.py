"""The public names for the components of plugins, and settings: standard library only."""

from pealm_core.config.depth import depth_preset as depth_preset
from pealm_core.config.paths import cache_root as cache_root
from pealm_core.config.settings import Sampling as Sampling
from pealm_core.config.settings import TrainSettings as TrainSettings
from pealm_core.contract.fields import setting as setting
from pealm_core.contract.protocols import Dataset as Dataset
from pealm_core.contract.protocols import Document as Document
from pealm_core.contract.protocols import EvalResult as EvalResult
from pealm_core.contract.protocols import Evaluator as Evaluator
from pealm_core.contract.protocols import Model as Model
from pealm_core.contract.protocols import Segment as Segment
from pealm_core.contract.protocols import Tokenizer as Tokenizer
from pealm_core.contract.training_parts import IGNORE as IGNORE
from pealm_core.contract.training_parts import Adapter as Adapter
from pealm_core.contract.training_parts import Batch as Batch
from pealm_core.contract.training_parts import Objective as Objective
from pealm_core.contract.training_parts import Run as Run
from pealm_core.contract.training_parts import Schedule as Schedule
from pealm_core.contract.training_parts import Source as Source
from pealm_core.contract.training_parts import Strategy as Strategy
from pealm_core.contract.training_parts import Trainer as Trainer
from pealm_core.plugins.calls import call_plugin as call_plugin
