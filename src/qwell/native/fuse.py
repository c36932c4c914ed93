"""Nodes -> Phases. A phase is what the threads do between two barriers.

A matrix needs every column of its input, so two dependent linears never share a phase. All other
ops go row by row, which gives four rules:

  siblings   linears that read the same value become one phase with several products
  prologue   a norm, and the row selection before it, read by that phase alone: done while
             loading a row
  epilogue   a chain of row ops, each the only reader of the one before: done on the columns
             just computed; silu_mul pairs two siblings
  cache      a result that attention alone reads as k or v: stored straight into its pages

What is left over is a phase of its own: correct, only slower. No rule names a model or a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from qwell.native.record import Node, Value

PROLOGUE = {"select", "rms_norm"}
EPILOGUE = {"rms_norm", "rope", "silu_mul", "add"}
MAX_SPAN = 256
"""Columns one thread is sure to hold together."""

Store = Literal["slot", "keys", "values", "pair"]


@dataclass(eq=False)
class Product:
    """One matrix of a phase (or another op alone), the row ops applied to its result, and where
    that goes. "pair" means: read by a sibling's silu_mul, stored nowhere."""

    node: Node
    epilogue: list[Node] = field(default_factory=list)
    store: Store = "slot"

    @property
    def result(self) -> Value:
        return (self.epilogue or [self.node])[-1].out


@dataclass(eq=False)
class Phase:
    """Every row of `inputs` goes through the prologue, then into each product."""

    inputs: list[Value]
    products: list[Product]
    prologue: list[Node] = field(default_factory=list)

    @property
    def op(self) -> str:
        return self.products[0].node.op


def fuse(nodes: list[Node], enabled: bool = True) -> list[Phase]:
    """Phases in the order of their first node. enabled=False gives every node its own phase."""
    order = {node: i for i, node in enumerate(nodes)}
    phases: dict[Node, Phase] = {}
    taken: set[Node] = set()
    for node in nodes:
        if enabled and node.op == "linear" and node not in taken:
            siblings = [n for n in node.inputs[0].users if n.op == "linear"]
            phase = phases[node] = Phase(node.inputs, [Product(n) for n in siblings])
            _absorb_prologue(phase, siblings)
            for product in phase.products:
                _absorb_epilogue(product, phase, order)
            taken |= {n for p in phase.products for n in (p.node, *p.epilogue)}
            taken |= set(phase.prologue)
    for node in nodes:
        if node not in taken:
            phases[node] = Phase(node.inputs, [Product(node)])
    return [phases[node] for node in nodes if node in phases]


def _absorb_prologue(phase: Phase, readers: list[Node]) -> None:
    while (node := phase.inputs[0].node).op in PROLOGUE and set(node.out.users) <= set(readers):
        if node.op == "rms_norm" and node.span != node.out.width:
            return  # per-head norms are epilogues, or phases of their own
        phase.prologue.insert(0, node)
        phase.inputs, readers = node.inputs, [node]


def _absorb_epilogue(product: Product, phase: Phase, order: dict[Node, int]) -> None:
    start = order[phase.products[0].node]
    siblings = {p.result: p for p in phase.products if p is not product}
    while len(product.result.users) == 1:
        op = product.result.users[0]
        if op.op not in EPILOGUE or op.span > MAX_SPAN:
            break
        others = [v for v in op.inputs if v is not product.result]
        if op.op == "silu_mul" and op.inputs[0] is product.result and others[0] in siblings:
            siblings[others[0]].store = "pair"  # gate and up share a panel
        elif op.op == "silu_mul" or any(order[v.node] >= start for v in others):
            break
        product.epilogue.append(op)
    users = product.result.users
    if len(users) == 1 and users[0].op == "attention" and product.store == "slot":
        stores: tuple[Store, ...] = ("slot", "keys", "values")
        product.store = stores[users[0].inputs.index(product.result)]


def listing(phases: list[Phase]) -> str:
    """One line a phase, for people and for the golden test: prologue, inputs | products."""
    names: dict[Value, str] = {}

    def name(value: Value) -> str:
        return names.setdefault(value, f"%{len(names)}")

    lines = []
    for phase in phases:
        prologue = "+".join(n.op for n in phase.prologue)
        inputs = ",".join(name(v) for v in phase.inputs)
        products = "; ".join(_describe(p, name) for p in phase.products)
        lines.append(f"{prologue:16s} {inputs:12s} | {products}")
    return "\n".join(lines)


def _describe(product: Product, name: Callable[[Value], str]) -> str:
    target = f"->{name(product.result)}" if product.store == "slot" else f"->{product.store}"
    stem = getattr(getattr(product.node.weight, "weight", None), "name", "")
    label = f"{product.node.op}({'.'.join(stem.split('.')[-2:-1])})" if stem else product.node.op
    return label + "".join(f"+{n.op}" for n in product.epilogue) + target
