"""The native kernels of training, where this CPU has AVX-512: with its BF16 and with AMX better.

They take addresses: `qwell.train.kernels` checks tensors and keeps them alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwell import _core
from qwell.native.cpu import selected_isa

if TYPE_CHECKING:
    from qwell._core import TrainKernels

_WITHOUT = {"scalar", "avx2", "avxvnni", "neon", "dotprod"}


def train_forms() -> list[str]:
    """Forms of the kernels that QWELL_FORCE_ISA and this CPU allow, the best last: of 'avx512',
    'avx512_bf16', 'amx'. Takes the AMX self-test once. Raises UsageError as `selected_isa`."""
    kind = getattr(_core, "TrainKernels", None)
    isa = selected_isa()
    if kind is None or isa in _WITHOUT:
        return []
    without = {"avx512": {"avx512_bf16", "amx"}, "avx512bf16": {"amx"}}.get(isa, set())
    return [form for form in kind.forms() if form not in without]


def train_kernels(threads: int, form: str | None = None) -> TrainKernels | None:
    """Kernels over a team of `threads` in the best form, or in `form`; None if there is none."""
    forms = train_forms()
    if not forms:
        return None
    made: TrainKernels = _core.TrainKernels(threads, form or forms[-1])
    return made
