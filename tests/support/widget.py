"""The widget on a page, as a person finds it."""

from typing import Any

from playwright.sync_api import Locator, expect

from tests.support.browser import Visit


class Widget:
    """What a test does with ``<parley-chat>``; locators see through its shadow root."""

    def __init__(self, visited: Visit) -> None:
        self.visited = visited
        self.page = visited.page

    def open(self) -> None:
        """Open the page, and the chat by its button."""
        self.visited.open()
        self.launcher.click()
        self.state("live")

    @property
    def launcher(self) -> Locator:
        return self.page.locator("parley-chat .launcher")

    @property
    def panel(self) -> Locator:
        return self.page.locator("parley-chat .panel")

    @property
    def composer(self) -> Locator:
        return self.panel.get_by_label("Message", exact=True)

    @property
    def trouble(self) -> Locator:
        return self.panel.locator(".bar [role=alert]")

    def state(self, state: str) -> None:
        """Wait for the state of the connection."""
        expect(self.panel.locator(".status")).to_have_attribute("data-state", state)

    def say(self, text: str) -> None:
        """Write into the composer and press Return."""
        self.composer.fill(text)
        self.page.keyboard.press("Enter")

    def texts(self) -> list[str]:
        """Return what the log shows, oldest first."""
        found: list[str] = self.page.locator(".log .text, .log .note").all_text_contents()
        return found

    def until(self, text: str) -> None:
        """Wait until the newest message is this one."""
        expect(self.page.locator(".log .text").last).to_have_text(text)

    def unsent(self) -> Locator:
        """What is shown as being on its way."""
        return self.page.locator(".unsent .message")

    def call(self, script: str, argument: Any = None) -> Any:
        """Evaluate a function of the element."""
        return self.page.locator("parley-chat").evaluate(script, argument)

    def focused(self) -> str:
        """Return the name of what has the focus, inside the widget too."""
        name: str = self.page.evaluate(
            """() => {
              let at = document.activeElement;
              while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
              const name = at.labels?.[0]?.textContent.trim() || at.getAttribute("aria-label");
              return name || at.textContent.trim();
            }"""
        )
        return name
