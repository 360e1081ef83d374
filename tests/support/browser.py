"""A real browser for tests: the system's Chromium, driven by Playwright, which downloads none.

A ``Visit`` is one page and all that went wrong in it: a test ends with ``clean``.
"""

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    WebSocketRoute,
    expect,
    sync_playwright,
)

SCHEMES: Final[tuple[tuple[Literal["light", "dark"], list[str] | None], ...]] = (
    ("light", None),
    ("dark", ["color-contrast"]),
)
COMMANDS = ("chromium", "chromium-browser")
WAIT_MS = 30_000
"""How long something may take to be seen; a busy machine takes its time."""
WATCH = """
addEventListener("securitypolicyviolation", ({ violatedDirective: rule, blockedURI: what }) =>
  console.error(`the policy ${rule} refused ${what}`));
globalThis.executed = [];
for (const name of ["alert", "confirm", "prompt", "open"]) globalThis[name] = () => executed.push(name);
globalThis.pwned = () => executed.push("pwned");
"""
"""Runs before anything of the page: what an injected script would call is written down."""
STRANGER = """
if (location.protocol !== "about:" && !sessionStorage.visited) {
  localStorage.clear();
  sessionStorage.visited = "yes";
}
"""
"""Runs once in a tab, before anything of the page: nothing is left of whom the tab before it was."""


def chromium() -> str | None:
    """Return the path of the system's Chromium, if there is one."""
    return next(filter(None, map(shutil.which, COMMANDS)), None)


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a headless browser until the block ends. Within it no event loop can run in this thread."""
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page as a person without history opens it.

    Attributes:
        friends: other hosts, with ports, that it may ask.
        forgiven: what a message of the browser may hold without counting as wrong.
    """

    context: BrowserContext
    page: Page
    url: str
    friends: tuple[str, ...] = ()
    wrong: list[str] = field(default_factory=list)
    forgiven: str | tuple[str, ...] = ()

    def clean(self) -> None:
        """Assert that nothing was injected, refused by the policy, asked of others, or said as an error."""
        assert self.wrong == []
        assert self.page.evaluate("executed") == []

    def _on_console(self, message: ConsoleMessage) -> None:
        forgiven = (self.forgiven,) if isinstance(self.forgiven, str) else self.forgiven
        lost = (*forgiven, "Failed to load resource: net::") if forgiven else ()
        if message.type in ("error", "warning") and not any(text in message.text for text in lost):
            self.wrong.append(message.text)

    def _on_request(self, url: str) -> None:
        if urlsplit(url).netloc not in {urlsplit(self.url).netloc, *self.friends}:
            self.wrong.append(f"asked for {url}")

    def open(self) -> None:
        """Open the page, as far as its address is reached."""
        self.page.goto(self.url)

    def state(self, state: str) -> None:
        """Wait for the state of the connection."""
        self.page.wait_for_selector(f"#connection[data-state={state}]")

    def say(self, text: str) -> None:
        """Write into the composer and press Return."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def messages(self) -> list[str]:
        """Return what the log shows, oldest first."""
        found: list[str] = self.page.locator("#log .text, #log .note").all_inner_texts()
        return found

    def until(self, text: str) -> None:
        """Wait until the newest message is this one."""
        newest = "(text) => [...document.querySelectorAll('#log .text')].at(-1)?.textContent === text"
        self.page.wait_for_function(newest, arg=text)


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong in a page as it is now, light and dark.

    That includes contrasts that it cannot judge. The dark page is judged by its contrasts alone: nothing else
    differs.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found = []
    for scheme, rules in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found += [f"{scheme}: {wrong}" for wrong in _violations(page, rules)]
    return found


def _violations(page: Page, rules: list[str] | None) -> list[str]:
    told = {"resultTypes": ["violations", "incomplete"], **({"runOnly": rules} if rules else {})}
    report = page.evaluate("(told) => axe.run(told)", told)
    found = [
        f"{rule['id']}: {[node['html'][:120] for node in rule['nodes']]}" for rule in report["violations"]
    ]
    contrasts = [rule["nodes"] for rule in report["incomplete"] if rule["id"] == "color-contrast"]
    for node in itertools.chain(*contrasts):
        if node["any"][0]["data"]["messageKey"] != "nonBmp":  # the frame log's arrows stand beside words
            found.append(f"undecided contrast: {node['html'][:120]}: {node['any'][0]['message']}")
    return found


@contextlib.contextmanager
def context_of(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """Have a browser context; ``options`` are Playwright's."""
    with contextlib.closing(browser.new_context(**{"locale": "en-GB", **options})) as context:
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(WATCH)
        yield context


@contextlib.contextmanager
def tab(context: BrowserContext, url: str, friends: tuple[str, ...] = ()) -> Iterator[Visit]:
    """Have a page that is about to open ``url``, as somebody whom the browser does not know yet."""
    page = context.new_page()
    page.add_init_script(STRANGER)
    visited = Visit(context, page, url, friends)
    page.on("console", visited._on_console)
    page.on("pageerror", lambda error: visited.wrong.append(str(error)))
    page.on("request", lambda request: visited._on_request(request.url))
    yield visited
    page.close()


