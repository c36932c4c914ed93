"""The page over the official 0.5B: what a user sees first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from qwell.engine.load import load
from tests.server.live import live


@pytest.mark.slow
@pytest.mark.weights
def test_the_official_model(official_gguf: Callable[[str], Path], screen: Any) -> None:
    official_gguf("0.5b")
    with live(load("qwen2.5-coder:0.5b")) as server:
        page = screen(server)
        expect(page.page.locator("#model")).to_have_text("qwen2.5-coder:0.5b · 32,768 tokens")
        page.set("Temperature", "0")
        page.set("Longest reply", "160")
        page.send("Write a Python function that adds two numbers. Code only.")
        expect(page.turn(1).get_by_role("figure")).to_contain_text("def ", timeout=60_000)
        expect(page.turn(1).locator(".code-keyword").first).to_be_visible()
        expect(page.turn(1).locator(".meta")).to_contain_text("tokens/s")
        page.button("Put in an example", page.settings()).first.click()
        page.settings().get_by_label("Use", exact=True).select_option(label="Always get_weather")
        page.settings().get_by_label("Several calls in one reply").uncheck()
        page.send("What is the weather in Oslo?")
        call = page.page.get_by_role("region", name="Call of get_weather")
        expect(call).to_contain_text('"city"', timeout=60_000)
        page.page.get_by_role("textbox", name="Result of get_weather").fill("7 degrees and rain")
        page.settings().get_by_label("Use", exact=True).select_option(label="The model decides")
        page.button("Send result").click()
        page.quiet()
        assert page.text(-1).strip()
