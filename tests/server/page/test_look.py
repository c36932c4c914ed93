"""Colours, phones, keyboards and screen readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.server.live import Live, live
from tests.server.page.screen import SECONDS, Screen
from tests.server.page.talkers import counter

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
WIDE = (
    "```\n" + "x" * 300 + "\n```\n\n|" + "a wide cell|" * 12 + "\n|" + "-|" * 12 + "\n" + "y" * 200
)


def paper(page: Screen) -> list[int]:
    colour: str = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def test_colours_follow_the_system_and_the_switch(parrot: Live, screen: Any) -> None:
    page = screen(parrot, color_scheme="dark")
    assert max(paper(page)) < 60
    page.page.emulate_media(color_scheme="light")
    assert min(paper(page)) > 200
    page.button("Colours: as the system").click()
    page.button("Colours: light").click()
    assert max(paper(page)) < 60
    page.page.reload()
    page.ready()
    assert max(paper(page)) < 60
    page.button("Colours: dark").click()
    assert min(paper(page)) > 200


CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
EVERYTHING = (
    "# T\n\ntext `code` [l](https://x.example) ~~d~~\n\n> quote\n\n- [x] a\n\n"
    '```python\ndef f(x):  # c\n    return "s", 1\n```\n\n|a|b|\n|-|-|\n|1|2|'
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(parrot: Live, screen: Any, scheme: str) -> None:
    page = screen(parrot, color_scheme=scheme)
    assert page.page.evaluate(CONTRAST) == []
    page.set("Temperature", "9")
    page.set("System prompt", "s")
    page.send(EVERYTHING)
    page.set("Temperature", "")
    page.send(EVERYTHING)
    page.press("Details", 1)
    assert page.page.evaluate(CONTRAST) == []


def test_a_phone_scrolls_nothing_sideways(parrot: Live, screen: Any) -> None:
    page = screen(parrot, **PHONE)

    def is_narrow() -> bool:
        widths = page.page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
        return bool(widths == [360, 360])

    assert is_narrow()
    page.box.fill(WIDE)
    page.button("Send").tap()
    page.quiet()
    expect(page.turns).to_have_count(2)
    page.button("Details", page.turn(1)).tap()
    assert is_narrow()
    page.button("Settings").tap()
    expect(page.page.get_by_role("complementary")).to_be_visible()
    assert is_narrow()
    page.button("Hide settings").tap()
    page.button("Conversations").tap()
    nav = page.page.get_by_role("navigation", name="Conversations")
    expect(nav).to_be_visible()
    assert is_narrow()
    page.button("New conversation", nav).tap()
    expect(nav).to_be_hidden()
    expect(page.turns).to_have_count(0)
    for name in ("Conversations", "Settings", "Send"):
        box = page.button(name).bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 36
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


def test_the_first_view_begins_with_its_heading(parrot: Live, screen: Any) -> None:
    """Where it is longer than the window too, first and after a conversation that was read down."""
    page = screen(parrot, viewport={"width": 360, "height": 480})
    heading = page.page.get_by_role("heading", name="What shall we work on?")
    expect(heading).to_be_in_viewport()
    page.send("line\n\n" * 60)
    expect(page.turn(1)).to_be_in_viewport()
    page.button("Conversations").click()
    page.button("New conversation").click()
    expect(heading).to_be_in_viewport()


def test_a_turned_tablet_keeps_its_page_within_reach(parrot: Live, screen: Any) -> None:
    """Both sides close where they would cover the page; a drawer's shade goes with the drawer."""
    page = screen(parrot)
    page.settings()
    page.page.set_viewport_size({"width": 800, "height": 1200})
    expect(page.page.locator("#list")).to_be_hidden()
    expect(page.page.locator("#panel")).to_be_hidden()
    page.send("in reach when narrow")
    page.settings()
    page.page.set_viewport_size({"width": 1200, "height": 800})
    expect(page.page.locator("#shade")).to_be_hidden()
    page.button("Hide settings").click()
    page.send("and when wide")
    assert page.turns.count() == 4


def test_enter_on_a_phone_is_a_new_line(parrot: Live, screen: Any) -> None:
    page = screen(parrot, **PHONE)
    page.box.fill("a")
    page.box.press("Enter")
    assert page.box.input_value() == "a\n"
    assert page.turns.count() == 0


