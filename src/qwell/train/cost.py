"""What a step costs: floating-point operations, memory, and what this machine can do at best.

Counted as the decoder computes: matrices for every token, attention by the length of each document,
the head for rows with a target alone. A multiplication and its addition are two operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from qwell.config import ModelConfig
from qwell.data.rows import Rows


@dataclass(frozen=True)
class Cost:
    """Operations of forward and backward; what recomputation repeats is not counted twice, so MFU
    compares runs with and without it. trains_base: False for LoRA, whose frozen matrices have no
    weight gradient."""

    config: ModelConfig
    trains_base: bool = True
    lora_rank: int = 0

    @property
    def layer_matrix(self) -> int:
        """Elements of the matrices of one layer."""
        c = self.config
        q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        return c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size)

    @property
    def layer_adapters(self) -> int:
        """Elements of the adapters of one layer."""
        c = self.config
        D, F = c.hidden_size, c.intermediate_size
        q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        return self.lora_rank * (2 * (D + q) + 2 * (D + kv) + 3 * (D + F))

    def flops(self, rows: Rows) -> float:
        """Of one micro-batch, forward and backward."""
        lens = np.diff(rows.row_splits).astype(np.float64)
        return self.of(rows.num_tokens, rows.num_targets, float((lens**2).sum()))

    def of(self, tokens: float, targets: float, squares: float) -> float:
        """squares: the sum of the squared lengths of the documents."""
        c = self.config
        per_weight = 6 if self.trains_base else 4
        matrices = (per_weight * self.layer_matrix + 6 * self.layer_adapters) * tokens
        attention = 6 * c.num_heads * c.head_dim * squares  # causal: half of the square
        head = per_weight * c.vocab_size * c.hidden_size * targets
        return float(c.num_layers * (matrices + attention) + head)


def measured_peak(dtype: torch.dtype, *, seconds: float = 0.3, size: int = 2048) -> float:
    """Operations a second of a square matrix product of this process's threads: the best of the
    runs that fit into `seconds`."""
    own = torch.Generator().manual_seed(0)  # the run's random numbers stay untouched
    a, b = (torch.randn(size, size, generator=own).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    best, until = 0.0, perf_counter() + seconds
    while best == 0.0 or perf_counter() < until:
        start = perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * size**3 / (perf_counter() - start))
    return best
