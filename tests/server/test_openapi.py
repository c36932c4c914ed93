"""The OpenAPI document, and what schemathesis makes of it: requests that fit it and such that do
not, and the replies are those it promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.engine.tiny import EOS, Scripted, make_llm
from tests.server.live import Live, chat_tokenizer, live

CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
HOW = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    script = Scripted(lambda known: EOS if len(known) % 7 == 0 else 70)
    llm = make_llm(script, tokenizer=chat_tokenizer(), max_context=192, max_seqs=16)
    with live(llm) as found:
        yield found


@pytest.fixture(scope="module")
def api(server: Live) -> Any:
    schema = schemathesis.openapi.from_dict(server.app.document())
    schema.config.update(base_url=server.url)
    return schema


described = schemathesis.pytest.from_fixture("api")


def no_fault(
    ctx: CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    assert response.status_code < 500 or response.status_code == 503, response.text
    return None


def ask(case: schemathesis.Case) -> None:
    case.validate_response(case.call(timeout=30), checks=[no_fault, *CHECKS])


@described.parametrize()
@settings(max_examples=12, **HOW)
def test_replies_are_those_promised(case: schemathesis.Case) -> None:
    ask(case)


@pytest.mark.slow
@described.parametrize()
@settings(max_examples=300, **HOW)
def test_many_replies_are_those_promised(case: schemathesis.Case) -> None:
    ask(case)


def test_the_server_is_well_after_it(server: Live) -> None:
    """Stands below: it runs last."""
    assert server.idle(10)
    assert server.chat(max_tokens=1).status_code == 200


def test_every_route_and_field_is_described(server: Live) -> None:
    found = server.http.get("/openapi.json").json()
    assert found == server.app.document()
    assert set(found["paths"]) >= {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
        "/apply_template",
        "/health",
        "/ready",
        "/metrics",
    }
    fields = found["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"temperature", "top_k", "min_p", "repetition_penalty", "tools"} <= set(fields)