def test_everything_by_keyboard(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    keys = page.page.keyboard
    expect(page.box).to_be_focused()
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("more")
    keys.press("Enter")
    page.quiet()
    page.expect_texts("one\nmore", "one\nmore")
    expect(page.box).to_be_focused()
    keys.press("ArrowUp")  # the last message of the user
    expect(page.page.get_by_role("textbox", name="Edit you")).to_be_focused()
    keys.press("Control+a")
    keys.type("two")
    keys.press("Control+Enter")
    page.quiet()
    page.expect_texts("two", "two")
    keys.press("Alt+ArrowUp")
    keys.press("Alt+ArrowUp")
    expect(page.turn(0)).to_be_focused()
    keys.press("[")
    page.expect_texts("one\nmore", "one\nmore")
    expect(page.turn(0)).to_be_focused()
    keys.press("]")
    page.expect_texts("two", "two")
    keys.press("Alt+ArrowDown")
    keys.press("r")
    page.quiet()
    expect(page.turn(1).get_by_role("group", name="Versions")).to_have_text("2 / 2")
    keys.press("/")
    expect(page.box).to_be_focused()
    keys.press("Control+.")
    expect(page.button("Hide settings")).to_be_focused()
    keys.press("Control+.")
    expect(page.button("Settings")).to_be_focused()
    keys.press("Control+b")
    expect(page.button("Conversations")).to_be_focused()
    keys.press("?")
    dialog = page.page.get_by_role("dialog", name="Shortcuts")
    expect(dialog).to_contain_text("Shift + Enter")
    keys.press("Escape")
    expect(dialog).to_be_hidden()
    keys.press("Control+Shift+O")
    expect(page.turns).to_have_count(0)
    expect(page.box).to_be_focused()


def test_tab_goes_through_all_controls_in_their_order(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.send("hi")
    page.page.locator("#skip").focus()
    seen: list[str] = []
    for _ in range(40):
        name = page.page.evaluate(
            "document.activeElement === document.body ? '' : (document.activeElement.ariaLabel"
            " || document.activeElement.textContent).trim()"
        )
        if not name or name in seen[:1]:
            break
        seen.append(name)
        page.page.keyboard.press("Tab")
    order = ["Go to the message box", "qwell, new conversation", "Hide conversations"]
    assert seen[:3] == order
    rest = ["New conversation", "hi", "Import", "Shortcuts", "Settings", "Ask again", "Details"]
    places = [seen.index(name) for name in rest]
    assert places == sorted(places)
    assert seen.index("Message") > seen.index("Details")


def test_the_way_back_to_the_end(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.send("short")
    page.button("New conversation").first.click()
    page.send("\n\n".join(f"line {i}" for i in range(60)))
    jump = page.button("Go to the end")
    expect(jump).to_be_hidden()
    up = "document.querySelector('#scroller').scrollTop = 0"
    page.page.evaluate(up)
    jump.click()
    expect(jump).to_be_hidden()
    expect(page.turn(1).get_by_text("line 59")).to_be_in_viewport()
    page.page.evaluate(up)
    expect(jump).to_be_visible()
    page.page.get_by_role("link", name="short").click()
    expect(jump).to_be_hidden()


def test_escape_stops(screen: Any) -> None:
    with live(counter()) as server:
        page = screen(server)
        page.send("count", wait=False)
        expect(page.turn(1)).to_contain_text("1 2", timeout=SECONDS)
        page.page.keyboard.press("Escape")
        page.quiet()
        expect(page.turn(1)).to_contain_text("Stopped.")
        assert server.idle()


UNNAMED = """() => [...document.querySelectorAll("button, input, textarea, select, a[href]")]
  .filter((one) => one.checkVisibility() && !one.closest("[inert]"))
  .filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent.trim()))
  .map((one) => one.outerHTML.slice(0, 120))"""


def test_landmarks_names_and_headings(parrot: Live, screen: Any) -> None:
    page = screen(parrot)
    page.send("hi")
    page.press("Details", 1)
    page.settings()
    for role in ("main", "navigation", "complementary"):
        expect(page.page.get_by_role(role)).to_have_count(1)
    assert page.page.evaluate(UNNAMED) == []
    ids = page.page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    expect(page.page.get_by_role("heading", level=1)).to_have_count(1)
    names = [page.turn(i).get_by_role("heading", level=2).inner_text() for i in (0, 1)]
    assert names == ["You, message 1", "Reply, message 2"]
    expect(page.page.get_by_role("article", name="Reply, message 2")).to_be_visible()


def test_a_screen_reader_hears_beginning_and_end_not_every_token(screen: Any) -> None:
    with live(counter(0.002, 120)) as server:
        page = screen(server)
        page.page.evaluate(
            """() => {
              window.heard = [];
              const place = document.querySelector("#announcer");
              new MutationObserver(() => place.textContent && window.heard.push(place.textContent))
                .observe(place, { childList: true, characterData: true, subtree: true });
            }"""
        )
        live_regions = "[aria-live=polite], [aria-live=assertive], [role=log], [role=alert]"
        page.send("count")
        page.until("window.heard.length >= 2")
        heard = page.page.evaluate("window.heard")
        assert heard[0] == "The reply is being written"
        assert heard[1].startswith("The reply is complete. 1 2 3")
        assert len(heard) == 2
        assert (
            page.page.evaluate(f"document.querySelector('#turns').closest('{live_regions}')")
            is None
        )


def test_less_motion_for_who_asks(parrot: Live, screen: Any) -> None:
    page = screen(parrot, reduced_motion="reduce")
    page.button("Shortcuts").click()
    page.button("Close").click()
    page.button("Export all").click()
    length = page.page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('.toast')).animationDuration)"
    )
    assert length < 0.01


def test_code_is_copied(parrot: Live, screen: Any) -> None:
    page = screen(parrot, permissions=["clipboard-read", "clipboard-write"])
    page.send("```py\nx = '<b>'\n```")
    page.button("Copy code", page.turn(1)).click()
    page.page.wait_for_timeout(100)
    assert page.page.evaluate("navigator.clipboard.readText()") == "x = '<b>'"
