"""The public names that need numpy but not torch: for datasets and their worker processes."""

from pealm_core.data.documents import encode_document as encode_document
from pealm_core.data.parts import TokenWriter as TokenWriter
from pealm_core.data.tokens import TokenFile as TokenFile
from pealm_core.hardware.launch import available_cpus as available_cpus
