"""The two kinds of exchange, by path: what live requests and batches share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from qwell.server.auth import Tenant
from qwell.server.chat import ChatExchange
from qwell.server.completions import TextExchange
from qwell.server.exchange import Exchange
from qwell.server.requests import ChatRequest, Common, TextRequest, read
from qwell.server.served import Served

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
R = TypeVar("R", bound=Common)


def exchange_of(
    served: Served, path: str, value: Any, tenant: Tenant, *, strict: bool, truth: bool = False
) -> Exchange:
    """The request `value` to CHAT or COMPLETIONS, read. Raises ApiError, QwellError."""
    if path == CHAT:
        chat, ignored = read(ChatRequest, value, strict=strict)
        return ChatExchange(served, _with(chat, truth), ignored, tenant)
    text, ignored = read(TextRequest, value, strict=strict)
    return TextExchange(served, _with(text, truth), ignored, tenant)


def _with(request: R, truth: bool) -> R:
    """The truth block may be asked for by a header too."""
    return replace(request, qwell=replace(request.qwell, truth=request.qwell.truth or truth))
