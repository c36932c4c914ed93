"""Writes down the calls the decoder makes: a straight line of Nodes over Values.

The decoder runs once with `Record` as its ops; nothing is computed. Knows no fusing and no C++.
The result is what `fuse.py` turns into phases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from qwell.model import decoder
from qwell.model.batch import Batch
from qwell.model.weights import Attention, Embedding, Linear, Norm, Rope, Weights

Rows = Literal["all", "out"]


@dataclass(eq=False)
class Value:
    """What an op will produce: `width` floats for every row of a step, or every output row."""

    width: int
    rows: Rows
    node: Node
    users: list[Node] = field(default_factory=list)
    record: Record | None = None

    def __add__(self, other: Value) -> Value:
        assert self.record is not None
        return self.record.note("add", [self, other], width=self.width)


@dataclass(eq=False)
class Node:
    """One call of an op."""

    op: str
    inputs: list[Value]
    weight: Any = None
    layer: int | None = None
    span: int = 1
    """Neighbouring columns the op must see together."""
    out: Value = field(init=False)


class Record:
    """The ops as a notebook. The batch is never read."""

    def __init__(self, head_dim: int) -> None:
        self.nodes: list[Node] = []
        self.head_dim = head_dim

    def note(
        self,
        op: str,
        inputs: list[Value],
        *,
        width: int,
        weight: Any = None,
        layer: int | None = None,
        rows: Rows | None = None,
        span: int = 1,
    ) -> Value:
        """Appends a node; gives its result, of `width` floats a row. rows: those of the first
        input if not given."""
        node = Node(op, inputs, weight, layer, span)
        node.out = Value(width, rows or (inputs[0].rows if inputs else "all"), node, record=self)
        for value in inputs:
            value.users.append(node)
        self.nodes.append(node)
        return node.out

    def block(self, fn: Callable[..., Value], w: Any, *args: Any) -> Value:
        return fn(self, w, *args)

    def angles(self, rope: Rope, batch: Batch) -> Value:
        return self.note("angles", [], width=self.head_dim, weight=rope)

    def embed(self, batch: Batch, w: Embedding) -> Value:
        return self.note("embed", [], width=w.weight.shape[1], weight=w)

    def select(self, x: Value, batch: Batch) -> Value:
        return self.note("select", [x], width=x.width, rows="out")

    def rms_norm(self, x: Value, w: Norm) -> Value:
        return self.note("rms_norm", [x], width=x.width, weight=w, span=w.weight.shape[0])

    def linear(self, x: Value, w: Linear) -> Value:
        y = self._product(x, w)
        if w.adapter is None:
            return y
        return y + self._product(self._product(x, Linear(w.adapter.a)), Linear(w.adapter.b))

    def _product(self, x: Value, w: Linear) -> Value:
        return self.note("linear", [x], width=w.weight.shape[0], weight=w)

    def split_heads(self, x: Value) -> Value:
        return x  # a view: nothing to do

    def rope(self, x: Value, angles: Value) -> Value:
        return self.note("rope", [x, angles], width=x.width, span=self.head_dim)

    def silu_mul(self, gate: Value, up: Value) -> Value:
        return self.note("silu_mul", [gate, up], width=gate.width)

    def attention(self, q: Value, k: Value, v: Value, batch: Batch, w: Attention) -> Value:
        return self.note("attention", [q, k, v], width=q.width, layer=w.layer)


_NO_BATCH: Any = None


def record(weights: Weights) -> list[Node]:
    """The nodes of `decoder.logits`, in call order; the last one's value is the logits."""
    ops = Record(weights.config.head_dim)
    decoder.logits(ops, weights, _NO_BATCH)
    return ops.nodes
