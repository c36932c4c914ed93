"""The native kernels of training, where this CPU has them (AMX and AVX-512 with BF16).

They take addresses: `qwell.train.kernels` checks tensors and keeps them alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwell import _core

if TYPE_CHECKING:
    from qwell._core import TrainKernels


def train_kernels(threads: int) -> TrainKernels | None:
    """Kernels over a team of `threads`, or None on another CPU. Takes the AMX self-test once."""
    kind = getattr(_core, "TrainKernels", None)
    if kind is None or not kind.runs_here():
        return None
    made: TrainKernels = kind(threads)
    return made
