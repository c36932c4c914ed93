"""The fuser on shapes it was written for, and on shapes it was not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from qwell.config import ModelConfig
from qwell.model import decoder
from qwell.model.weights import Embedding, Linear, Norm, Weights, build_weights
from qwell.native.fuse import fuse, listing
from qwell.native.record import Record, record
from tests.checkpoint.make import shapes, tiny_config

GOLDEN = Path(__file__).parents[1] / "golden"


def shape_only(name: str, shape: tuple[int, ...]) -> SimpleNamespace:
    return SimpleNamespace(name=name, shape=shape, dtype="F32")


def weights(**over: int) -> Weights:
    raw = tiny_config(**over)
    tensors = {name: shape_only(name, shape) for name, shape in shapes(raw).items()}
    return build_weights(ModelConfig.from_dict(raw), tensors)


def test_golden_phases() -> None:
    """Five phases a layer, as tests/golden/qwen2.phases.txt lists them."""
    assert listing(fuse(record(weights()))) + "\n" == (GOLDEN / "qwen2.phases.txt").read_text()


def test_unfused_is_one_phase_a_node() -> None:
    nodes = record(weights())
    assert [p.op for p in fuse(nodes, enabled=False)] == [n.op for n in nodes]


def test_phases_grow_with_layers_only() -> None:
    assert len(fuse(record(weights(num_hidden_layers=80)))) == 2 + 5 * 80 + 1


def test_every_node_is_in_exactly_one_phase() -> None:
    nodes = record(weights())
    seen = [
        n
        for p in fuse(nodes)
        for n in (*p.prologue, *(m for q in p.products for m in (q.node, *q.epilogue)))
    ]
    assert sorted(map(id, seen)) == sorted(map(id, nodes))


def head_norm_weights() -> Weights:
    """Qwen3's shape: a norm over every head of q and k."""
    base = weights()
    norm = Norm(shape_only("q_norm.weight", (16,)), 1e-6)
    for layer in base.layers:
        object.__setattr__(layer.self_attn, "q_norm", norm)
        object.__setattr__(layer.self_attn, "k_norm", norm)
    return base


def test_head_norms_fuse_with_no_rule_of_their_own() -> None:
    phases = fuse(record(head_norm_weights()))
    assert len(phases) == 2 + 5 * 2 + 1
    assert [n.op for n in phases[2].products[0].epilogue] == ["rms_norm", "rope"]


def test_parallel_branches_become_siblings() -> None:
    """Attention and MLP side by side: all five matrices of the norm share one phase."""
    w = weights()
    ops = Record(16)
    x = ops.embed(None, w.embed_tokens)
    layer = w.layers[0]
    h = ops.rms_norm(x, layer.input_layernorm)
    a = decoder.self_attention(ops, layer.self_attn, h, ops.angles(w.rope, None), None)
    out = ops.linear(x + (a + decoder.mlp(ops, layer.mlp, h)), w.lm_head)
    phases = fuse(ops.nodes)
    assert max(len(p.products) for p in phases) == 5
    assert phases[-1].products[-1].result is out
    _assert_order(phases)


def test_norm_of_a_row_after_a_linear_is_not_split() -> None:
    """Post-norm models: a row norm needs all columns, wider than one thread holds."""
    w = weights(hidden_size=320, head_dim=16)
    ops = Record(16)
    x = ops.embed(None, w.embed_tokens)
    x = x + ops.rms_norm(decoder.mlp(ops, w.layers[0].mlp, x), w.layers[0].input_layernorm)
    ops.linear(x, w.lm_head)
    phases = fuse(ops.nodes)
    assert "rms_norm" in [p.op for p in phases]
    _assert_order(phases)


def _assert_order(phases) -> None:
    """No phase reads what a later phase makes."""
    made: set[int] = set()
    for phase in phases:
        own = {id(p.node.out) for p in phase.products} | {
            id(n.out) for p in phase.products for n in (*p.epilogue, *phase.prologue)
        }
        for value in (
            *phase.inputs,
            *(v for p in phase.products for n in p.epilogue for v in n.inputs),
        ):
            assert id(value) in made | own
        made |= own


def test_handles_are_opaque() -> None:
    """Recording reads shapes, never numbers."""
    assert isinstance(weights().embed_tokens, Embedding)
    assert isinstance(weights().lm_head, Linear)
    assert np.prod(weights().lm_head.weight.shape) == 96 * 64
