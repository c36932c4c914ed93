"""Sending, streaming, stopping, asking again, editing, branching: in a real browser."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import expect

from tests.server.live import Live
from tests.server.page.screen import SECONDS


def test_a_message_is_sent_and_the_reply_streams(slow: Live, screen: Any) -> None:
    page = screen(slow)
    page.send("count", wait=False)
    reply = page.turn(1).locator(".body")
    expect(reply).to_contain_text("1 2 3", timeout=SECONDS)
    assert page.button("Stop").is_visible()
    before = len(reply.inner_text())
    expect(page.turn(1).locator(".meta")).to_contain_text("tokens/s", timeout=SECONDS)
    assert len(reply.inner_text()) > before
    page.button("Stop").click()
    page.quiet()


def test_counts_and_speed_and_what_the_server_did(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.set("Seed", "9007199254740993")
    page.send("hello there")
    page.expect_texts("hello there", "hello there")
    meta = page.turn(1).locator(".meta").inner_text()
    usage = parrot.chat("hello there").json()["usage"]
    assert f"{usage['completion_tokens']} tokens" in meta
    assert f"prompt {usage['prompt_tokens']}" in meta
    assert "tokens/s" in meta
    assert "first after" in meta
    filled = f"{usage['total_tokens']} of 16,384 tokens of context used."
    expect(page.page.locator("#fine")).to_contain_text(filled)
    page.press("Details", 1)
    details = page.turn(1).locator(".details")
    expect(details).to_contain_text("System prompt fromtemplate default")
    expect(details).to_contain_text("sha256:")
    expect(details.get_by_role("row", name="seed 9007199254740993 request")).to_be_visible()
    page.press("Details", 1)
    expect(details).to_have_count(0)


def test_stop_keeps_what_came_and_it_can_be_gone_on_with(slow: Live, screen: Any) -> None:
    page = screen(slow)
    page.send("count", wait=False)
    expect(page.turn(1)).to_contain_text("10 11", timeout=SECONDS)
    page.page.keyboard.press("Escape")
    page.quiet()
    assert slow.idle()
    expect(page.turn(1)).to_contain_text("Stopped.")
    said = page.text(1)
    page.set("Longest reply", "30")
    page.button("Go on").click()
    page.quiet()
    grown = page.text(1)
    assert grown.startswith(said)
    assert len(grown) > len(said)
    assert " ".join(str(i) for i in range(1, 400)).startswith(grown.strip())
    expect(page.turn(1)).to_contain_text("reached its limit of tokens")
    expect(page.turn(1).locator(".meta")).to_contain_text("30 tokens more")


def test_asking_again_makes_a_version_and_both_stay(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.send("same")
    page.press("Ask again", 1)
    page.quiet()
    expect(page.turn(1).get_by_role("group", name="Versions")).to_have_text("2 / 2")
    [kept] = page.kept()
    assert [turn["role"] for turn in kept["turns"]] == ["user", "assistant", "assistant"]


def test_the_first_turn_is_edited_and_the_branches_switched(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.send("one")
    page.send("two")
    page.expect_texts("one", "one", "two", "two")
    page.press("Edit", 0)
    editor = page.page.get_by_role("textbox", name="Edit you")
    editor.fill("other")
    page.button("Send", page.turn(0)).click()
    page.expect_texts("other", "other")
    page.quiet()
    page.send("three")
    page.expect_texts("other", "other", "three", "three")
    page.press("Previous version", 0)
    page.expect_texts("one", "one", "two", "two")
    page.press("Next version", 0)
    page.expect_texts("other", "other", "three", "three")
    page.page.reload()
    page.ready()
    page.expect_texts("other", "other", "three", "three")


def test_a_reply_is_edited_and_what_follows_builds_on_it(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.send("one")
    page.press("Edit", 1)
    page.page.get_by_role("textbox", name="Edit reply").fill("**mine**")
    page.button("Keep").click()
    page.expect_texts("one", "mine")
    expect(page.turn(1).locator(".meta")).to_contain_text("edited by you")
    page.send("two")
    sent = page.sent()
    assert sent["messages"][1] == {"role": "assistant", "content": "**mine**"}


def test_an_edit_can_be_left(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.send("one")
    page.press("Edit", 0)
    page.page.get_by_role("textbox", name="Edit you").fill("other")
    page.page.keyboard.press("Escape")
    page.expect_texts("one", "one")
    assert len(page.kept()[0]["turns"]) == 2


def test_several_replies_at_once_are_versions(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.set("Replies at once", "3")
    page.send("hi")
    expect(page.turn(1).get_by_role("group", name="Versions")).to_have_text("1 / 3")
    page.press("Next version", 1)
    page.press("Next version", 1)
    expect(page.turn(1).get_by_role("group", name="Versions")).to_have_text("3 / 3")
    page.expect_texts("hi", "hi")


def test_settings_are_sent_and_wrong_ones_are_told(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.set("System prompt", "Be brief.")
    page.set("Temperature", "9")
    expect(page.settings()).to_contain_text("Temperature: give a number from 0 to 2")
    page.send("hi")
    expect(page.page.get_by_role("alert")).to_contain_text("Temperature")
    assert page.turns.count() == 0
    assert page.box.input_value() == "hi"
    page.set("Temperature", "0.5")
    page.send("hi")
    page.expect_texts("hi", "hi")
    body = page.sent()
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["temperature"] == 0.5
    expect(page.page.locator("#chips")).to_have_text("System promptOwn settings")


def test_likely_tokens_are_shown(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.set("Show likely tokens", "2")
    page.send("hi")
    page.press("Details", 1)
    tokens = page.turn(1).get_by_role("region", name="Tokens by likelihood")
    expect(tokens.locator(".token")).to_have_text(["h", "i", "<|im_end|>"])


def test_a_format_is_kept_and_json_is_shown_readably(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.settings().get_by_label("The reply is").select_option(label="JSON Schema")
    page.button("Put in an example", page.settings().locator("section").nth(4)).click()
    page.set("Longest reply", "60")
    page.send('{"name": "Ada", "age": 36}')
    expect(page.turn(1).get_by_role("figure")).to_contain_text('"name": "Ada"')
    assert page.text(1).count("\n") >= 4
    expect(page.page.locator("#chips")).to_contain_text("JSON Schema")
    page.set("JSON Schema", "{")
    expect(page.settings()).to_contain_text("this is no JSON")


def test_a_conversation_can_be_left_while_its_reply_is_written(slow: Live, screen: Any) -> None:
    page = screen(slow)
    page.send("count", wait=False)
    expect(page.turn(1)).to_contain_text("1 2", timeout=SECONDS)
    page.button("New conversation").first.click()
    expect(page.turns).to_have_count(0)
    expect(page.page.get_by_role("img", name="A reply is being written")).to_be_visible()
    page.page.get_by_role("link", name="count").click()
    expect(page.turn(1)).to_contain_text("20 21", timeout=SECONDS)
    page.page.keyboard.press("Escape")
    page.quiet()
