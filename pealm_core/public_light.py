"""The public names that need numpy but not torch: for datasets, tokenizers and their worker processes."""

from pealm_core.checkpoints.build_tokenizer import load_saved_tokenizer as load_saved_tokenizer
from pealm_core.checkpoints.build_tokenizer import load_tokenizer as load_tokenizer
from pealm_core.checkpoints.build_tokenizer import make_datasets as make_datasets
from pealm_core.checkpoints.build_tokenizer import make_tokenizer as make_tokenizer
from pealm_core.data.documents import encode_document as encode_document
from pealm_core.data.parts import TokenWriter as TokenWriter
from pealm_core.data.tokens import TokenFile as TokenFile
from pealm_core.hardware.launch import available_cpus as available_cpus
