"""The public names that need numpy but not torch: for datasets and their worker processes."""

from pealm_core.data.documents import encode_document as encode_document
from pealm_core.data.files import data_files as data_files
from pealm_core.data.files import data_suffix as data_suffix
from pealm_core.data.files import files_version as files_version
from pealm_core.data.files import is_validation as is_validation
from pealm_core.data.files import read_blocks as read_blocks
from pealm_core.data.files import read_lines as read_lines
from pealm_core.data.parts import TokenWriter as TokenWriter
from pealm_core.data.tokens import TokenFile as TokenFile
from pealm_core.hardware.launch import available_cpus as available_cpus
