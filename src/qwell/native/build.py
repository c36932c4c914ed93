"""Phases -> a core Program: slots for values, products for matrices, the order of the calls.

Decides what can be decided before a step: where each value lives, which precision each matrix
reads its input in, how many columns a thread must see together.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

from qwell import _core
from qwell.native.fuse import Phase, Product
from qwell.native.packed import PackedTensor
from qwell.native.record import Node, Value


def build(program: _core.Program, phases: list[Phase], head_dim: int) -> None:
    """Adds every phase to `program` and finishes it."""
    builder = _Builder(program, phases, head_dim)
    for i, phase in enumerate(phases):
        builder.add(i, phase)
    program.finish()


THIN_INPUTS, THIN_OUTPUTS, THIN_UNIT = 256, 1024, 128


def is_thin(node: Node) -> bool:
    """True for the matrices whose row ops cost more than their products: few inputs, many outputs
    (the B of an adapter). More columns at a time pay for the walk over the rows (LOG.md,
    2026-11-25); a matrix of few columns is cut as finely as others, or threads had none."""
    outputs, inputs = node.weight.weight.shape
    return bool(inputs <= THIN_INPUTS and outputs >= THIN_OUTPUTS)


class _Builder:
    def __init__(self, program: _core.Program, phases: list[Phase], head_dim: int) -> None:
        self.program, self.head_dim = program, head_dim
        self.slots: dict[Value, int] = {}
        self.free: dict[int, list[int]] = {}  # width -> slots nobody reads any more
        self.last_use: dict[Value, int] = {}
        for i, phase in enumerate(phases):
            for value in _reads(phase):
                self.last_use[value] = i

    def add(self, i: int, phase: Phase) -> None:
        add = {"linear": self._linear, "attention": self._attention}.get(phase.op, self._single)
        add(phase)
        for value in {*_reads(phase)}:
            # Freed only now: no phase writes a slot it reads, threads are not in step inside one.
            if self.last_use[value] == i and value in self.slots:
                self.free.setdefault(value.width, []).append(self.slots[value])

    def _slot(self, value: Value) -> int:
        if value not in self.slots:
            free = self.free.get(value.width)
            self.slots[value] = free.pop() if free else self.program.slot(value.width)
        return self.slots[value]

    def _single(self, phase: Phase) -> None:
        node, program = phase.products[0].node, self.program
        out, out_rows = self._slot(node.out), node.out.rows == "out"
        ins = [self.slots[v] for v in node.inputs]
        match node.op:
            case "angles":
                program.angles(out, node.weight.inv_freq)
            case "embed":
                program.embed(out, *_matrix(node.weight.weight))
            case "select":
                program.select(ins[0], out)
            case "rms_norm":
                program.norm(ins[0], out, out_rows, node.weight.weight.float32(), node.weight.eps)
            case _:
                first, second = ins
                program.row_op(node.op, first, second, out, out_rows)

    def _attention(self, phase: Phase) -> None:
        node = phase.products[0].node
        assert node.layer is not None
        for value, keys in zip(node.inputs[1:], (True, False), strict=True):
            if value in self.slots:  # not stored by the phase that computed it
                self.program.store(self.slots[value], node.layer, keys)
        self.program.attention(self.slots[node.inputs[0]], self._slot(node.out), node.layer)

    def _linear(self, phase: Phase) -> None:
        index = {p.result: i for i, p in enumerate(phase.products)}
        products = [self._product(p, index) for p in phase.products]
        norms = [n.weight for n in phase.prologue if n.op == "rms_norm"]
        self.program.linear(
            "+".join(p.node.weight.weight.name.split(".")[-2] for p in phase.products),
            self.slots[phase.inputs[0]],
            any(n.op == "select" for n in phase.prologue),
            phase.products[0].node.out.rows == "out",
            norms[0].weight.float32() if norms else None,
            norms[0].eps if norms else 0.0,
            products,
        )

    def _product(self, p: Product, index: Mapping[Value, int]) -> _core.Product:
        node = p.node
        unit = lcm(32, *(n.span for n in p.epilogue))
        if is_thin(node):
            unit = lcm(unit, THIN_UNIT)
        if p.store in ("keys", "values"):
            unit = lcm(unit, self.head_dim)
        product = self.program.product(*_matrix(node.weight.weight), unit)
        if node.weight.bias is not None:
            product.bias(node.weight.bias.float32())
        for op in p.epilogue:
            self._row_op(product, op, index)
        self._deliver(product, p)
        return product

    def _row_op(self, product: _core.Product, op: Node, index: Mapping[Value, int]) -> None:
        match op.op:
            case "rms_norm":
                product.norm(op.weight.weight.float32(), op.weight.eps)
            case "rope":
                product.rope(self.slots[op.inputs[1]])
            case "silu_mul":
                product.silu_mul(index[op.inputs[1]])
            case "add":
                product.add(next(self.slots[v] for v in op.inputs if v in self.slots))

    def _deliver(self, product: _core.Product, p: Product) -> None:
        if p.store == "pair":
            product.as_pair()
        elif p.store != "slot":
            layer = p.result.users[0].layer
            assert layer is not None
            product.to_keys(layer) if p.store == "keys" else product.to_values(layer)
        elif not p.result.users:  # nobody reads it: the logits
            product.to_output()
        else:
            product.to_slot(self._slot(p.result))


def _reads(phase: Phase) -> list[Value]:
    own = {p.node.out for p in phase.products} | {n.out for p in phase.products for n in p.epilogue}
    epilogue = [v for p in phase.products for n in p.epilogue for v in n.inputs if v not in own]
    return [*phase.inputs, *epilogue]


def _matrix(tensor: PackedTensor) -> tuple[Any, int, int, int]:
    """format, n, k, offset: how the core finds a matrix."""
    n, k = tensor.shape
    return getattr(_core.Format, tensor.dtype), n, k, tensor.offset
