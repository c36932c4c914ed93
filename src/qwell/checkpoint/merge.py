"""A model's weights with an adapter in them, computed as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwell.checkpoint.adapter import Adapter, Lora
from qwell.checkpoint.blocks import Floats
from qwell.checkpoint.encode import Source


@dataclass(frozen=True, eq=False)
class Merged:
    """A matrix with its adapter in it: W + B A, in float32."""

    base: Source
    lora: Lora

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> str:
        return "F32"

    def float32(self, start: int = 0, stop: int | None = None) -> Floats:
        change: Floats = self.lora.b.float32(start, stop) @ self.lora.a.float32()
        return self.base.float32(start, stop) + change


def merged(tensors: Mapping[str, Source], adapter: Adapter) -> dict[str, Source]:
    """The model's weights with the adapter in them; nothing is computed before it is asked for."""
    return {
        name: Merged(tensor, adapter.loras[module])
        if module in adapter.loras
        else adapter.whole.get(name, tensor)
        for name, tensor in tensors.items()
        for module in (name.removesuffix(".weight"),)
    }
