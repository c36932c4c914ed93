"""Faults as a client reads them: a status and OpenAI's error object, always one line.

What goes wrong inside is told by a number in the log, not by its text: a client gets no paths.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qwell.engine.jobs import Overloaded
from qwell.errors import ContextLengthError, MemoryBudgetError, QwellError, TextError, UsageError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}
_FIELD = re.compile(r"[a-z_]{3,}[a-z_.\[\]0-9]*")
_LONGEST = 600


@dataclass
class ApiError(Exception):
    """A refusal with its status; `param` is the path of the field at fault."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {
            "error": {
                "message": one_line(self.message),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def one_line(text: str) -> str:
    """Printable text without line breaks, cut where nobody reads on; safe in a log."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    shown = "".join(char if char.isprintable() else "?" for char in line)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."


def retry_after(seconds: float) -> dict[str, str]:
    """The header, in whole seconds from 1."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def ignored(names: Sequence[str]) -> dict[str, str]:
    """The header that every reply to a request with fields without effect has. A name that is
    no plain word stands as a JSON string, or it might be no valid header."""
    shown = [n if _FIELD.fullmatch(n) else json.dumps(one_line(n)) for n in names[:16]]
    more = [f"and {len(names) - 16} more"] if len(names) > 16 else []
    return {"X-Qwell-Ignored": ", ".join(shown + more)} if names else {}


def from_exception(error: BaseException, number: str) -> ApiError:
    """What a client is told of `error`; `number` is where the log has the rest of it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded):
        status = 503 if error.reason == "draining" else 429
        return ApiError(
            status, str(error), code=error.reason, headers=retry_after(error.retry_after_s)
        )
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, UsageError | TextError):
        return ApiError(400, str(error), param=_field_of(str(error)), code="invalid_value")
    if isinstance(error, MemoryError | MemoryBudgetError):
        message = "no memory for this request now: try again later"
        return ApiError(503, message, code="memory", headers=retry_after(5))
    if isinstance(error, QwellError):
        return ApiError(500, str(error), code="engine")
    message = f"a fault inside the server ended this request; its log has it under {number}"
    return ApiError(500, message, code="internal")


def _field_of(message: str) -> str | None:
    """Errors of the library begin with the field they are about, if they are about one."""
    first = message.partition(" ")[0].rstrip(":")
    found = _FIELD.fullmatch(first)
    return first if found and ("_" in first or first in _KNOWN or "[" in first) else None


_KNOWN = ("temperature", "seed", "stop", "tools", "messages", "n", "prompt", "suffix")
