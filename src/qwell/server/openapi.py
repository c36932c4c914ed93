"""/openapi.json, made from the same table that reads requests."""

from __future__ import annotations

import re
from typing import Any

from qwell.server.requests import RULES

Json = dict[str, Any]
ERRORS = {
    "400": "a field is wrong or missing",
    "401": "no key, or a wrong one",
    "403": "a wrong Host or Origin",
    "404": "no such model or path",
    "405": "this path does not take this method",
    "408": "the request came too slowly",
    "413": "the body is too large",
    "429": "the queue or the key's limit is full; see Retry-After",
    "500": "a fault inside",
    "503": "shutting down or out of memory; see Retry-After",
}
EVENTS = "server-sent events: the data of each is a chunk in JSON, of the last [DONE]"
"""No type: some readers hold it against the whole stream, others against one event."""


def document(routes: list[tuple[str, str, str, str | None, str]], version: str) -> Json:
    """routes: (method, path, purpose, name of the request or None, media type of the reply)."""
    paths: dict[str, Json] = {}
    for method, path, purpose, body, media in routes:
        names = re.findall(r"{(\w+)}", path)
        paths.setdefault(path, {})[method.lower()] = _operation(purpose, names, body, media)
    schemas = {name: rule.schema() for name, rule in RULES.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "qwell", "version": version, "description": "Qwen2.5 on this machine"},
        "paths": paths,
        "security": [{}, {"key": []}],
        "components": {
            "schemas": schemas | {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(purpose: str, names: list[str], body: str | None, media: str) -> Json:
    found: Json = {"summary": purpose, "responses": {"200": _ok(body, media)}}
    if names:
        form = {"required": True, "schema": {"type": "string", "minLength": 1}}
        found["parameters"] = [{"name": name, "in": "path", **form} for name in names]
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for status, text in ERRORS.items():
        found["responses"][status] = {"description": text, "content": error}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body}"}
        content = {"application/json": {"schema": schema}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _ok(body: str | None, media: str) -> Json:
    content: Json = {media: {"schema": {} if media != "application/json" else {"type": "object"}}}
    if body in ("ChatRequest", "TextRequest"):
        content["text/event-stream"] = {"schema": {"description": EVENTS}}
    return {"description": "done", "content": content}


_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