@contextlib.contextmanager
def visit(browser: Browser, url: str, friends: tuple[str, ...] = (), **options: Any) -> Iterator[Visit]:
    """Have a page, in a context of its own, that is about to open ``url``."""
    with context_of(browser, **options) as context, tab(context, url, friends) as visited:
        yield visited


VISITOR: Final = {"user_id": "v1", "tenant_id": "t1", "role": "visitor", "scopes": [], "tier": "standard"}


class Script:
    """The server's side of a page's sockets, played by the test; HTTP goes to the real server.

    ``hello`` is answered by ``welcome``, everything else is only written down, or given to ``on_frame``.
    """

    def __init__(self, page: Page, *, offset: int = 0, recovered: bool = True) -> None:
        self.frames: list[dict[str, Any]] = []
        self.sockets: list[WebSocketRoute] = []
        self.on_frame: Callable[[dict[str, Any]], None] = lambda frame: None
        self.greets = True
        self.recovered = recovered
        self.offset = offset
        self.conversation_id = ""
        self._ids = itertools.count(1)
        self._page = page
        page.route_web_socket("**/v1/ws", self._on_socket)

    def _on_socket(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        socket.on_message(lambda text: self._on_text(text))

    def _on_text(self, text: str | bytes) -> None:
        frame = json.loads(text)
        self.frames.append(frame)
        if frame["type"] == "hello" and self.greets:
            self.conversation_id = frame["conversation_id"]
            self.send(
                "welcome",
                id=frame["id"],
                epoch="e1" if self.offset else None,
                offset=self.offset,
                recovered=self.recovered,
                principal=VISITOR,
                ping_interval=25,
                limits={},
            )
        self.on_frame(frame)

    def send(self, type_: str, **fields: Any) -> None:
        """Send a frame to the page."""
        frame = {"type": type_, "conversation_id": self.conversation_id, **fields}
        self.sockets[-1].send(json.dumps(frame))

    def ack(self, command: dict[str, Any], *, status: str, **fields: Any) -> None:
        """Acknowledge a command."""
        told = {"duplicate": False, "execution_id": "x1", "epoch": "e1", "offset": self.offset}
        key = command["idempotency_key"]
        self.send(
            "ack", id=command["id"], command_id=key, status=status, **{**told, "result": None, **fields}
        )

    def events(self, *events: tuple[str, dict[str, Any]], key: str | None = None) -> None:
        """Send a commit of these events, which are next."""
        first = self.offset + 1
        self.offset += len(events)
        common = {"time": "2026-01-01T00:00:00.000Z", "execution_id": "x1", "step_id": "ask", "cause": None}
        told = [
            {"type": kind, "offset": first + number, "command_id": key, "data": data, **common}
            for number, (kind, data) in enumerate(events)
        ]
        self.send("events", epoch="e1", **{"from": first, "to": self.offset}, events=told)

    def message(self, text: str | None, role: str = "assistant", **fields: Any) -> dict[str, Any]:
        """Return a message record."""
        return {
            "message_id": f"m{next(self._ids)}",
            "role": role,
            "type": "text",
            "text": text,
            "payload": None,
            "buttons": [],
            "metadata": {},
            "user_id": None,
            "time": "2026-01-01T00:00:00.000Z",
            "offset": self.offset + 1,
            **fields,
        }

    def desk_types(self, dots: Locator) -> None:
        """Have somebody type, until they have said something and until they are heard of no more.

        Each time ``dots`` are seen so long, and no longer. The page's clock has to be installed.
        """
        self.send("typing", user_id="desk", typing=True)
        expect(dots).to_be_visible()
        self.events(("message.completed", self.message("Yes?", "agent", user_id="desk")))
        expect(dots).to_be_hidden()
        self.send("typing", user_id="desk", typing=True)
        expect(dots).to_be_visible()
        self._page.clock.fast_forward(7_000)
        expect(dots).to_be_hidden()

    def next(self, type_: str) -> dict[str, Any]:
        """Wait for the page's next frame of this type, and take it."""
        for _ in range(3000):
            for frame in self.frames:
                if frame["type"] == type_:
                    self.frames.remove(frame)
                    return frame
            self._page.wait_for_timeout(5)  # lets the browser's messages in
        raise AssertionError(f"no {type_} in {self.frames}")


def pending(kind: str, **fields: Any) -> dict[str, Any]:
    """Return a pending request's record."""
    return {
        "pending_id": "p1",
        "kind": kind,
        "step_id": "ask",
        "title": None,
        "prompt": None,
        "questions": [],
        "editable": [],
        "by": None,
        "votes": [],
        "digest": None,
        "deadline": None,
        "created_at": "2026-01-01T00:00:00.000Z",
        "decided": None,
        **fields,
    }
