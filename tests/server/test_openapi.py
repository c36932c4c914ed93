"""The OpenAPI document, and what schemathesis makes of it: requests that fit it and such that do
not, and the replies are those it promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.engine.tiny import EOS, Scripted, make_llm
from tests.server.live import Live, chat_tokenizer, live

CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/apply_template"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/tokenizer_info"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]


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


def no_fault(
    ctx: CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    assert response.status_code < 500 or response.status_code == 503, response.text
    return None


def ask(api: Any, method: str, path: str, examples: int, mode: GenerationMode) -> None:
    """So many requests to one operation, drawn anew; their replies are checked."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.validate_response(case.call(timeout=60), checks=[no_fault, *CHECKS])

    check()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_replies_are_those_promised(api: Any, method: str, path: str) -> None:
    for mode in modes(method):
        ask(api, method, path, 8, mode)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
    ],
)
def test_streams_are_those_promised(api: Any, path: str, body: dict[str, Any]) -> None:
    """Drawn requests seldom ask for a stream that begins."""
    case = api[path]["POST"].Case(body={**body, "stream": True, "max_tokens": 3})
    response = case.call(timeout=60)
    assert response.headers["content-type"][0].startswith("text/event-stream")
    case.validate_response(response, checks=[no_fault, *CHECKS])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_many_replies_are_those_promised(api: Any, method: str, path: str) -> None:
    for mode in modes(method):
        ask(api, method, path, 200 if method == "POST" else 20, mode)


def modes(method: str) -> list[GenerationMode]:
    """Requests that fit the document, and where there is something to get wrong such that do
    not."""
    return list(GenerationMode) if method == "POST" else [GenerationMode.POSITIVE]


def test_the_server_is_well_after_it(server: Live) -> None:
    """Stands below: it runs last."""
    assert server.idle(10)
    assert server.chat(max_tokens=1).status_code == 200


def test_every_route_and_field_is_described(server: Live) -> None:
    found = server.http.get("/openapi.json").json()
    assert found == server.app.document()
    told = {(method.upper(), path) for path, how in found["paths"].items() for method in how}
    assert told == set(OPERATIONS)
    fields = found["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"temperature", "top_k", "min_p", "repetition_penalty", "tools"} <= set(fields)
