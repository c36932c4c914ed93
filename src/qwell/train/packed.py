"""Frozen matrices held as small integers: the base of QLoRA.

    w = scale[group] * (code - zero) - minimum[group]

Codes take a byte, or half a byte where they are below 16. Every integer format of a GGUF file is of
this form, so 'file' keeps exactly the weights of the file; 'int8' and 'int4' round to the nearest
of 255 or 16 steps in groups of 32. A matrix is dequantised when its layer runs, forward and
backward, and forgotten again.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from qwell.checkpoint import tensor as stored
from qwell.checkpoint.blocks import FORMATS, unpack
from qwell.train import functions, kernels
from qwell.train.modules import Linear

PackedKind = Literal["file", "int8", "int4"]
GROUP = 32
_HALF = 16  # a run of 32 codes of 4 bits: low nibbles are its first sixteen, high its last


class Packed(nn.Module):
    """A matrix [out, in]: codes uint8 [out, in] or [out, in / 2], scales float32 [out, groups]."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, minimum: Tensor | None, zero: int) -> None:
        """codes [out, in], one a byte; packed two to a byte here where they allow it."""
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.zero, self.bits = zero, 8
        self.group = self.in_features // scale.shape[1]
        if int(codes.max()) < 16 and self.in_features % (2 * _HALF) == 0:
            runs = codes.view(self.out_features, -1, 2, _HALF)
            codes, self.bits = (runs[:, :, 0] | runs[:, :, 1] << 4).flatten(1), 4
        self.register_buffer("codes", codes.contiguous(), persistent=False)
        self.register_buffer("scale", scale.contiguous(), persistent=False)
        self.register_buffer("minimum", minimum, persistent=False)

    def dequantise(self, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """[out, in] in float32, rounded once to dtype."""
        if dtype == torch.bfloat16 and kernels.unpacks(self.codes, self.group):
            return kernels.dequantise(
                self.codes,
                self.scale,
                self.minimum,
                bits=self.bits,
                zero=self.zero,
                group=self.group,
                shape=(self.out_features, self.in_features),
            )
        wide = self._bytes().to(torch.float32) - self.zero
        wide = wide.view(self.out_features, -1, self.group) * self.scale[:, :, None]
        if self.minimum is not None:
            wide -= self.minimum[:, :, None]
        return wide.view(self.out_features, self.in_features).to(dtype)

    def _bytes(self) -> Tensor:
        if self.bits == 8:
            return self.codes
        runs = self.codes.view(self.out_features, -1, 1, _HALF)
        return torch.cat([runs & 15, runs >> 4], dim=2).view(self.out_features, -1)

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())


class PackedLinear(nn.Module):
    """A frozen linear layer over packed weights; dtype is that of its activations."""

    def __init__(self, base: Packed, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base, self.bias = base, bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functions.FrozenLinear.apply(x, self.base, self.bias)
        return y

    def merged(self) -> Linear:
        """A plain linear layer of the same weights."""
        plain = Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(self.base.dequantise(self.dtype))
        plain.register_parameter("bias", self.bias)
        return plain


def pack(source: stored.Tensor, kind: PackedKind) -> Packed:
    """A stored matrix as integers. A float matrix of a file becomes int8 where kind is 'file'."""
    form = FORMATS[source.dtype]
    if kind == "file" and form.codes is not None:
        return _from_blocks(source)
    wide = torch.from_numpy(source.float32()).view(source.shape[0], -1, GROUP)
    largest = wide.abs().amax(-1)
    if kind == "int4":  # 16 steps from -8 to 7: the largest value gets the step that exists
        signed = wide.gather(-1, wide.abs().argmax(-1, keepdim=True))[..., 0]
        scale, zero = signed / -8, 8
    else:
        scale, zero = largest / 127, 128
    by = torch.where(scale == 0, 1.0, scale)[..., None]
    codes = (wide / by).round_().add_(zero).clamp_(0, 15 if kind == "int4" else 255)
    return Packed(codes.to(torch.uint8).view(source.shape), scale, None, zero)


def _from_blocks(source: stored.Tensor) -> Packed:
    """The codes and scales of integer blocks, as `blocks.Codes` states them."""
    found = unpack(source.dtype, source.data)
    out = source.shape[0]
    d = found.scale.astype(np.float32)[:, None]
    scale = d if found.sub_scale is None else d * found.sub_scale.astype(np.float32)
    minimum = None
    if found.min is not None:
        m = found.min.astype(np.float32)[:, None]
        whole = m if found.sub_min is None else m * found.sub_min.astype(np.float32)
        minimum = torch.from_numpy(whole.reshape(out, -1))
    codes = torch.from_numpy(found.q.reshape(source.shape))
    return Packed(codes, torch.from_numpy(scale.reshape(out, -1)), minimum, found.zero)


def pack_linears(
    layers: nn.ModuleList, prefix: str, tensors: dict[str, stored.Tensor], kind: PackedKind
) -> None:
    """Puts a PackedLinear in the place of every Linear of the layers; `tensors` by checkpoint name
    (`prefix`.0.self_attn.q_proj.weight, ...)."""
    for where, module in list(layers.named_modules()):
        if isinstance(module, Linear):
            parent, _, name = where.rpartition(".")
            base = pack(tensors[f"{prefix}.{where}.weight"], kind)
            setattr(
                layers.get_submodule(parent),
                name,
                PackedLinear(base, module.bias, module.weight.dtype),
            )
