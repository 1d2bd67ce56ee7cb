"""Token data: windows over shards, their order, and the cache of tokenized text."""

from pealm_core.data.cache import Corpus, fingerprint, tokenize
from pealm_core.data.order import permute
from pealm_core.data.windows import Windows

__all__ = ["Corpus", "Windows", "fingerprint", "permute", "tokenize"]
