"""The application: routes, and what each request passes on its way to one.

Reading a request (JSON, template, tokenizer, grammar) may take long, so it happens in threads; the
loop only carries bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from qwell.server.auth import NOBODY, Gate
from qwell.server.errors import ApiError, ignored, retry_after
from qwell.server.exchange import Json
from qwell.server.guard import Guard
from qwell.server.json_body import read_json
from qwell.server.kinds import CHAT, COMPLETIONS, exchange_of
from qwell.server.metrics import metrics_text
from qwell.server.openapi import document
from qwell.server.page_files import page_files
from qwell.server.requests import (
    ChatRequest,
    DetokenizeRequest,
    TemplateRequest,
    TextRequest,
    TokenizeRequest,
    read,
)
from qwell.server.served import Served
from qwell.server.stream import Answer, Mail, Run, error_response, json_response, log
from qwell.server.text_routes import apply_template, detokenize, tokenize, tokenizer_info

READERS = 48
"""Requests read at the same time; the others wait for a thread."""
JSON, TEXT = "application/json", "text/plain"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True)
class _Endpoint:
    """A method of a path. body: the request it takes, a class of requests.py; media: of replies."""

    method: str
    path: str
    purpose: str
    run: Callable[[Request], Awaitable[Response]]
    body: type | None = None
    media: str = JSON


class App:
    """Everything behind the socket. `asgi` is what uvicorn runs."""

    def __init__(self, served: Served, gate: Gate) -> None:
        self.served, self.gate, self.settings = served, gate, served.settings
        self.is_draining = False
        self.responses: Counter[tuple[str, int]] = Counter()
        self._files = page_files()
        self._threads = CapacityLimiter(READERS)
        self._mail: Mail | None = None

    @cached_property
    def asgi(self) -> ASGIApp:
        rest = Route("/{path:path}", self._page_file, methods=_METHODS)
        inner = Starlette(
            routes=[*self._routes, rest], exception_handlers={HTTPException: _no_route}
        )
        return Guard(inner, self.settings, self.gate, is_open=self._is_open, on_status=self._count)

    @cached_property
    def _routes(self) -> list[Route]:
        return [Route(e.path, _answering(e), methods=[e.method]) for e in self._endpoints]

    def _count(self, path: str, status: int) -> None:
        known = any(path == endpoint.path for endpoint in self._endpoints)
        self.responses[path if known else "other", status] += 1

    def drain(self) -> None:
        """Not ready from now on; what runs goes on."""
        self.is_draining = True
        self.served.service.drain()

    @cached_property
    def _endpoints(self) -> list[_Endpoint]:
        complete, text = self._complete, self._text_route
        return [
            _Endpoint("POST", CHAT, "the next message of a chat", complete, ChatRequest),
            _Endpoint("POST", COMPLETIONS, "how a text goes on", complete, TextRequest),
            _Endpoint("GET", "/v1/models", "the model", self._models),
            _Endpoint("GET", "/v1/models/{model:path}", "the model", self._model),
            text("/tokenize", "text to ids", tokenize, TokenizeRequest),
            text("/detokenize", "ids to text", detokenize, DetokenizeRequest),
            text("/apply_template", "a chat as the model gets it", apply_template, TemplateRequest),
            _Endpoint("GET", "/tokenizer_info", "facts of the tokenizer", self._info),
            _Endpoint("GET", "/health", "whether the engine lives", self._health),
            _Endpoint("GET", "/ready", "whether requests are taken", self._ready),
            _Endpoint("GET", "/metrics", "numbers for Prometheus", self._metrics, media=TEXT),
            _Endpoint("GET", "/openapi.json", "this document", self._document),
        ]

    def _is_open(self, path: str) -> bool:
        """No key: signs of life, and the page, which is the same for everybody."""
        return path in ("/health", "/ready") or path in self._files

    async def _complete(self, request: Request) -> Response:
        body, tenant = await request.body(), request.state.tenant or NOBODY
        path, headers = request.url.path, request.headers
        strict = self.settings.strict or headers.get("x-qwell-strict") == "1"
        truth = headers.get("x-qwell-truth") == "1"
        self._mail = self._mail or Mail(asyncio.get_running_loop())
        mail = self._mail

        def prepare() -> Run:
            value = read_json(body)
            exchange = exchange_of(self.served, path, value, tenant, strict=strict, truth=truth)
            if self.settings.log_prompts:
                log.info("%s %s %s", exchange.id, tenant.name or "-", value)
            run = Run(exchange, mail)
            run.submit(self.served.service)
            return run

        with ExitStack() as held:
            held.enter_context(self.gate.use(tenant))
            run = await to_thread.run_sync(prepare, limiter=self._threads)
            return Answer(run, held.pop_all(), self.settings.keep_alive_s)

    def _text_route(
        self, path: str, purpose: str, work: Callable[[Served, Any], Json], of: type
    ) -> _Endpoint:
        """One of text_routes.py: `work` makes the reply of a request of the class `of`."""

        async def run(request: Request) -> Response:
            body = await request.body()

            def answer() -> Response:
                asked: Any
                asked, unused = read(of, read_json(body), strict=self.settings.strict)
                self.served.check_model(asked.model)
                return json_response(work(self.served, asked), headers=ignored(unused))

            return await to_thread.run_sync(answer, limiter=self._threads)

        return _Endpoint("POST", path, purpose, run, of)

    async def _models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self.served.check_model(request.path_params["model"])
        return json_response(self._card())

    def _card(self) -> Json:
        return {
            "id": self.served.name,
            "object": "model",
            "created": self.served.created,
            "owned_by": "qwell",
            "max_model_len": self.served.llm.max_context,
            "qwell": {
                "sampling": self.served.default_sampling,
                "system_prompt": self.served.default_system,
            },
        }

    async def _page_file(self, request: Request) -> Response:
        """A file of the page, or for what is left over why it is: no such path, or a path that
        takes another method."""
        found = self._files.get(request.scope["path"])
        if found and request.method in ("GET", "HEAD"):
            return found
        others = (route.matches(request.scope)[0] for route in self._routes)
        is_known = found is not None or any(match != Match.NONE for match in others)
        return await _no_route(request, HTTPException(405 if is_known else 404))

    async def _info(self, request: Request) -> Response:
        return json_response(tokenizer_info(self.served))

    async def _health(self, request: Request) -> Response:
        if not self.served.service.healthy:
            raise ApiError(503, "the engine has ended: restart the server", code="dead")
        return json_response({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self.is_draining or not self.served.service.healthy:
            raise ApiError(503, "the server is shutting down", None, "draining", retry_after(5))
        return json_response({"status": "ready", "model": self.served.name})

    async def _metrics(self, request: Request) -> Response:
        text = metrics_text(
            self.served.service.snapshot(),
            self.responses,
            refusals=self.gate.refusals,
            ceiling_gb_per_s=self.served.ceiling_gb_per_s,
        )
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _document(self, request: Request) -> Response:
        return json_response(self.document())

    def document(self) -> Json:
        """The OpenAPI document."""
        rows = [
            (
                e.method,
                e.path.replace(":path", ""),
                e.purpose,
                e.body.__name__ if e.body else None,
                e.media,
            )
            for e in self._endpoints
        ]
        return document(rows, version("qwell"))


def _answering(endpoint: _Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint with faults as answers."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint.run(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception as error:
            return error_response(error)

    return answer


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = {404: "there is no such path", 405: "this path does not take this method"}
    message = f"{what.get(status, 'this cannot be done')}; see /openapi.json"
    return error_response(ApiError(status, message, code="not_found" if status == 404 else None))
