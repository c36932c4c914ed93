"""The page as a person uses it, by the roles and names a screen reader hears."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Locator, Page, Request, expect

SECONDS = 60_000
"""Time for anything that must happen, in ms: other tests may have the cores."""

_HEAR_CSP = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


class Screen:
    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url, self.context = url, context
        self.requests: list[Request] = []
        self.faults: list[str] = []
        context.set_default_timeout(SECONDS)
        context.add_init_script(_HEAR_CSP)
        context.on("request", self._note)
        context.on("console", self._hear)
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        self.page: Page = context.new_page()

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def open(self, path: str = "/") -> None:
        self.page.goto(self.url + path)
        self.ready()

    def ready(self) -> None:
        """The page has its conversations and knows its model, or why not."""
        expect(self.page.locator("body.is-ready")).to_be_attached(timeout=SECONDS)
        expect(self.page.locator("#model")).not_to_have_text("connecting", timeout=SECONDS)

    def check(self, allowed: tuple[str, ...] = ()) -> None:
        """Nobody else was asked, nothing was forbidden, nothing went wrong."""
        ours = urlsplit(self.url).netloc
        for request in self.requests:
            parts = urlsplit(request.url)
            is_local = parts.scheme in ("data", "blob")
            assert is_local or parts.netloc == ours, f"asked {request.url}"
        strange = [text for text in self.faults if not any(part in text for part in allowed)]
        assert not strange, strange
        for page in self.context.pages:
            assert page.evaluate("window.violations") == []

    @property
    def box(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def turns(self) -> Locator:
        return self.page.get_by_role("article")

    def turn(self, number: int) -> Locator:
        """From 0; -1 is the last."""
        return self.turns.last if number == -1 else self.turns.nth(number)

    def button(self, name: str, within: Locator | None = None) -> Locator:
        return (within or self.page).get_by_role("button", name=name, exact=True)

    def press(self, name: str, number: int) -> None:
        """A button of a turn."""
        turn = self.turn(number)
        turn.hover()
        self.button(name, turn).click()

    def send(self, text: str, *, wait: bool = True) -> None:
        self.box.fill(text)
        self.box.press("Enter")
        if wait:
            self.quiet()

    def quiet(self) -> None:
        """No reply is being written."""
        expect(self.button("Send")).to_be_attached(timeout=SECONDS)

    def until(self, expression: str) -> None:
        """Waits for it from out here: inside the page its own rules forbid what polls."""
        for _ in range(20 * SECONDS):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{expression} did not come true")

    def text(self, number: int) -> str:
        return self.turn(number).locator(".body").inner_text()

    def sent(self) -> Any:
        """The body of the last request for a reply."""
        asked = [one for one in self.requests if one.method == "POST"]
        return asked[-1].post_data_json

    def expect_texts(self, *texts: str) -> None:
        """The bodies of all turns."""
        expect(self.turns.locator(".body")).to_have_text(list(texts), timeout=SECONDS)

    def settings(self) -> Locator:
        """The panel, opened."""
        panel = self.page.get_by_role("complementary")
        if not panel.is_visible():
            self.button("Settings").click()
        return panel

    def set(self, label: str, text: str) -> None:
        self.settings().get_by_role("textbox", name=label, exact=True).fill(text)

    def kept(self) -> list[dict[str, Any]]:
        """What the browser's database has."""
        found: list[dict[str, Any]] = self.page.evaluate(
            """() => new Promise((resolve, reject) => {
              const open = indexedDB.open("qwell", 1);
              open.onerror = () => reject(open.error);
              open.onsuccess = () => {
                const all = open.result.transaction("conversations")
                  .objectStore("conversations").getAll();
                all.onsuccess = () => { open.result.close(); resolve(all.result); };
              };
            })"""
        )
        return found
