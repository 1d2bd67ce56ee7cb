"""The public names that need torch. `from pealm_core import LM` loads this module on first use."""

from pealm_core.checkpoints.api import Checkpoint as Checkpoint
from pealm_core.checkpoints.api import check_weights as check_weights
from pealm_core.checkpoints.api import load_saved_tokenizer as load_saved_tokenizer
from pealm_core.checkpoints.api import load_tokenizer as load_tokenizer
from pealm_core.checkpoints.api import read_checkpoint as read_checkpoint
from pealm_core.checkpoints.api import write_checkpoint as write_checkpoint
from pealm_core.checkpoints.build import make_datasets as make_datasets
from pealm_core.checkpoints.build_tokenizer import make_tokenizer as make_tokenizer
from pealm_core.data.chat import CHAT_LAYOUT as CHAT_LAYOUT
from pealm_core.data.chat import ChatPrompt as ChatPrompt
from pealm_core.data.chat import chat_document as chat_document
from pealm_core.data.chat import chat_prompt as chat_prompt
from pealm_core.data.order import noise as noise
from pealm_core.hardware.device import fast_bf16 as fast_bf16
from pealm_core.inference.generate import generate_ids as generate_ids
from pealm_core.inference.generate import start_token as start_token
from pealm_core.inference.head_loss import head_loss as head_loss
from pealm_core.inference.kv_cache import KVCache as KVCache
from pealm_core.inference.kv_cache import causal_attention as causal_attention
from pealm_core.inference.lm import LM as LM
from pealm_core.inference.lm import load as load
from pealm_core.inference.scoring import Score as Score
from pealm_core.inference.scoring import cover as cover
from pealm_core.inference.scoring import score as score
from pealm_core.training.from_python import train as train
