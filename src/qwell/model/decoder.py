"""Qwen2.5, once. Plain functions over the ops; a weight is a handle only ops look into.

Names are the checkpoint's own. Shapes: T rows of this step (all sequences end to end, no batch
axis), R output rows, D hidden_size, N query heads, K kv heads, H head_dim, F intermediate_size.
The back ends are `reference.py` (NumPy), `qwell.native` (serves) and `qwell.train` (learns).
Source: Qwen2.5 technical report, arXiv:2412.15115, section 2, and the modeling code of the
official checkpoints.
"""

from __future__ import annotations

from typing import Any

from qwell.model.batch import Batch
from qwell.model.ops import Ops, V, Weight


def logits(ops: Ops[V], w: Weight, batch: Batch) -> V:
    """[R, vocab_size]: padded vocabulary included; masking it is the sampler's business."""
    return ops.linear(hidden(ops, w, batch), w.lm_head)


def hidden(ops: Ops[V], w: Weight, batch: Batch) -> V:
    """[R, D]: the final hidden states of the output rows, normed."""
    angles = ops.angles(w.rope, batch)  # cos, sin of every row
    x = ops.embed(batch, w.embed_tokens)  # [T, D]
    for layer in w.layers:
        x = ops.block(decoder_layer, layer, x, angles, batch)
    return ops.rms_norm(ops.select(x, batch), w.norm)  # [R, D]


def decoder_layer(ops: Ops[V], w: Weight, x: V, angles: Any, batch: Batch) -> V:
    """[T, D] -> [T, D]: attention, then the MLP, each on the normed stream and added to it."""
    x = x + self_attention(ops, w.self_attn, ops.rms_norm(x, w.input_layernorm), angles, batch)
    return x + mlp(ops, w.mlp, ops.rms_norm(x, w.post_attention_layernorm))  # type: ignore[no-any-return]


def self_attention(ops: Ops[V], w: Weight, h: V, angles: Any, batch: Batch) -> V:
    """[T, D] -> [T, D]: grouped-query attention (arXiv:2305.13245); q, k and v have biases."""
    q = ops.split_heads(ops.linear(h, w.q_proj))  # [T, N, H]
    k = ops.split_heads(ops.linear(h, w.k_proj))  # [T, K, H]
    v = ops.split_heads(ops.linear(h, w.v_proj))  # [T, K, H]
    if w.q_norm is not None:  # Qwen3
        q, k = ops.rms_norm(q, w.q_norm), ops.rms_norm(k, w.k_norm)
    q, k = ops.rope(q, angles), ops.rope(k, angles)
    return ops.linear(ops.attention(q, k, v, batch, w), w.o_proj)  # [T, D]


def mlp(ops: Ops[V], w: Weight, h: V) -> V:
    """[T, D] -> [T, D]: SwiGLU (arXiv:2002.05202)."""
    gated = ops.silu_mul(ops.linear(h, w.gate_proj), ops.linear(h, w.up_proj))  # [T, F]
    return ops.linear(gated, w.down_proj)  # [T, D]
