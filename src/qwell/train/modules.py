"""Names, parameters and hooks of one model; the architecture itself is `model/decoder.py`.

Parameter names are the checkpoint's (`model.layers.0.self_attn.q_proj.weight`), which are also
PEFT's stems and the keys of tensor-parallel plans. A Module holds parameters and is where FSDP2
hooks in; recomputation happens inside `Block.forward`, so that a layer is gathered once for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qwell.config import ModelConfig
from qwell.model import decoder
from qwell.model.batch import Batch
from qwell.model.weights import Rope
from qwell.train import functions
from qwell.train.torch_ops import TorchOps

Loss = Callable[[Tensor, Tensor], Tensor]
"""(final hidden states of the output rows [R, D], head [V, D]) -> a scalar."""


class Linear(nn.Linear):
    """A matrix [out, in] with or without bias; an nn.Linear by type, so parallel plans take it."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functions.Linear.apply(x, self.weight, self.bias)
        return y


class Embedding(nn.Embedding):
    """[vocab_size, hidden_size]. table: the matrix under its name as an embedding, while the model
    runs and it is the head too (see `functions.Tied`)."""

    table: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.table is None:
            return super().forward(input)
        y: Tensor = functions.Rows.apply(input, self.table)
        return y


class RmsNorm(nn.Module):
    """The weight of an RMSNorm [length] and its eps."""

    def __init__(self, length: int, eps: float, **where: Any) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(length, **where)), eps

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functions.RmsNorm.apply(x, self.weight, self.eps)
        return y


class Attention(nn.Module):
    """The projections of one layer."""

    def __init__(self, config: ModelConfig, layer: int, **where: Any) -> None:
        super().__init__()
        D, H = config.hidden_size, config.head_dim
        q, kv = config.num_heads * H, config.num_kv_heads * H
        self.layer = layer
        self.q_proj = Linear(D, q, bias=True, **where)
        self.k_proj = Linear(D, kv, bias=True, **where)
        self.v_proj = Linear(D, kv, bias=True, **where)
        self.o_proj = Linear(q, D, bias=False, **where)
        self.q_norm = self.k_norm = None


class Mlp(nn.Module):
    """The three matrices of the gated MLP."""

    def __init__(self, config: ModelConfig, **where: Any) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(D, F, bias=False, **where)
        self.up_proj = Linear(D, F, bias=False, **where)
        self.down_proj = Linear(F, D, bias=False, **where)


class Block(nn.Module):
    """One decoder layer: parameters, and the call in which hooks fire."""

    def __init__(self, config: ModelConfig, layer: int, **where: Any) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer, **where)
        self.mlp = Mlp(config, **where)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps, **where)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps, **where)

    def forward(self, fn: Callable[..., Tensor], ops: TorchOps, *args: Any) -> Tensor:
        if ops.recompute and torch.is_grad_enabled():
            y: Tensor = checkpoint(fn, ops, self, *args, use_reentrant=False)
            return y
        return fn(ops, self, *args)


class Model(nn.Module):
    """Embedding, layers, final norm: what the checkpoint calls `model`."""

    def __init__(self, config: ModelConfig, **where: Any) -> None:
        super().__init__()
        self.rope = Rope(config.head_dim, config.rope_theta)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, **where)
        self.layers = nn.ModuleList(Block(config, i, **where) for i in range(config.num_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps, **where)


class Decoder(nn.Module):
    """A whole model. Its weights are not set: see `weights.py`.

    recompute: gradient checkpointing, one layer at a time."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.ops = TorchOps(config.head_dim, recompute=recompute)
        with torch.device("meta"):
            self.model = Model(config, dtype=dtype)
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)
        self.tie()
        self.to_empty(device=device)
        self.tie()

    def tie(self) -> None:
        """Makes head and embedding one parameter again where the config says so: after
        `to_empty`, and after anything that replaces parameters."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, batch: Batch, loss: Loss | None = None) -> Tensor:
        """Logits [R, vocab_size] of the output rows, or what `loss` makes of the final hidden
        states [R, D] and the head [V, D]. The head is used inside this call, so that a root
        FSDP group holds it whole."""
        embedding, head = self.model.embed_tokens, self.lm_head.weight
        self.ops.device, self.ops.dtype = embedding.weight.device, embedding.weight.dtype
        if self.config.tie_word_embeddings and torch.is_grad_enabled() and head.requires_grad:
            embedding.table, head = functions.Tied.apply(embedding.weight)
        try:
            hidden = decoder.hidden(self.ops, self.model, batch)
        finally:
            embedding.table = None
        if loss is not None:
            return loss(hidden, head)
        if head is self.lm_head.weight:
            return self.ops.linear(hidden, self.lm_head)
        logits: Tensor = functions.Linear.apply(hidden, head, None)
        return logits
