"""A library that makes torch faster on a CPU: products, a loss, weights of 8 and 4 bits, and passes repeated in C.

It knows nothing of pealm. Every call of a private function of torch is in `int8`, `int4`, `linear_weight` and
`onednn`, beside what is done with a torch that lacks it.
"""

from pealm_cpu.cross_entropy import head_loss as head_loss
from pealm_cpu.int4 import Int4Weight as Int4Weight
from pealm_cpu.int8 import Int8Weight as Int8Weight
from pealm_cpu.kernels import has_compiler as has_compiler
from pealm_cpu.linear_weight import LinearWeight as LinearWeight
from pealm_cpu.linear_weight import RowWeight as RowWeight
from pealm_cpu.onednn import products as products
from pealm_cpu.processor import cpuinfo as cpuinfo
from pealm_cpu.processor import keep_memory as keep_memory
from pealm_cpu.record_in_c import record as record
