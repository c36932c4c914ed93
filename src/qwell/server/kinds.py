"""The two kinds of exchange, by path: what live requests and batches share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qwell.server.auth import Tenant
from qwell.server.chat import ChatExchange
from qwell.server.completions import TextExchange
from qwell.server.exchange import Exchange
from qwell.server.requests import ChatRequest, TextRequest, read
from qwell.server.served import Served

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def exchange_of(
    served: Served, path: str, value: Any, tenant: Tenant, *, strict: bool, truth: bool = False
) -> Exchange:
    """The request `value` to CHAT or COMPLETIONS, read. Raises ApiError, QwellError."""
    if path == CHAT:
        chat, ignored = read(ChatRequest, value, strict=strict)
        chat = replace(chat, qwell=replace(chat.qwell, truth=chat.qwell.truth or truth))
        return ChatExchange(served, chat, ignored, tenant)
    raw, ignored = read(TextRequest, value, strict=strict)
    raw = replace(raw, qwell=replace(raw.qwell, truth=raw.qwell.truth or truth))
    return TextExchange(served, raw, ignored, tenant)
