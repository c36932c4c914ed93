"""The contract between the architecture and whatever computes it.

`decoder.py` calls these ops and nothing else. Back ends answer: `reference.Reference` (NumPy, the
truth), `native.record.Record` (writes the calls down for the C++ program) and
`train.torch_ops.TorchOps` (learns). Values are opaque to the decoder; weights are handles only ops
look into.

Letters: T rows of this step (all sequences end to end, there is no batch axis), R output rows,
D hidden_size, N query heads, K kv heads, H head_dim, F intermediate_size, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from qwell.model.batch import Batch

Weight = Any
"""A handle: its type is a matter between the weight tree and the ops that open it."""


class Value(Protocol):
    """What an op gives and takes. Only `+` is asked of it: [T, D] + [T, D] -> [T, D]."""

    def __add__(self, other: Any, /) -> Any: ...


V = TypeVar("V", bound=Value)


class Ops(Protocol[V]):
    """About ten ops; the shapes are the whole contract."""

    def block(self, fn: Callable[..., V], w: Weight, *args: Any) -> V:
        """Runs `fn(self, w, *args)`: the seam where a back end hooks one layer."""

    def angles(self, rope: Weight, batch: Batch) -> Any:
        """cos and sin of every row's position, [T, H/2] each, float32; once a step."""

    def embed(self, batch: Batch, w: Weight) -> V:
        """input_ids [T] -> [T, D]."""

    def rms_norm(self, x: V, w: Weight) -> V:
        """x / sqrt(mean(x^2) + eps) * weight over the length of the weight: a row (D), or a
        head (H, Qwen3). Float32 inside; eps lives in the handle (arXiv:1910.07467)."""

    def linear(self, x: V, w: Weight) -> V:
        """[T, in] -> [T, out]: x W^T, + bias if the handle has one, + b (a x) if it has an
        adapter."""

    def split_heads(self, x: V) -> V:
        """[T, n*H] -> [T, n, H], a view; n comes from the shape."""

    def rope(self, x: V, angles: Any) -> V:
        """Rotates the pairs (i, i + H/2) of every head (arXiv:2104.09864, in the half-split
        order of the Hugging Face checkpoints)."""

    def attention(self, q: V, k: V, v: V, batch: Batch, w: Weight) -> V:
        """[T, N, H], [T, K, H] x 2 -> [T, N*H]. The only op with state: appends k and v to the
        cache of layer w.layer when the batch has one. A row sees its sequence's past and its rows
        up to itself; softmax in float32 over q.k / sqrt(H); query head h reads kv head
        h // (N/K). Who rounds keys may take off what all of them share (`Rope.still`)."""

    def silu_mul(self, gate: V, up: V) -> V:
        """gate * sigmoid(gate) * up, [T, F] each."""

    def select(self, x: V, batch: Batch) -> V:
        """[T, D] -> [R, D]: the rows that need logits, before the final norm."""
