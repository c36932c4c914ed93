"""What the browser keeps: over reloads, in the middle of a reply too; names, files, tabs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.server.live import Live
from tests.server.page.screen import SECONDS, Screen

COUNT = " ".join(str(i) for i in range(1, 400))


def reply_up_to(page: Screen, text: str) -> None:
    page.send("count", wait=False)
    expect(page.turn(1)).to_contain_text(text, timeout=SECONDS)


def test_a_reload_in_the_middle_of_a_reply_keeps_what_came(slow: Live, screen: Any) -> None:
    page = screen(slow)
    reply_up_to(page, "15 16")
    page.page.reload()
    page.ready()
    assert slow.idle()
    said = page.text(1).strip()
    assert "15 16" in said
    assert COUNT.startswith(said)
    expect(page.turn(1)).to_contain_text("Interrupted. What had come was kept.")
    assert page.kept()[0]["turns"][1]["status"] == "interrupted"
    page.set("Longest reply", "20")
    page.button("Go on").click()
    page.quiet()
    grown = page.text(1).strip()
    assert len(grown) > len(said)
    assert COUNT.startswith(grown)
    assert page.kept()[0]["turns"][1]["status"] == "done"


def test_a_reload_at_once_keeps_what_was_sent(slow: Live, screen: Any) -> None:
    page = screen(slow)
    page.send("count", wait=False)
    page.page.reload()
    page.ready()
    assert page.turn(0).locator(".body").inner_text() == "count"
    expect(page.button("Ask again", page.turn(1).locator(".note"))).to_be_visible()


def test_a_reload_before_the_database_answers_keeps_the_last_change(
    parrot: Live, screen: Any
) -> None:
    page = screen(parrot)
    page.send("one")
    page.press("Edit", 0)
    page.page.get_by_role("textbox", name="Edit you").fill("other")
    page.button("Send", page.turn(0)).click()
    page.expect_texts("other", "other")
    page.quiet()
    # From here on nothing is written any more, and nobody says so.
    page.page.evaluate("IDBObjectStore.prototype.put = () => new EventTarget()")
    page.press("Previous version", 0)
    page.expect_texts("one", "one")
    page.page.reload()
    page.ready()
    page.expect_texts("one", "one")
    page.page.reload()
    page.ready()
    page.expect_texts("one", "one")


def test_a_tab_that_dies_loses_half_a_second_at_most(slow: Live, screen: Any) -> None:
    page = screen(slow)
    reply_up_to(page, "20 21")
    page.page.wait_for_timeout(600)
    # No pagehide comes: the tab is gone as in a crash.
    page.page.evaluate(
        "window.addEventListener('pagehide', (e) => e.stopImmediatePropagation(), true)"
    )
    page.page.close(run_before_unload=False)
    page.page = page.context.new_page()
    page.open()
    page.page.get_by_role("link", name="count").click()
    said = page.text(1).strip()
    assert "20 21" in said
    assert COUNT.startswith(said)
    expect(page.turn(1)).to_contain_text("Interrupted", timeout=SECONDS)


def test_another_tab_sees_a_reply_grow(slow: Live, screen: Any) -> None:
    page = screen(slow)
    reply_up_to(page, "1 2")
    with page.context.expect_page() as opened:
        page.page.evaluate("window.open(location.href)")
    other: Page = opened.value
    expect(other.get_by_role("article").nth(1)).to_contain_text("30 31", timeout=SECONDS)
    expect(other.get_by_role("article").nth(1)).to_contain_text("Being written in another tab.")
    page.button("Stop").click()
    page.quiet()
    expect(other.get_by_role("article").nth(1)).to_contain_text("Stopped.", timeout=SECONDS)


def test_several_conversations_names_and_deletion(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    nav = page.page.get_by_role("navigation", name="Conversations")
    for text in ("first talk", "second talk"):
        page.button("New conversation", nav).click()
        page.send(text)
    links = nav.get_by_role("list").get_by_role("link")
    expect(links).to_have_text(["second talk", "first talk"])
    links.nth(1).click()
    page.expect_texts("first talk", "first talk")
    page.page.go_back()
    page.expect_texts("second talk", "second talk")
    links.nth(1).hover()
    page.button("Rename first talk").click()
    field = page.page.get_by_role("textbox", name="Name of the conversation")
    field.fill("Named <b>by me</b>")
    field.press("Enter")
    expect(links.nth(1)).to_have_text("Named <b>by me</b>")
    links.nth(0).hover()
    page.button("Delete second talk").click()
    expect(links).to_have_text(["Named <b>by me</b>"])
    expect(page.turns).to_have_count(0)
    page.button("Undo").click()
    expect(links).to_have_text(["second talk", "Named <b>by me</b>"])
    page.expect_texts("second talk", "second talk")
    links.nth(0).hover()
    page.button("Delete second talk").click()
    page.page.reload()
    page.ready()
    expect(links).to_have_text(["Named <b>by me</b>"])


def test_settings_belong_to_a_conversation(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.set("Temperature", "0.25")
    page.send("first")
    page.button("New conversation").first.click()
    temperature = page.settings().get_by_role("textbox", name="Temperature")
    expect(temperature).to_have_value("")
    page.page.get_by_role("link", name="first").click()
    expect(temperature).to_have_value("0.25")
    page.button("Reset all").click()
    expect(temperature).to_have_value("")


def test_export_and_import_are_a_round_trip(parrot: Live, screen: Any, tmp_path: Path) -> None:
    page = screen(parrot)
    page.set("System prompt", "Be kind.")
    page.send("one")
    page.press("Ask again", 1)
    page.quiet()
    page.send("**two**")
    with page.page.expect_download() as download:
        page.button("Export all").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    before = page.kept()
    assert json.loads(file.read_text())["conversations"] == before

    other = screen(parrot)
    other.page.get_by_label("File to import").set_input_files(file)
    expect(other.page.get_by_text("1 conversation imported")).to_be_visible()
    other.page.get_by_role("link", name="one").click()
    other.expect_texts("one", "one", "**two**", "two")
    expect(other.settings().get_by_role("textbox", name="System prompt")).to_have_value("Be kind.")
    other.page.wait_for_timeout(600)
    assert other.kept() == before
    other.page.get_by_label("File to import").set_input_files(file)
    expect(
        other.page.get_by_role("navigation").get_by_role("list").get_by_role("link")
    ).to_have_count(2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "The file is no JSON."),
        ('{"format": "other"}', 'its "format" is not "qwell-conversations"'),
        (
            '{"format":"qwell-conversations","version":1,"conversations":[{"id":"<img src=x>"}]}',
            "conversations[0].id",
        ),
    ],
)
def test_a_hostile_import_is_refused_with_a_line(
    parrot: Live, screen: Any, text: str, why: str, tmp_path: Path
) -> None:
    page = screen(parrot)
    (tmp_path / "x.json").write_text(text)
    page.page.get_by_label("File to import").set_input_files(tmp_path / "x.json")
    alert = page.page.get_by_role("alert")
    expect(alert).to_contain_text("Nothing was imported.")
    expect(alert).to_contain_text(why)
    page.button("Close message").click()
    assert page.kept() == []


def test_conversations_are_found_by_what_was_said(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    for i in range(9):
        page.button("New conversation").first.click()
        page.send(f"talk number {i}")
    page.page.get_by_role("searchbox", name="Search conversations").fill("NUMBER 3")
    links = page.page.get_by_role("navigation").get_by_role("list").get_by_role("link")
    expect(links).to_have_text(["talk number 3"])
