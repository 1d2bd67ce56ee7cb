"""Token data: windows over shards, their order, and the cache of tokenized text."""

from pealm_core.data.cache import Corpus, fingerprint, open_shards, tokenize
from pealm_core.data.order import permute
from pealm_core.data.tokens import TokenFile
from pealm_core.data.windows import Windows

__all__ = ["Corpus", "TokenFile", "Windows", "fingerprint", "open_shards", "permute", "tokenize"]
