"""The native back end: records the decoder, fuses it into phases, packs the weights, runs it.

`NativeModel` has the face of `model.reference.ReferenceModel`. This package and the sampler are the
only importers of the C++ core. Packing (`native.pack.write_packed`) is imported by who packs: a
start from packed weights does not pay for it.
"""

from qwell.native.cpu import check_threads, cpu_report, default_threads
from qwell.native.model import KV_DTYPES, NativeModel, check_supported
from qwell.native.packed import packed_key

__all__ = [
    "KV_DTYPES",
    "NativeModel",
    "check_supported",
    "check_threads",
    "cpu_report",
    "default_threads",
    "packed_key",
]
