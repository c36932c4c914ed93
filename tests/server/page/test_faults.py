"""Errors of the server, shown as what they are; keys; a server that goes away and comes back."""

from __future__ import annotations

import hashlib
from typing import Any

from playwright.sync_api import expect

from qwell.engine.jobs import Limits
from qwell.server.auth import Tenant
from tests.server.live import Live, live
from tests.server.page.screen import SECONDS
from tests.server.page.talkers import counter, echo

KEY = "qw-a-key-that-is-long-enough"
LOADING = "Failed to load resource"


def tenant(**limits: int) -> Tenant:
    return Tenant(name="me", digest=hashlib.sha256(KEY.encode()).digest(), **limits)


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(screen: Any) -> None:
    with live(echo(), tenants=(tenant(),)) as server:
        page = screen(server, faults=(LOADING,))
        dialog = page.page.get_by_role("dialog", name="API key")
        expect(dialog).to_contain_text("This server needs a key.")
        dialog.get_by_label("Key", exact=True).fill("wrong-key")
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Cancel").click()
        page.send("hi")
        expect(page.turn(1)).to_contain_text("This server needs a key")
        page.button("Enter a key").click()
        dialog.get_by_label("Key", exact=True).fill(KEY)
        dialog.get_by_role("button", name="Use key").click()
        expect(page.page.locator("#model")).to_contain_text("tiny")
        page.button("Try again").click()
        page.quiet()
        expect(page.turn(1).locator(".body")).to_have_text("hi")
        expect(page.turn(1).get_by_role("group", name="Versions")).to_have_count(0)
        assert KEY in page.page.evaluate("JSON.stringify({...sessionStorage})")
        assert KEY not in page.page.evaluate("JSON.stringify({...localStorage})")
        assert KEY not in str(page.kept())
        assert all(KEY not in request.url for request in page.requests)
        page.page.reload()
        page.ready()
        expect(page.page.locator("#model")).to_contain_text("tiny")


def test_a_busy_server_is_waited_for_as_long_as_it_says(screen: Any) -> None:
    with live(echo(), tenants=(tenant(rpm=1),)) as server:
        page = screen(server, faults=(LOADING,))
        page.page.get_by_label("Key", exact=True).fill(KEY)
        page.button("Use key").click()
        page.send("one")
        page.send("two")
        expect(page.turn(3)).to_contain_text("The server is busy")
        expect(page.turn(3)).to_contain_text("429")
        again = page.turn(3).get_by_role("button", name="Try again")
        expect(again).to_be_disabled()
        first = again.inner_text()
        assert " s" in first
        expect(again).not_to_have_text(first, timeout=SECONDS)
        left = int(again.inner_text().split()[-2])
        assert 0 < left < 60


def test_a_full_queue_is_told_and_trying_again_works(screen: Any) -> None:
    with live(counter(0.005, 60), limits=Limits(max_queued=0)) as server:
        page = screen(server, faults=(LOADING,))
        page.send("one")
        expect(page.turn(1)).to_contain_text("The server is busy")
        assert page.kept()[0]["turns"][1]["fault"]["status"] == 429


def test_a_refusal_names_the_field(parrot: Live, screen: Any) -> None:
    page = screen(parrot, faults=(LOADING,))
    page.set("Logit bias", '{"100000": 1}')
    page.send("hi")
    expect(page.turn(1)).to_contain_text("The server refused this request")
    expect(page.turn(1)).to_contain_text("400")
    expect(page.turn(1)).to_contain_text("logit_bias")


def test_a_prompt_that_is_too_long(parrot: Live, screen: Any) -> None:
    page = screen(parrot, faults=(LOADING,))
    page.send("x" * 17_000)
    expect(page.turn(1)).to_contain_text("context_length_exceeded")
    expect(page.turn(1)).to_contain_text("16,384")


def test_a_server_that_goes_away_in_the_middle(screen: Any) -> None:
    with live(counter(), grace_s=0.1) as server:
        page = screen(server, faults=(LOADING, "ERR_", "net::"))
        page.send("count", wait=False)
        expect(page.turn(1)).to_contain_text("5 6", timeout=SECONDS)
        server.server.force_exit = server.server.should_exit = True
        page.quiet()
        expect(page.turn(1)).to_contain_text("1 2 3 4 5 6")
        expect(page.button("Go on")).to_be_visible()
    page.send("anyone?")
    expect(page.turn(3)).to_contain_text("No answer from the server")
    expect(page.page.locator("#model")).to_have_text("server not reached")
    assert page.kept()[0]["turns"][1]["status"] == "interrupted"


def test_a_deadline_is_told(screen: Any) -> None:
    with live(counter(0.02)) as server:
        page = screen(server)
        page.set("Deadline", "0.5")
        page.send("count")
        expect(page.turn(1)).to_contain_text("The deadline passed.")
