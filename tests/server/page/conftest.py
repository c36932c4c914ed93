"""A real Chromium over a real server; every test ends with a look at what the page did."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.server.live import Live, live
from tests.server.page.screen import SECONDS, Screen
from tests.server.page.talkers import counter, echo

NAMES = ("chromium", "chromium-browser", "google-chrome")
Watch = Callable[..., Any]


def program(*names: str) -> str:
    """Where one of these programs is; a test never passes because it is missing."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"{names[0]} is missing: `make tools`, or apt-get install chromium nodejs")
    return found


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS)
    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox; nothing but our own page is opened.
        opened = playwright.chromium.launch(
            executable_path=program(*NAMES), args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def parrot() -> Iterator[Live]:
    """A server that says what it was told, one for the tests of a file."""
    with live(echo()) as found:
        yield found


@pytest.fixture(scope="module")
def slow() -> Iterator[Live]:
    """A server that counts, slowly enough to act while it does."""
    with live(counter()) as found:
        yield found


@pytest.fixture
def screen(browser: Browser) -> Iterator[Watch]:
    """screen(server, ...): the page of a server, open. `faults` are parts of console messages that
    the test brings about; options of a browser context may follow."""
    opened: list[tuple[Screen, tuple[str, ...]]] = []
    contexts: list[BrowserContext] = []

    def open_page(server: Live, *, faults: tuple[str, ...] = (), **options: Any) -> Screen:
        options = {"viewport": {"width": 1280, "height": 860}, "accept_downloads": True} | options
        contexts.append(browser.new_context(**options))
        found = Screen(contexts[-1], server.url)
        opened.append((found, faults))
        found.open()
        return found

    yield open_page
    for found, faults in opened:
        found.check(faults)
    for context in contexts:
        context.close()
