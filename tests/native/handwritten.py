"""The phase list a hand would write for Qwen2.5, five calls a layer: what the fuser is held to.

Knows the architecture by heart, which is why it lives in the tests: it is the fall-back plan for
the fuser, kept honest by `test_program.test_handwritten_list` and raced in `benchmarks/fuse.py`.
"""

from __future__ import annotations

from math import lcm
from pathlib import Path
from typing import Any

import numpy as np

from qwell import _core
from qwell.config import ModelConfig
from qwell.model.weights import Rope
from qwell.native.model import NativeModel, _new_program
from qwell.native.packed import PackedTensor, read_table


def open_handwritten(pack: Path, config: ModelConfig, threads: int, rows: int = 256) -> NativeModel:
    """A NativeModel over the hand-written list."""
    tensors, size = read_table(pack)
    program = _new_program(pack, config, threads, rows, size)
    _Hand(program, config, tensors).write()
    program.finish()
    biases = [tensors[f"model.layers.{i}.self_attn.k_proj.bias"] for i in range(config.num_layers)]
    key_bias = np.concatenate([bias.float32() for bias in biases])
    return NativeModel(program, config, "written by hand", key_bias=key_bias)


class _Hand:
    def __init__(self, program: Any, config: ModelConfig, tensors: dict[str, PackedTensor]) -> None:
        self.p, self.c, self.t = program, config, tensors

    def write(self) -> None:
        p, c, t = self.p, self.c, self.t
        angles, q = p.slot(c.head_dim), p.slot(c.num_heads * c.head_dim)
        x, y, f = p.slot(c.hidden_size), p.slot(c.hidden_size), p.slot(c.intermediate_size)
        o = p.slot(c.num_heads * c.head_dim)
        p.angles(angles, Rope(c.head_dim, c.rope_theta).inv_freq)
        embed = t["model.embed_tokens.weight"]
        p.embed(x, getattr(_core.Format, embed.dtype), *embed.shape, embed.offset)
        unit = lcm(32, c.head_dim)
        for i in range(c.num_layers):
            at = f"model.layers.{i}"
            qp, kp, vp = (self.product(f"{at}.self_attn.{n}_proj", unit) for n in "qkv")
            qp.rope(angles), kp.rope(angles)
            qp.to_slot(q), kp.to_keys(i), vp.to_values(i)
            self.linear("qkv", x, f"{at}.input_layernorm", [qp, kp, vp])
            p.attention(q, o, i)
            op = self.product(f"{at}.self_attn.o_proj")
            op.add(x), op.to_slot(y)
            self.linear("o", o, None, [op])
            gate, up = (self.product(f"{at}.mlp.{n}_proj") for n in ("gate", "up"))
            gate.silu_mul(1), gate.to_slot(f), up.as_pair()
            self.linear("gate+up", y, f"{at}.post_attention_layernorm", [gate, up])
            down = self.product(f"{at}.mlp.down_proj")
            down.add(y), down.to_slot(x)
            self.linear("down", f, None, [down])
        head = self.product("lm_head" if "lm_head.weight" in t else "model.embed_tokens")
        head.to_output()
        self.linear("head", x, "model.norm", [head], select=True)

    def product(self, name: str, unit: int = 32) -> Any:
        w, bias = self.t[f"{name}.weight"], self.t.get(f"{name}.bias")
        form = getattr(_core.Format, w.dtype)
        product = self.p.product(form, *w.shape, w.offset, unit)
        if bias is not None:
            product.bias(bias.float32())
        return product

    def linear(self, label: str, x: int, norm: str | None, products: list[Any], select=False):
        weight = self.t[f"{norm}.weight"].float32() if norm else None
        self.p.linear(label, x, select, select, weight, self.c.rms_norm_eps, products)
