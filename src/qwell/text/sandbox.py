"""Runs a chat template, which is a program out of a model file, within limits.

jinja2's immutable sandbox keeps it from Python; here its text, its output, its variables and its
time are bounded too. Every endless template must loop, call or grow a variable, so those places
watch the clock and the sizes. The environment (options, filters, functions) is the one Hugging
Face defines for chat templates. Knows nothing of messages. A single huge operation (a filter asked
for a gigabyte) is not stopped: the sandbox is a guard, not a wall; run unknown models in a cage.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from qwell.errors import TextError

MAX_SOURCE = 1 << 18
"""Characters of a template. Qwen2.5's has 2,500."""
MAX_OUTPUT = 1 << 26
"""Characters of a rendered chat, and of any one value on the way."""
MAX_SECONDS = 10.0
"""Wall time of one rendering. A chat of a megabyte takes milliseconds."""
_MAX_BITS = 1 << 12

_deadline: ContextVar[float] = ContextVar("deadline")


def render(template: Template, values: Mapping[str, Any]) -> str:
    """The output. Raises TextError, one line, for whatever the template does wrong."""
    token = _deadline.set(time.monotonic() + MAX_SECONDS)
    pieces, size = [], 0
    try:
        for piece in template.generate(**values):
            _check_time()
            pieces.append(piece)
            size += len(piece)
            if size > MAX_OUTPUT:
                raise TextError(f"the chat template wrote more than {MAX_OUTPUT:,} characters")
        return "".join(pieces)
    except TextError:
        raise
    except RecursionError as error:
        raise TextError("the chat template or a message is nested too deeply") from error
    # A template is foreign code: any Python error in it is a fault of the template or its input.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TextError(f"the chat template refuses this chat: {reason}") from error
    finally:
        _deadline.reset(token)


def compile_template(source: str) -> Template:
    """Raises TextError if the source is too long or no template."""
    if len(source) > MAX_SOURCE:
        raise TextError(f"the chat template has more than {MAX_SOURCE:,} characters")
    try:
        return Environment().from_string(source)
    except (TemplateError, RecursionError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        reason = " ".join(str(error).split())[:300]
        where = f" at line {line}" if line else ""
        raise TextError(f"the chat template is not valid{where}: {reason}") from error


class _Generation(Extension):
    """`{% generation %}` marks what the model wrote, for training; it adds nothing to the text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Bounded(NodeTransformer):
    """Puts a check on the items of every loop and on the value of every assignment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_timed")
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.node = _filtered(node.node, "_sized")
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.filter = nodes.Filter(node.filter, "_sized", [], [], None, None, lineno=node.lineno)
        return node

    def visit_NSRef(self, node: nodes.NSRef) -> nodes.Node:  # noqa: N802
        _check_name(node.attr)
        return node


class Environment(ImmutableSandboxedEnvironment):
    """What a chat template may use."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        extensions = [_Generation, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters |= {"tojson": _tojson, "_timed": _timed, "_sized": _sized}
        self.globals |= {"raise_exception": _raise, "strftime_now": _now, "namespace": _namespace}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Bounded().visit(tree)
        return tree

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_time()
        return _sized(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise SecurityError(f"the power {right} is too large")
        for value, times in ((left, right), (right, left)):
            if hasattr(value, "__len__") and isinstance(times, int):
                _check_size(len(value) * times)
        return super().call_binop(context, operator, left, right)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _timed(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _check_time()
        yield item


def _sized(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise TextError("the chat template makes a number that is absurdly large")
    if hasattr(value, "__len__") and not isinstance(value, Undefined):
        _check_size(len(value))
    return value


def _check_size(size: int) -> None:
    if size > MAX_OUTPUT:
        raise TextError(f"the chat template makes a value larger than {MAX_OUTPUT:,} characters")


def _check_time() -> None:
    if time.monotonic() > _deadline.get():
        raise TextError(f"the chat template took longer than {MAX_SECONDS:.0f} s")


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the name {name!r}")


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    values = dict(*args, **kwargs)
    for name in values:
        _check_name(str(name))
    return Namespace(values)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Hugging Face's filter: keys in their order, text as it is; jinja2's own sorts and escapes."""
    options: dict[str, Any] = {"ensure_ascii": ensure_ascii, "indent": indent}
    return json.dumps(value, separators=separators, sort_keys=sort_keys, **options)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
