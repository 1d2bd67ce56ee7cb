"""The public names. Each is imported on first use, so that a light one loads nothing heavy."""

# ruff: noqa: I001 (in the order of what they load)
# Standard library and pluggy only: for the modules that name a plugin's parts, and their settings.
from pealm_core.config.size_from_depth import depth_preset as depth_preset
from pealm_core.config.paths import cache_root as cache_root
from pealm_core.config.settings import Sampling as Sampling
from pealm_core.config.settings import TrainSettings as TrainSettings
from pealm_core.contract.errors import PealmError as PealmError
from pealm_core.contract.errors import PluginError as PluginError
from pealm_core.contract.errors import UserError as UserError
from pealm_core.contract.fields import setting as setting
from pealm_core.contract.hookspecs import hookimpl as hookimpl
from pealm_core.contract.protocols import Dataset as Dataset
from pealm_core.contract.protocols import Document as Document
from pealm_core.contract.protocols import EvalResult as EvalResult
from pealm_core.contract.protocols import Evaluator as Evaluator
from pealm_core.contract.protocols import Model as Model
from pealm_core.contract.protocols import Segment as Segment
from pealm_core.contract.protocols import Tokenizer as Tokenizer
from pealm_core.contract.specs import AdapterSpec as AdapterSpec
from pealm_core.contract.specs import CommandSpec as CommandSpec
from pealm_core.contract.specs import DatasetSpec as DatasetSpec
from pealm_core.contract.specs import EvaluatorSpec as EvaluatorSpec
from pealm_core.contract.specs import FormatSpec as FormatSpec
from pealm_core.contract.specs import ModelSpec as ModelSpec
from pealm_core.contract.specs import ObjectiveSpec as ObjectiveSpec
from pealm_core.contract.specs import ObserverSpec as ObserverSpec
from pealm_core.contract.specs import OptimizerSpec as OptimizerSpec
from pealm_core.contract.specs import ScheduleSpec as ScheduleSpec
from pealm_core.contract.specs import StrategySpec as StrategySpec
from pealm_core.contract.specs import TokenizerSpec as TokenizerSpec
from pealm_core.contract.training_protocols import Adapter as Adapter
from pealm_core.contract.training_protocols import Batch as Batch
from pealm_core.contract.training_protocols import IGNORE as IGNORE
from pealm_core.contract.training_protocols import Objective as Objective
from pealm_core.contract.training_protocols import Run as Run
from pealm_core.contract.training_protocols import Schedule as Schedule
from pealm_core.contract.training_protocols import Source as Source
from pealm_core.contract.training_protocols import Strategy as Strategy
from pealm_core.contract.training_protocols import Trainer as Trainer
from pealm_core.plugins.plugin_errors import call_plugin as call_plugin
from pealm_core.plugins.discovery import use_plugin as use_plugin

# click or packaging, but neither numpy nor torch: a help page imports them.
from pealm_core.cli.components import ComponentCommand as ComponentCommand
from pealm_core.config.resolve_job import plan_evaluation as plan_evaluation
from pealm_core.plugins.loading import Entry as Entry
from pealm_core.plugins.loading import PluginHost as PluginHost

# numpy, but not torch: for datasets, tokenizers and their worker processes.
from pealm_core.checkpoints.build_tokenizer import load_saved_tokenizer as load_saved_tokenizer
from pealm_core.checkpoints.build_tokenizer import load_tokenizer as load_tokenizer
from pealm_core.checkpoints.build_tokenizer import make_datasets as make_datasets
from pealm_core.checkpoints.build_tokenizer import make_tokenizer as make_tokenizer
from pealm_core.data.documents import encode_document as encode_document
from pealm_core.data.tokenize_parts import TokenWriter as TokenWriter
from pealm_core.data.token_file import TokenFile as TokenFile
from pealm_core.hardware.launch import available_cpus as available_cpus

# torch
from pealm_core.checkpoints.api import Checkpoint as Checkpoint
from pealm_core.checkpoints.api import read_checkpoint as read_checkpoint
from pealm_core.checkpoints.api import write_checkpoint as write_checkpoint
from pealm_core.data.chat import CHAT_LAYOUT as CHAT_LAYOUT
from pealm_core.data.chat import ChatPrompt as ChatPrompt
from pealm_core.data.chat import chat_document as chat_document
from pealm_core.data.chat import chat_prompt as chat_prompt
from pealm_core.data.order import noise as noise
from pealm_core.hardware.device import fast_bf16 as fast_bf16
from pealm_core.hardware.distributed import processes as processes
from pealm_core.hardware.faster_training import faster as faster
from pealm_core.inference.generate import ContinuousBatch as ContinuousBatch
from pealm_core.inference.generate import Stopper as Stopper
from pealm_core.inference.generate import generate_ids as generate_ids
from pealm_core.inference.generate import generate_steps as generate_steps
from pealm_core.inference.generate import start_token as start_token
from pealm_core.inference.generate import stream_decoder as stream_decoder
from pealm_core.inference.kv_cache import KVCache as KVCache
from pealm_core.inference.kv_cache import causal_attention as causal_attention
from pealm_core.inference.lm import LM as LM
from pealm_core.inference.lm import Sample as Sample
from pealm_core.inference.lm import load as load
from pealm_core.inference.sampling import probabilities as probabilities
from pealm_core.inference.scoring import Score as Score
from pealm_core.inference.scoring import cover as cover
from pealm_core.inference.scoring import score as score
from pealm_core.inference.standard_errors import mean as mean
from pealm_core.inference.standard_errors import ratio as ratio
from pealm_core.inference.trace import Trace as Trace
from pealm_core.training.from_python import train as train
from pealm_cpu import head_loss as head_loss
