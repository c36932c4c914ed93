"""Tool calls: shown, answered by hand, gone on with, changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.server.live import Live, live
from tests.server.page.talkers import talker, weatherman


@pytest.fixture(scope="module")
def caller() -> Iterator[Live]:
    with live(weatherman()) as found:
        yield found


def with_tool(page: Any) -> None:
    page.button("Put in an example", page.settings()).first.click()
    expect(page.settings().get_by_label("Use", exact=True)).to_be_visible()


def test_a_call_is_shown_answered_and_gone_on_with(caller: Live, screen: Any) -> None:
    page = screen(caller)
    with_tool(page)
    page.send("the weather in Oslo?")
    call = page.page.get_by_role("region", name="Call of get_weather")
    expect(call).to_contain_text('"city": "Oslo"')
    expect(page.turn(1)).to_contain_text("Let me look.")
    page.page.get_by_role("textbox", name="Result of get_weather").fill('{"celsius": 7}')
    page.button("Send result").click()
    result = page.page.get_by_role("region", name="Result of get_weather")
    expect(result).to_contain_text('"celsius": 7')
    page.quiet()
    expect(page.turn(3).locator(".body")).to_have_text('It says {"celsius": 7}.')
    expect(page.page.get_by_role("textbox", name="Result of get_weather")).to_have_count(0)
    sent = page.sent()["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]
    assert sent[1]["tool_calls"][0]["function"] == {
        "name": "get_weather",
        "arguments": '{"city": "Oslo"}',
    }


def test_several_calls_are_answered_together_and_one_result_is_changed(
    caller: Live, screen: Any
) -> None:
    page = screen(caller)
    with_tool(page)
    page.send("the weather in Oslo and Bergen?")
    fields = page.page.get_by_role("textbox", name="Result of get_weather")
    expect(fields).to_have_count(2)
    fields.nth(0).fill("cold")
    fields.nth(1).fill("wet")
    fields.nth(1).press("Control+Enter")
    page.quiet()
    expect(page.turn(4).locator(".body")).to_have_text("It says wet.")
    page.press("Edit", 2)
    page.page.get_by_role("textbox", name="Edit tool result").fill("warm")
    page.button("Send", page.turn(2)).click()
    page.quiet()
    contents = [message["content"] for message in page.sent()["messages"][2:]]
    assert contents == ["warm", "wet"]
    expect(page.turn(4).locator(".body")).to_have_text("It says wet.")


def test_a_reload_keeps_an_open_call(caller: Live, screen: Any) -> None:
    page = screen(caller)
    with_tool(page)
    page.send("the weather in Oslo?")
    page.page.reload()
    page.ready()
    page.page.get_by_role("textbox", name="Result of get_weather").fill("fine")
    page.button("Send result").click()
    page.quiet()
    expect(page.turn(3).locator(".body")).to_have_text("It says fine.")


def test_the_choice_of_tools_is_sent(caller: Live, screen: Any) -> None:
    page = screen(caller)
    with_tool(page)
    use = page.settings().get_by_label("Use", exact=True)
    use.select_option(label="Always get_weather")
    page.settings().get_by_label("Several calls in one reply").uncheck()
    page.set("Longest reply", "5")
    page.send("hi")
    body = page.sent()
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert body["parallel_tool_calls"] is False
    use.select_option(label="Never")
    page.send("hi")
    assert page.sent()["tool_choice"] == "none"


def test_a_broken_call_is_text_with_a_note(screen: Any) -> None:
    with live(talker(lambda _, __: '<tool_call>\n{"name": "get_weather", oops')) as server:
        page = screen(server)
        with_tool(page)
        page.send("hi")
        expect(page.turn(1).locator(".body")).to_contain_text('{"name": "get_weather", oops')
        expect(page.turn(1)).to_contain_text("began a tool call that is none")
