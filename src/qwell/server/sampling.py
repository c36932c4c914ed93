"""From a request to SamplingParams, and where each value came from: the request or the model."""

from __future__ import annotations

import re
from typing import Any

from qwell.engine.grammar_spec import GrammarSpec
from qwell.engine.types import SamplingParams
from qwell.errors import UsageError
from qwell.server.errors import ApiError
from qwell.server.requests import Common
from qwell.server.served import Served

_SHAPES = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
# Fields of a request that SamplingParams has under the same name and with the same meaning.
_SAME_NAME = (
    *_SHAPES,
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
)
_TOLD = (*_SHAPES, "top_k", "max_tokens", "stop", "seed")
"""What the truth block tells, in this order."""


def read_params(served: Served, request: Common, **more: Any) -> SamplingParams:
    """`more` has what only one kind of request knows. Raises UsageError, ApiError 400."""
    given = {name: getattr(request, name) for name in _SAME_NAME}
    given["max_tokens"] = request.max_tokens
    given["top_k"] = None if request.top_k is None else max(0, request.top_k)
    values = {name: value for name, value in (given | more).items() if value is not None}
    return SamplingParams.defaults(served.llm.generation, **values)


def in_force(params: SamplingParams, request: Common, seed: int) -> dict[str, Any]:
    """Each value and its origin, for the truth block."""
    told: dict[str, Any] = {}
    for name in _TOLD:
        value: Any = seed if name == "seed" else getattr(params, name)
        given = getattr(request, name) is not None
        origin = "request" if given else "drawn" if name == "seed" else "model"
        told[name] = {"value": list(value) if name == "stop" else value, "from": origin}
    if getattr(request, "max_completion_tokens", None) is not None:
        told["max_tokens"]["from"] = "request"
    return told


def read_structure(value: dict[str, Any] | None, where: str) -> GrammarSpec | None:
    """`structured_outputs`: an object with one of json, regex, grammar and choice."""
    if value is None:
        return None
    if len(value) != 1 or next(iter(value)) not in ("json", "regex", "grammar", "choice"):
        raise ApiError(400, f"{where} needs one of json, regex, grammar or choice", where)
    [(kind, given)] = value.items()
    if kind == "json" and isinstance(given, dict | bool | str):
        return named(where, GrammarSpec.json_schema, given)
    if kind == "regex" and isinstance(given, str):
        return named(where, GrammarSpec.regex, given)
    if kind == "grammar" and isinstance(given, str):
        return named(where, GrammarSpec.lark, given)
    if kind == "choice" and isinstance(given, list) and all(isinstance(one, str) for one in given):
        texts = "|".join(re.escape(one) for one in given)
        return named(where, GrammarSpec.regex, texts)
    raise ApiError(400, f"{where}.{kind} is not of the right type", f"{where}.{kind}")


def read_format(value: dict[str, Any] | None) -> GrammarSpec | None:
    """`response_format` of a chat: text, json_object or json_schema."""
    where = "response_format"
    kind = None if value is None else value.get("type")
    if value is None or kind == "text":
        return None
    if kind == "json_object":
        return GrammarSpec.json_object()
    if kind != "json_schema":
        message = f"{where}.type is {kind!r:.40}: give text, json_object or json_schema"
        raise ApiError(400, message, f"{where}.type", "invalid_value")
    inner = value.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict | bool):
        place = f"{where}.json_schema.schema"
        raise ApiError(400, f"{place} is missing or no schema", place, "missing")
    return named(f"{where}.json_schema.schema", GrammarSpec.json_schema, schema)


def named(where: str, make: Any, given: Any) -> GrammarSpec:
    """`make(given)`; what cannot be enforced is refused in the name of the field."""
    try:
        spec: GrammarSpec = make(given)
    except UsageError as error:
        raise ApiError(400, f"{where}: {error}", where, "cannot_be_enforced") from error
    return spec
