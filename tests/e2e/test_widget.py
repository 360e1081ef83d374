"""The chat widget in a real browser, on a page of another origin under a strict policy with Trusted Types.

The server is a real ``parley dev``; for what no flow brings about, and what a server must not do, the test
plays the server's side of the socket.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, WebSocketRoute, expect

from tests.e2e.test_page import ECHO, MARKUP, QUESTIONS, REFUND, clean, desk, project, resolved, wire_error
from tests.support.browser import Script, context_of, pending, running_browser, tab, violations, visit
from tests.support.commands import ROOT, Dev, parley
from tests.support.pages import blocks_of
from tests.support.ports import free_port
from tests.support.site import Site
from tests.support.widget import Widget

README_SERVER = "http://127.0.0.1:8765"
README_LINES = next(block.text for block in blocks_of(ROOT / "README.md") if block.language == "html")
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}

pytestmark = pytest.mark.needs("browser")

Opens = Callable[..., Widget]
Scripted = Callable[..., tuple[Widget, Script]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    with context_of(browser) as shared:
        yield shared


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as serving:
        yield serving


def serving(folder: Path, site: Site, port: int = 0) -> Dev:
    """Start a server for the pages of a site."""
    env = {"PARLEY_ORIGINS": site.url, "PARLEY_FRAMES_PER_SECOND": "100000"}
    dev = Dev(folder, port=port, env=env)
    site.server = dev.url
    site.page("", "<parley-chat></parley-chat>")
    return dev


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = project(tmp_path_factory.mktemp("widget"), "faq")
    (made / "flows" / "refund.yaml").write_text(REFUND)
    (made / "flows" / "echo.yaml").write_text(ECHO)
    return made


@pytest.fixture(scope="module")
def faq(folder: Path, site: Site) -> Iterator[Dev]:
    with serving(folder, site) as dev:
        yield dev


@pytest.fixture
def opens(browser: Browser, context: BrowserContext, site: Site) -> Iterator[Opens]:
    """A tab that knows nothing of the one before; with options, in a context of its own. It stays clean."""
    with ExitStack() as stack:
        widgets: list[Widget] = []

        def opened(url: str = "", friends: tuple[str, ...] = (), **options: Any) -> Widget:
            url = url or f"{site.url}/"
            friends = friends or (site.friend(),)
            made = visit(browser, url, friends, **options) if options else tab(context, url, friends)
            widgets.append(Widget(stack.enter_context(made)))
            return widgets[-1]

        yield opened
        for widget in widgets:
            widget.visited.clean()


@pytest.fixture
def scripted(faq: Dev, site: Site, opens: Opens) -> Scripted:
    """A widget whose socket the test plays; it is open and live."""
    site.server = faq.url

    def begin(
        *, offset: int = 0, recovered: bool = True, url: str = "", **options: Any
    ) -> tuple[Widget, Script]:
        widget = opens(url, **options)
        script = Script(widget.page, offset=offset, recovered=recovered)
        widget.open()
        return widget, script

    return begin


@pytest.fixture
def talks(faq: Dev, site: Site, opens: Opens) -> Opens:
    """A widget in front of the real server."""
    site.server = faq.url

    def begin(url: str = "", prepare: Callable[[Page], object] = lambda page: None, **options: Any) -> Widget:
        widget = opens(url, **options)
        prepare(widget.page)
        widget.open()
        return widget

    return begin


# --- journeys -------------------------------------------------------------------------------------


def test_the_two_lines_of_the_readme_are_a_chat(tmp_path: Path, site: Site, opens: Opens) -> None:
    """They alone, in a page that has nothing else, of an origin that the server lets in."""
    with serving(project(tmp_path, "booking"), site) as dev:
        lines = README_LINES.replace(README_SERVER, dev.url)
        assert len(lines.splitlines()) == 2
        widget = opens(site.file("first", lines.encode(), "text/html"))
        widget.open()
        widget.say("I need a checkup")
        widget.until("Which day?")


def test_an_appointment_is_booked_with_the_mouse(tmp_path: Path, site: Site, opens: Opens) -> None:
    folder = project(tmp_path, "booking")
    with serving(folder, site) as dev:
        widget = opens()
        widget.open()
        panel, send = widget.panel, widget.panel.get_by_role("button", name="Send")
        widget.composer.fill("hello")
        send.click()
        panel.get_by_role("button", name="Book", exact=True).click()
        panel.get_by_role("button", name="checkup", exact=True).click()
        widget.until("Which day?")
        assert widget.texts()[-3:] == ["Which service?", "checkup", "Which day?"]
        for words, answer in (("next Wednesday", "Your email?"), ("ada@example.org", None)):
            widget.composer.fill(words)
            send.click()
            if answer:
                widget.until(answer)
        form = panel.get_by_role("form", name="Some questions")
        form.get_by_role("radio", name="afternoon").click()
        form.get_by_role("button", name="Answer").click()
        expect(panel.get_by_text("Somebody else decides now.")).to_be_visible()
        expect(form).to_have_count(0)
        panel.get_by_role("button", name="Close the chat").click()
        desk(dev, folder)
        expect(widget.launcher).to_have_accessible_name("Open the chat, 1 unread")
        widget.launcher.click()
        expect(panel).to_contain_text("Your confirmation number is")
        expect(widget.launcher).to_have_accessible_name("Close the chat")


def test_an_appointment_is_booked_with_the_keyboard_alone(tmp_path: Path, site: Site, opens: Opens) -> None:
    folder = project(tmp_path, "booking")
    with serving(folder, site):
        widget = opens()
        widget.visited.open()
        keys = widget.page.keyboard

        def back_to(name: str) -> None:
            seen: list[str] = []
            while name not in seen and len(seen) < 12:
                keys.press("Shift+Tab")
                seen.append(widget.focused())
            assert seen[-1] == name, seen

        keys.press("Tab")
        keys.press("Tab")
        assert widget.focused() == "Open the chat"
        keys.press("Enter")
        widget.state("live")
        assert widget.focused() == "Message"
        keys.type("hello")
        keys.press("Enter")
        for button, answer in (("Book", "Which service?"), ("checkup", "Which day?")):
            widget.panel.get_by_role("button", name=button, exact=True).wait_for()
            back_to(button)
            keys.press("Enter")
            widget.until(answer)
            assert widget.focused() == "Message"
        keys.type("one")
        keys.press("Shift+Enter")
        keys.type("two")
        assert widget.composer.input_value() == "one\ntwo"
        keys.press("Control+a")
        keys.type("next Wednesday")
        keys.press("Enter")
        widget.until("Your email?")
        keys.type("ada@example.org")
        keys.press("Enter")
        form = widget.panel.get_by_role("form", name="Some questions")
        form.wait_for()
        back_to("Answer")
        back_to("afternoon")
        keys.press("Space")
        keys.press("Enter")
        expect(widget.panel.get_by_text("Somebody else decides now.")).to_be_visible()
        assert widget.focused() == "Message"
        keys.press("Escape")
        expect(widget.panel).to_be_hidden()
        assert widget.focused() == "Open the chat"


def test_two_tabs_are_one_person_in_one_conversation(talks: Opens) -> None:
    widget = talks()
    other = widget.page.context.new_page()
    other.goto(widget.visited.url)
    other.locator(".launcher").click()
    expect(other.locator(".status")).to_have_attribute("data-state", "live")
    widget.say("phone")
    told = "Call 01 23 45 67 89, Monday to Friday, 9 to 17."
    for page in (widget.page, other):
        expect(page.locator(".log .text").last).to_have_text(told)
    other.get_by_label("Message", exact=True).fill("delivery")
    other.keyboard.press("Enter")
    widget.until("Where do you live?")
    assert widget.texts() == other.locator(".log .text").all_text_contents()
    other.close()


def test_history_is_restored_after_a_reload_without_duplicates(talks: Opens) -> None:
    widget = talks()
    widget.say("delivery")
    widget.until("Where do you live?")
    before = widget.texts()
    for _ in range(2):
        widget.page.reload()
        widget.launcher.click()
        widget.until("Where do you live?")
        assert widget.texts() == before
    widget.panel.get_by_role("button", name="elsewhere").click()
    widget.until("Five to eight working days.")
    expect(widget.unsent()).to_have_count(0)


def test_questions_and_a_decision_of_a_real_flow_are_answered_over_a_reload(talks: Opens) -> None:
    widget = talks()
    for words, answer in (("a refund", "How much?"), ("40", "Your email?"), ("ada@lovelace.org", None)):
        widget.say(words)
        if answer:
            widget.until(answer)
    form = widget.panel.get_by_role("form", name="Some questions")
    form.get_by_role("button", name="Answer").click()
    expect(form.get_by_role("alert")).to_contain_text("how")
    expect(form.get_by_role("radio", name="cash")).to_be_focused()
    widget.page.keyboard.press("ArrowDown")
    form.get_by_role("button", name="Answer").click()
    card = widget.panel.get_by_role("form", name="Pay back 40 euros by card?")
    expect(card.locator(".deadline")).to_contain_text("Open until")
    widget.page.reload()
    widget.launcher.click()
    card.get_by_label("amount").fill("35")
    card.get_by_role("button", name="Accept").click()
    widget.until("Paid 35. We write to ada@lovelace.org.")
    expect(card).to_have_count(0)


# --- what breaks ----------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_comes_back_goes_on_with_what_was_said_meanwhile(
    tmp_path: Path, site: Site, opens: Opens
) -> None:
    folder, port = project(tmp_path, "faq"), free_port()
    with serving(folder, site, port) as dev:
        widget = opens()
        widget.visited.forgiven = "WebSocket connection to"  # what the browser itself says of a refused one
        widget.open()
        widget.say("delivery")
        widget.until("Where do you live?")
        dev.kill()
    widget.state("lost")
    widget.say("France")
    expect(widget.unsent()).to_contain_text("will be sent when the connection is back")
    with serving(folder, site, port):
        widget.until("Two working days, and free above 50 euros.")
        assert [text for text in widget.texts() if text == "France"] == ["France"]
        expect(widget.unsent()).to_have_count(0)
        widget.state("live")


def test_a_message_typed_offline_is_delivered_once(talks: Opens) -> None:
    lines: list[Line] = []
    widget = talks(prepare=lambda page: lines.append(Line(page)))
    (line,) = lines
    widget.visited.forgiven = "net::ERR_INTERNET_DISCONNECTED"
    widget.say("delivery")
    widget.until("Where do you live?")
    line.cut()
    widget.state("offline")
    widget.say("France")
    expect(widget.unsent()).to_contain_text("will be sent when the connection is back")
    line.mend()
    widget.until("Two working days, and free above 50 euros.")
    assert widget.texts().count("France") == 1
    expect(widget.unsent()).to_have_count(0)


class Line:
    """The way between a page and its server. Chromium's own switch leaves open sockets as they are."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._cut = False
        self._sockets: list[WebSocketRoute] = []
        page.route_web_socket("**/v1/ws", self._on_socket)

    def _on_socket(self, socket: WebSocketRoute) -> None:
        if self._cut:
            socket.close(code=4000)
            return
        socket.connect_to_server()
        self._sockets.append(socket)

    def cut(self) -> None:
        self._cut = True
        self._page.context.set_offline(True)
        for socket in self._sockets:
            socket.close(code=4000)

    def mend(self) -> None:
        self._cut = False
        self._page.context.set_offline(False)


def test_what_was_not_acknowledged_survives_a_reload_with_its_key(scripted: Scripted) -> None:
    widget, script = scripted()
    widget.say("remember me")
    first = script.next("process")
    expect(widget.unsent()).to_contain_text("remember me")
    widget.page.reload()
    widget.launcher.click()
    again = script.next("process")
    assert again["idempotency_key"] == first["idempotency_key"]
    assert again["content"] == first["content"]
    expect(widget.unsent()).to_contain_text("remember me")
    said = script.message("remember me", "user", metadata=again["content"]["metadata"])
    script.ack(again, status="running")
    script.events(("message.received", said), key=again["idempotency_key"])
    script.events(
        ("turn.completed", {"current_state": "ask", "response": {"messages": []}}),
        key=again["idempotency_key"],
    )
    expect(widget.unsent()).to_have_count(0)
    assert widget.texts() == ["remember me"]
    script.frames.clear()
    widget.page.reload()
    script.next("hello")
    widget.launcher.click()
    widget.state("live")
    assert "process" not in [frame["type"] for frame in script.frames]


def test_what_a_final_close_cut_off_leaves_when_a_person_tries_again(scripted: Scripted) -> None:
    widget, script = scripted()
    widget.say("kept")
    first = script.next("process")
    script.sockets[-1].close(code=4503, reason="not now")
    widget.state("stopped")
    expect(widget.trouble).to_contain_text("not now")
    expect(widget.unsent()).to_contain_text("kept")
    widget.trouble.get_by_role("button", name="Try again").click()
    again = script.next("process")
    assert again["idempotency_key"] == first["idempotency_key"]
    script.ack(again, status="running")
    said = script.message("kept", "user", metadata=again["content"]["metadata"])
    end = ("turn.completed", {"current_state": "ask", "response": {"messages": []}})
    script.events(("message.received", said), end, key=again["idempotency_key"])
    expect(widget.unsent()).to_have_count(0)
    expect(widget.panel.locator(".working")).to_be_hidden()
    assert widget.texts() == ["kept"]


def test_a_server_that_forgot_this_browser_gets_a_new_conversation(
    tmp_path: Path, site: Site, opens: Opens
) -> None:
    folder, port = project(tmp_path, "faq"), free_port()
    with serving(folder, site, port) as dev:
        widget = opens()
        widget.visited.forgiven = ("WebSocket connection to", "the server responded with a status of 401")
        widget.open()
        widget.say("delivery")
        widget.until("Where do you live?")
        dev.kill()
    shutil.rmtree(folder / ".parley")
    with serving(folder, site, port):
        expect(widget.page.locator(".log .note")).to_contain_text("This is a new one.")
        widget.state("live")
        widget.say("phone")
        widget.until("Call 01 23 45 67 89, Monday to Friday, 9 to 17.")


def test_a_reload_in_the_middle_of_a_stream_shows_what_was_written_and_goes_on(scripted: Scripted) -> None:
    widget, script = scripted()
    stream(script, "m9", "Good **mor")
    writing = widget.page.locator(".writing .text")
    expect(writing).to_have_text("Good mor")
    expect(writing.locator("strong")).to_have_text("mor")
    script.recovered = False
    script.offset = 7
    script.frames.clear()
    widget.page.reload()
    script.next("hello")
    widget.launcher.click()
    partial = {"message_id": "m9", "text": "Good **mor", "next_index": 1}
    snapshot(script, 7, [script.message("Hi", "user")], partials=[partial])
    expect(writing).to_have_text("Good mor")
    script.send("message.delta", execution_id="x1", message_id="m9", index=1, delta="ning**, *Ada*.")
    expect(writing).to_have_text("Good morning, Ada.")
    script.events(("message.completed", script.message("Good **morning**, *Ada*.", message_id="m9")))
    expect(writing).to_have_count(0)
    assert widget.texts() == ["Hi", "Good morning, Ada."]


def snapshot(
    script: Script,
    offset: int,
    messages: list[dict[str, Any]],
    *,
    before: int | None = None,
    partials: list[dict[str, Any]] | None = None,
) -> None:
    script.send(
        "snapshot",
        epoch="e1",
        offset=offset,
        state={"status": "idle"},
        messages=messages,
        before=before,
        pending=[],
        partials=partials or [],
    )


def stream(script: Script, message_id: str, *pieces: str) -> None:
    for index, piece in enumerate(pieces):
        script.send("message.delta", execution_id="x1", message_id=message_id, index=index, delta=piece)


def test_a_token_is_renewed_when_the_server_asks_and_when_it_has_expired(scripted: Scripted) -> None:
    widget, script = scripted()
    script.send("auth.required", expires_in=25)
    assert script.next("auth")["token"]
    script.frames.clear()
    with widget.page.expect_request("**/v1/visitors") as asked:
        script.sockets[-1].close(code=4002, reason="token expired")
    body = asked.value.post_data_json
    assert body is not None
    assert body["token"]
    assert script.next("hello")["token"]
    widget.state("live")


def test_an_expired_visitor_comes_back_as_the_same_one(talks: Opens) -> None:
    widget = talks()
    widget.say("delivery")
    widget.until("Where do you live?")
    before = widget.texts()
    widget.page.evaluate(
        """() => {
          const name = Object.keys(localStorage).find((name) => name.endsWith(".visitor"));
          localStorage[name] = JSON.stringify({ ...JSON.parse(localStorage[name]), expires_at: 0 });
        }"""
    )
    with widget.page.expect_response("**/v1/visitors") as renewed:
        widget.page.reload()
        widget.launcher.click()
    widget.until("Where do you live?")
    assert widget.texts() == before
    asked = renewed.value.request.post_data_json
    assert asked is not None
    assert asked["token"]


# --- what is misconfigured -------------------------------------------------------------------------


def test_a_blocked_origin_is_told_how_to_be_let_in(faq: Dev, site: Site, opens: Opens) -> None:
    with Site(faq.url) as stranger:
        stranger.page("", "<parley-chat></parley-chat>")
        widget = opens(f"{stranger.url}/")
        widget.visited.forgiven = "CORS policy"
        widget.visited.open()
        widget.launcher.click()
        widget.state("stopped")
        expect(widget.trouble).to_contain_text(
            f"This page's origin, {stranger.url}, may not connect to {faq.url}."
        )
        expect(widget.trouble).to_contain_text(f"start the server with PARLEY_ORIGINS={stranger.url},")
        expect(widget.trouble.get_by_role("button", name="Try again")).to_be_visible()


def test_a_page_that_is_opened_as_a_file_is_told_to_be_served(faq: Dev, tmp_path: Path, opens: Opens) -> None:
    """It has no origin that a server could let in, whatever its address looks like."""
    page = tmp_path / "page.html"
    page.write_text(README_LINES.replace(README_SERVER, faq.url))
    widget = opens(page.as_uri(), friends=(urlsplit(faq.url).netloc,))
    widget.visited.forgiven = "CORS policy"
    widget.visited.open()
    widget.launcher.click()
    widget.state("stopped")
    expect(widget.trouble).to_contain_text("serve the page over http")
    expect(widget.trouble).not_to_contain_text("file://")


def test_a_socket_that_is_closed_for_its_origin_says_the_same(scripted: Scripted, site: Site) -> None:
    widget, script = scripted()
    script.sockets[-1].close(code=4507, reason="origin not allowed")
    widget.state("stopped")
    expect(widget.trouble).to_contain_text(f"This page's origin, {site.url}, may not connect")
    script.frames.clear()
    widget.trouble.get_by_role("button", name="Try again").click()
    assert script.next("hello")
    widget.state("live")
    expect(widget.trouble).to_be_hidden()


def test_a_token_that_is_wrong_says_where_it_comes_from(faq: Dev, site: Site, opens: Opens) -> None:
    site.server = faq.url
    widget = opens(site.page("token", "<parley-chat></parley-chat>"))
    widget.visited.open()
    widget.call("(chat) => { chat.token = () => 'no-token'; }")
    widget.launcher.click()
    widget.state("stopped")
    expect(widget.trouble).to_contain_text("element.token")


def test_a_conversation_that_cannot_be_had_says_so_and_stays_off(faq: Dev, site: Site, opens: Opens) -> None:
    site.server = faq.url
    widget = opens(site.page("fixed", '<parley-chat conversation="no id!"></parley-chat>'))
    widget.visited.open()
    widget.launcher.click()
    widget.state("stopped")
    expect(widget.trouble).to_contain_text("conversation_id must be 1 to 64 characters")
    expect(widget.trouble).to_contain_text("Its id is fixed by the page")
    widget.trouble.get_by_role("button", name="Try again").click()
    widget.state("stopped")
    expect(widget.trouble).to_contain_text("conversation_id must be 1 to 64 characters")


def test_a_key_lets_its_pages_in_and_a_wrong_one_is_told(tmp_path: Path, site: Site, opens: Opens) -> None:
    folder = project(tmp_path, "faq")
    with Dev(folder) as dev, Site(dev.url) as shop:
        made = ("keys", "create", "--publishable", "--origin", shop.url, "--project", str(folder))
        key = parley(*made, cwd=tmp_path).stdout.strip()
        widget = opens(
            shop.page("right", f'<parley-chat key="{key}"></parley-chat>'), friends=(shop.friend(),)
        )
        widget.open()
        widget.say("phone")
        widget.until("Call 01 23 45 67 89, Monday to Friday, 9 to 17.")
        widget.visited.forgiven = "the server responded with a status of 401"
        wrong = "pk_" + "x" * (len(key) - 3)
        widget.page.goto(shop.page("wrong", f'<parley-chat key="{wrong}"></parley-chat>'))
        widget.launcher.click()
        widget.state("stopped")
        expect(widget.trouble).to_contain_text("There is no such publishable key")
        expect(widget.trouble).to_contain_text("parley keys create --publishable")


def test_a_users_own_token_makes_them_that_user(faq: Dev, folder: Path, site: Site, opens: Opens) -> None:
    site.server = faq.url
    token = parley("token", "--user", "ada", cwd=folder)
    widget = opens(site.page("token", "<parley-chat></parley-chat>"))
    widget.visited.open()
    widget.call("(chat, token) => { chat.token = async () => token; }", token.stdout.strip())
    asked: list[str] = []
    widget.page.on("request", lambda request: asked.append(request.url))
    widget.launcher.click()
    widget.state("live")
    widget.say("phone")
    widget.until("Call 01 23 45 67 89, Monday to Friday, 9 to 17.")
    assert not [url for url in asked if url.endswith("/v1/visitors")]


def test_a_chat_part_that_does_not_load_is_told_and_tried_again(faq: Dev, site: Site, opens: Opens) -> None:
    site.server = faq.url
    widget = opens()
    widget.visited.forgiven = "Failed to load resource"
    widget.page.route("**/widget/chat-*", lambda route: route.abort())
    widget.visited.open()
    widget.launcher.click()
    expect(widget.launcher).to_have_accessible_name("The chat could not be loaded. Press to try again.")
    widget.page.unroute("**/widget/chat-*")
    widget.launcher.click()
    widget.state("live")


# --- what is seen and heard ------------------------------------------------------------------------


def test_unread_messages_are_counted_also_over_a_reload(scripted: Scripted) -> None:
    widget, script = scripted()
    script.events(("message.completed", script.message("one")))
    widget.until("one")
    widget.panel.get_by_role("button", name="Close the chat").click()
    widget.call(
        """(chat) => {
          globalThis.counts = [];
          chat.addEventListener("parley-unread", (event) => counts.push(event.detail.count));
        }"""
    )
    script.events(
        ("message.received", script.message("mine", "user")), ("message.completed", script.message("two"))
    )
    expect(widget.launcher).to_have_accessible_name("Open the chat, 1 unread")
    script.events(("message.completed", script.message("three")))
    expect(widget.launcher.locator(".badge")).to_have_text("2")
    assert widget.page.evaluate("counts") == [1, 2]
    messages = [
        script.message(text, message_id=f"r{at}", offset=at)
        for at, text in enumerate(("one", "two", "three"), 1)
    ]
    script.recovered = False
    script.frames.clear()
    widget.page.reload()
    script.next("hello")  # it connects by itself: a conversation was begun here
    snapshot(script, 4, messages, before=None)
    expect(widget.launcher.locator(".badge")).to_have_text("2")
    widget.launcher.click()
    expect(widget.launcher.locator(".badge")).to_be_hidden()
    assert widget.texts() == ["one", "two", "three"]


def test_a_stranger_loads_the_launcher_alone(faq: Dev, site: Site, opens: Opens) -> None:
    site.server = faq.url
    widget = opens()
    asked: list[str] = []
    widget.page.on("request", lambda request: asked.append(request.url.removeprefix(faq.url)))
    widget.visited.open()
    widget.page.wait_for_load_state("networkidle")
    assert asked[1:] == ["/widget.js"]


def test_a_screen_reader_hears_whole_sentences_once(scripted: Scripted) -> None:
    widget, script = scripted()
    heard = widget.page.locator("[aria-live=polite] p")
    stream(script, "m9", "Hello **the", "re**. How are")
    expect(heard).to_have_text(["Assistant: Hello there."])
    stream_on = {"execution_id": "x1", "message_id": "m9"}
    script.send("message.delta", index=2, delta=" you?", **stream_on)
    script.events(("message.completed", script.message("Hello **there**. How are you?", message_id="m9")))
    expect(heard).to_have_text(["Assistant: Hello there.", "How are you?"])
    script.events(
        ("message.received", script.message("Fine.", "user")), ("message.completed", script.message("Good."))
    )
    expect(heard).to_have_text(["Assistant: Hello there.", "How are you?", "Assistant: Good."])
    log = widget.panel.get_by_role("log", name="Conversation")
    assert log.get_attribute("aria-live") == "off"
    assert log.locator("[aria-live=polite]").count() == 0


def test_markdown_is_rendered_and_leads_only_where_one_may_go(scripted: Scripted) -> None:
    widget, script = scripted()
    links = "1. [Site](https://a.example/x) and [bad](javascript:pwned())"
    text = f"# Hours\n\n- **Mon** to *Fri*\n- `9` to 17\n\n{links}\n\n```\na  b\n```"
    script.events(("message.completed", script.message(text)))
    place = widget.page.locator(".log .text")
    expect(place.locator(".heading")).to_have_text("Hours")
    expect(place.locator("ul > li")).to_have_text(["Mon to Fri", "9 to 17"])
    expect(place.locator("pre")).to_have_text("a  b\n")
    link = place.locator("a")
    expect(link).to_have_count(1)
    told = {name: link.get_attribute(name) for name in ("href", "target", "rel")}
    assert told == {
        "href": "https://a.example/x",
        "target": "_blank",
        "rel": "noopener noreferrer nofollow ugc",
    }
    expect(place.locator("ol > li")).to_have_text("Site and [bad](javascript:pwned())")
    script.events(("message.completed", script.message("- الاثنين\n- Tuesday\n\nhello")))
    last = widget.page.locator(".log .text").last
    expect(last.locator("ul")).to_have_css("direction", "rtl")
    expect(last.locator("> p")).to_have_css("direction", "ltr")


COUNT = """(chat) => {
  globalThis.work = { nodes: 0, characters: 0 };
  globalThis.observer?.disconnect();
  globalThis.observer = new MutationObserver((records) => {
    for (const { type, target, addedNodes, removedNodes } of records) {
      work.nodes += addedNodes.length + removedNodes.length;
      if (type === "characterData") work.characters += target.data.length;
      for (const node of addedNodes) work.characters += node.textContent.length;
    }
  });
  const all = { subtree: true, childList: true, characterData: true };
  observer.observe(chat.shadowRoot.querySelector(".writing"), all);
}"""


def test_a_stream_of_20_kb_of_markdown_costs_as_many_operations_as_it_has_characters(
    scripted: Scripted,
) -> None:
    """Counted in the browser: nodes that come and go, and characters that are written, also again."""
    widget, script = scripted()
    unit = (
        "Some **bold** and *soft* words, `code`, [a link](https://a.example/b).\n\n- an item\n- another\n\n"
    )
    spent = []
    for number, size in enumerate((10_240, 20_480)):
        text = (unit * (size // len(unit) + 1))[:size]
        widget.call(COUNT)
        pieces = [text[at : at + 16] for at in range(0, size, 16)]
        stream(script, f"s{number}", *pieces)
        script.events(("message.completed", script.message(text, message_id=f"s{number}")))
        expect(widget.page.locator(".log .message")).to_have_count(number + 1)
        work = widget.page.evaluate("work")
        spent.append(work["nodes"] + work["characters"])
        assert work["characters"] < size * 12
        assert work["nodes"] < size
    assert spent[1] < spent[0] * 2.3


def test_a_question_is_shown_once_while_its_form_is_open(scripted: Scripted) -> None:
    """The message that says the same is back in its place when the form is gone."""
    widget, script = scripted()
    words = "\n".join(str(question["text"]) for question in QUESTIONS)
    asked = pending("clarification", pending_id="p2", prompt=words, questions=QUESTIONS)
    script.events(("message.completed", script.message(words)), ("clarification.requested", asked))
    form = widget.panel.get_by_role("form", name="Some questions")
    expect(form.get_by_label("Which day?")).to_be_visible()
    message = widget.page.locator(".log .message")
    expect(message).to_be_hidden()
    script.events(("pending.expired", {"pending_id": "p2", "kind": "clarification", "decided": None}))
    expect(form).to_have_count(0)
    expect(message).to_be_visible()


def test_people_decide_with_edits_and_are_told_who_was_faster(scripted: Scripted) -> None:
    widget, script = scripted()
    script.events(("clarification.requested", pending("clarification", pending_id="p2", questions=QUESTIONS)))
    form = widget.panel.get_by_role("form", name="Some questions")
    form.get_by_label("Which day?").fill("2026-12-24")
    form.get_by_role("radio", name="Yes").check()
    form.get_by_role("radio", name="morning").check()
    form.get_by_label("Where?").select_option("c")
    form.get_by_role("button", name="Answer").click()
    sent = script.next("clarification")
    assert sent["answers"] == {"part": "morning", "day": "2026-12-24", "first": True, "place": "c"}
    script.ack(sent, status="running")
    told = {"pending_id": "p2", "kind": "clarification", "decided": {"answers": {}}}
    end = ("turn.completed", {"current_state": "ask", "response": {"messages": []}})
    script.events(("pending.resolved", told), end, key=sent["idempotency_key"])
    expect(form).to_have_count(0)
    slots = {"amount": 40, "reason": "a broken cup"}
    asked = pending(
        "acceptance",
        title="Pay back 40 euros?",
        prompt="To Ada.",
        editable=["slots.amount", "slots.reason"],
        digest="d1",
    )
    script.events(("slots.updated", {"slots": slots}), ("acceptance.requested", asked))
    card = widget.panel.get_by_role("form", name="Pay back 40 euros?")
    card.get_by_label("amount").fill("35")
    # what waits changes while somebody types
    script.events(
        (
            "acceptance.requested",
            {**asked, "votes": [{"by": "u2", "accepted": True}], "by": {"quorum": 2}, "digest": "d2"},
        )
    )
    expect(card).to_contain_text("1 of 2 have decided.")
    expect(card.get_by_label("amount")).to_have_value("35")
    card.get_by_label("Comment (optional)").fill("fine")
    card.get_by_role("button", name="Accept").click()
    sent = script.next("acceptance")
    assert {name: sent[name] for name in ("accepted", "comment", "edits", "digest")} == {
        "accepted": True, "comment": "fine", "edits": {"amount": 35}, "digest": "d2"
    }  # fmt: skip
    script.events(resolved("acceptance", accepted=False), key="another-command")
    script.send("error", id=sent["id"], error=wire_error("pending_resolved", "It was rejected by bob."))
    expect(card).to_have_count(0)
    expect(widget.trouble).to_contain_text("It was rejected by bob.")
    assert widget.texts() == ["Rejected."]


def test_who_types_is_seen_until_they_stop_or_say_no_more(scripted: Scripted) -> None:
    """A notice may be lost, also the last one; and the same person in another tab is nobody else."""
    widget, script = scripted()
    widget.page.clock.install()
    dots = widget.panel.locator("[part=typing]")
    script.send("typing", user_id="v1", typing=True)
    script.send("typing", user_id="desk", typing=True)
    expect(dots).to_be_visible()
    script.send("typing", user_id="v1", typing=False)
    script.events(("message.received", script.message("Hello?", "user", user_id="v1")))
    widget.until("Hello?")
    expect(dots).to_be_visible()
    script.send("typing", user_id="desk", typing=False)
    expect(dots).to_be_hidden()
    script.desk_types(dots)


def test_the_others_are_told_that_this_person_types_and_stops(scripted: Scripted) -> None:
    widget, script = scripted()
    script.events(("message.completed", script.message("Hi!")))
    widget.until("Hi!")
    widget.page.clock.install()

    def told() -> bool:
        typing: bool = script.next("typing")["typing"]
        return typing

    widget.composer.press_sequentially("Hel")
    assert told() is True
    widget.page.clock.fast_forward(3_000)
    widget.composer.press_sequentially("lo")
    assert told() is True
    widget.composer.fill("")
    assert told() is False
    widget.say("Hello")
    assert told() is True
    assert told() is False
    assert script.next("process")["content"]["text"] == "Hello"


def test_a_refused_message_comes_back_to_be_mended(scripted: Scripted) -> None:
    widget, script = scripted()
    widget.say("too long")
    frame = script.next("process")
    script.send("error", id=frame["id"], error=wire_error("bad_request", "That is too long.", "Say less."))
    expect(widget.trouble).to_contain_text("That is too long. Say less.")
    expect(widget.composer).to_have_value("too long")
    expect(widget.unsent()).to_have_count(0)


def test_the_element_can_be_steered_and_tells_what_happens(faq: Dev, site: Site, opens: Opens) -> None:
    site.server = faq.url
    widget = opens(site.page("api", '<parley-chat flow="echo" heading="Aide" locale="fr"></parley-chat>'))
    widget.visited.open()
    listen = """(chat) => {
      globalThis.told = [];
      for (const name of ["open", "close", "message", "connection", "error", "custom"])
        chat.addEventListener(`parley-${name}`, ({ detail }) =>
          told.push([name, detail.message?.text ?? detail.state ?? null]));
      chat.strings = { placeholder: "Dites-nous tout" };
      return chat.open();
    }"""
    widget.call(listen)
    panel = widget.panel
    expect(panel.get_by_role("heading", name="Aide")).to_be_visible()
    expect(panel.get_by_placeholder("Dites-nous tout")).to_be_visible()
    expect(panel.locator(".status")).to_have_text("Connecté")
    widget.call("(chat) => chat.send('bonjour')")
    widget.until("Say something.")
    elsewhere = widget.page.get_by_role("link", name="Other things")
    elsewhere.focus()
    widget.call("(chat) => chat.close()")
    expect(panel).to_be_hidden()
    expect(elsewhere).to_be_focused()
    told = [tuple(each) for each in widget.page.evaluate("told")]
    assert [name for name, _ in told if name in ("open", "close")] == ["open", "close"]
    for expected in (("connection", "live"), ("message", "bonjour"), ("message", "Say something.")):
        assert expected in told
    first = widget.page.evaluate(
        "Object.entries(localStorage).find(([name]) => name.endsWith('.conversation'))[1]"
    )
    widget.call("async (chat) => { await chat.open(); told.length = 0; await chat.restart(); }")
    expect(panel.locator(".empty")).to_be_visible()
    widget.page.wait_for_function("told.length > 1")
    assert widget.page.evaluate("told") == [["connection", "connecting"], ["connection", "live"]]
    assert (
        widget.page.evaluate(
            "Object.entries(localStorage).find(([name]) => name.endsWith('.conversation'))[1]"
        )
        != first
    )
    widget.call("(chat) => chat.remove()")
    expect(widget.page.locator("parley-chat")).to_have_count(0)


def test_a_page_themes_it_by_custom_properties_and_parts(faq: Dev, site: Site, opens: Opens) -> None:
    site.server = faq.url
    site.file(
        "shop.css",
        b"parley-chat { --parley-accent: rgb(1, 120, 3); --parley-radius: 3px }\n"
        b"parley-chat::part(header) { border-bottom-width: 7px }",
        "text/css",
    )
    page = '<link rel="stylesheet" href="/shop.css"><parley-chat theme="dark"></parley-chat>'
    widget = opens(site.page("theme", page))
    widget.open()
    style = "(element, name) => getComputedStyle(element)[name]"
    assert widget.launcher.evaluate(style, "backgroundColor") == "rgb(1, 120, 3)"
    assert widget.panel.evaluate(style, "borderRadius") == "3px"
    assert widget.panel.locator("header").evaluate(style, "borderBottomWidth") == "7px"
    assert widget.panel.evaluate(style, "backgroundColor") == "rgb(23, 27, 36)"
    widget.call("(chat) => chat.setAttribute('theme', 'light')")
    assert widget.panel.evaluate(style, "backgroundColor") == "rgb(255, 255, 255)"


# --- what must not happen --------------------------------------------------------------------------


def test_markup_that_people_say_stays_text(talks: Opens) -> None:
    widget = talks()
    widget.say("echo")
    widget.until("Say something.")
    for words in MARKUP:
        widget.say(words)
    echoed = widget.page.locator(".log .text", has_text="You said ")
    expect(echoed).to_have_count(len(MARKUP))
    assert echoed.all_text_contents() == [as_shown(f"You said {clean(words)}") for words in MARKUP]
    nothing_but_text(widget)
    widget.page.reload()
    widget.launcher.click()
    widget.until("Say something.")
    nothing_but_text(widget)


def as_shown(words: str) -> str:
    """Return what is seen of the one text that is markdown, too."""
    return words.replace("__proto__", "proto")


def nothing_but_text(widget: Widget) -> None:
    """Assert that the widget has only elements and attributes that it makes itself."""
    found = widget.call(
        """(chat) => {
          const all = [...chat.shadowRoot.querySelectorAll("*")];
          return {
            elements: [...new Set(all.map((element) => element.localName))],
            attributes: [...new Set(all.flatMap((element) => element.getAttributeNames()))],
            links: all.filter((element) => element.href).map((element) => element.href),
          };
        }"""
    )
    never = {
        "script",
        "style",
        "img",
        "iframe",
        "object",
        "embed",
        "link",
        "base",
        "video",
        "audio",
        "source",
        "math",
        "meta",
    }
    assert not never & set(found["elements"])
    assert not [
        name for name in found["attributes"] if name == "style" or name.startswith("on") or name == "src"
    ]
    assert all(re.match(r"https?://|mailto:|tel:", link) for link in found["links"]), found["links"]


def test_markup_stays_text_wherever_a_server_may_put_it(scripted: Scripted) -> None:
    widget, script = scripted()
    for number, words in enumerate((*MARKUP, *MARKDOWN)):
        questions = [
            {"id": words, "text": words, "type": kind, "options": [words] * many, "required": True}
            for kind, many in (("choice", 2), ("choice", 9), ("text", 0), (words, 0))
        ]
        person = pending(
            "clarification", pending_id=f"c{number}{words}", title=words, prompt=words, questions=questions
        )
        decision = pending("acceptance", pending_id=f"a{number}{words}", title=words, prompt=words,
                           editable=[f"slots.{words}"], deadline=words)  # fmt: skip
        card = {"title": words, "text": words, "url": words}
        script.events(
            ("message.received", script.message(words, "user")),
            ("message.completed", script.message(words, buttons=[{"title": words, "payload": words}])),
            ("message.completed", script.message(words, words, type=words)),
            ("message.completed", script.message(None, words, type="card", payload=card)),
            ("slots.updated", {"slots": {words: words}}),
            ("execution.waiting", {"status": words, "flow_id": words, "flow_version": words}),
            ("clarification.requested", person),
            ("acceptance.requested", decision),
            ("handoff.requested", {"to": words}),
            ("flow.custom", {"name": words, "payload": words}),
            (words, {"status": words}),
        )
        stream(script, f"d{number}", words)
        script.send(words)
        script.send("error", id=None, error=wire_error(words, words, words))
    forms = widget.page.locator(".requests form")
    expect(forms).to_have_count(2 * len((*MARKUP, *MARKDOWN)))
    nothing_but_text(widget)
    widget.call(
        "(chat) => chat.shadowRoot.querySelectorAll('.log a, .log button').forEach((one) => one.focus())"
    )


MARKDOWN = (
    "[a](javascript:pwned())",
    "[a](JaVaScRiPt&#58;pwned())",
    "[a](java\tscript:pwned())",
    "[a](\u0001javascript:pwned())",
    "[a](data:text/html;base64,PHNjcmlwdD5wd25lZCgpPC9zY3JpcHQ+)",
    "[a](vbscript:pwned())",
    "[a](blob:http://127.0.0.1/1)",
    "[a](file:///etc/passwd)",
    '[a](https://a.example/" onmouseover="pwned())',
    "![a](https://a.example/x.png)",
    "<javascript:pwned()>",
    "[a]: javascript:pwned()",
    "**<img src=x onerror=pwned()>**",
    "`<script>pwned()</script>`",
    "```html\n<script>pwned()</script>\n```",
    "> <svg onload=pwned()>",
    "- <iframe src=javascript:pwned()>",
    "https://a.example/<script>pwned()</script>",
    "[<img src=x onerror=pwned()>](https://a.example)",
    "[a](https://a.example/[b](javascript:pwned()))",
)


# --- for everybody ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["wide", "phone"])
def test_axe_finds_nothing_in_the_light_and_in_the_dark(scripted: Scripted, size: str) -> None:
    # high, so that nothing lies under anything else, whose colours could then not be judged
    view: dict[str, Any] = {"width": 360 if size == "phone" else 1280, "height": 2_600}
    options = {**(PHONE if size == "phone" else {}), "viewport": view, "bypass_csp": True}
    widget, script = scripted(**options)
    widget.call("(chat) => chat.style.setProperty('--parley-height', '150rem')")
    if size == "phone":  # what a modal dialog covers, which axe does not know of
        widget.page.evaluate("document.querySelector('main').style.marginTop = '3000px'")
    assert violations(widget.page) == []
    buttons = [{"title": "Yes", "payload": "y"}, {"title": "No", "payload": "n"}]
    rich = (
        "# Hours\n\n- **Mon** to *Fri*, see [the site](https://a.example)\n\n> quoted `code`\n\n"
        "```\npre\n```\n\n---\n\n~~gone~~"
    )
    script.events(
        ("message.received", script.message("Hello", "user")),
        ("message.completed", script.message("I take over.", "agent")),
        (
            "message.completed",
            script.message(
                None, type="card", payload={"title": "A card", "text": "of ours", "url": "https://a.example"}
            ),
        ),
        ("message.completed", script.message("It failed.", type="error")),
        ("handoff.requested", {"to": "desk"}),
        ("message.completed", script.message(rich, buttons=buttons)),
        ("clarification.requested", pending("clarification", pending_id="p2", questions=QUESTIONS)),
        ("slots.updated", {"slots": {"amount": 40}}),
        (
            "acceptance.requested",
            pending(
                "acceptance",
                title="Pay?",
                prompt="To Ada.",
                editable=["slots.amount"],
                deadline="2031-01-01T00:00:00.000Z",
            ),
        ),
    )
    stream(script, "m9", "I am ")
    script.send("error", id=None, error=wire_error("bad_request", "Something is wrong."))
    widget.composer.fill("waits")
    widget.page.keyboard.press("Enter")
    widget.panel.get_by_role("button", name="Accept").focus()
    assert violations(widget.page) == []
    script.sockets[-1].close(code=4500, reason="ended")
    widget.state("stopped")
    assert violations(widget.page) == []
    widget.page.keyboard.press("Escape")
    expect(widget.panel).to_be_hidden()
    assert violations(widget.page) == []


def test_arabic_is_written_from_right_to_left(faq: Dev, site: Site, opens: Opens) -> None:
    site.server = faq.url
    widget = opens(site.page("arabic", '<parley-chat locale="ar"></parley-chat>'))
    widget.visited.open()
    widget.launcher.click()
    expect(widget.panel.locator(".status")).to_have_text("متصل")
    say = widget.panel.get_by_label("رسالة", exact=True)
    say.fill("مرحبا phone")
    say.press("Enter")
    widget.until("Call 01 23 45 67 89, Monday to Friday, 9 to 17.")
    place = "(element) => { const { left, right } = element.getBoundingClientRect(); return [left, right]; }"
    panel, mine, theirs = (
        widget.page.locator(each).first.evaluate(place)
        for each in (".panel", ".message.user", ".message.assistant")
    )
    assert panel[0] < 100  # the corner is the other one
    assert mine[0] - panel[0] < 40  # and so are the sides of who speaks
    assert panel[1] - theirs[1] < 40
    assert (
        widget.page.locator(".message.assistant .text p").evaluate(
            "(element) => getComputedStyle(element).direction"
        )
        == "ltr"
    )
    assert (
        widget.page.locator(".message.user .text").evaluate(
            "(element) => getComputedStyle(element).direction"
        )
        == "rtl"
    )


def test_on_a_phone_it_fills_the_screen_and_keeps_the_focus(talks: Opens) -> None:
    widget = talks(**PHONE)
    box = widget.panel.bounding_box()
    assert box == {"x": 0, "y": 0, "width": 360, "height": 740}
    expect(widget.launcher).to_be_hidden()
    widget.say("delivery")
    widget.until("Where do you live?")
    assert widget.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for _ in range(12):
        widget.page.keyboard.press("Tab")
        assert widget.page.evaluate("document.activeElement.localName") in {"parley-chat", "body"}
    sizes = widget.panel.locator("button:visible").evaluate_all(
        "(all) => all.map((one) => one.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 36
    widget.panel.get_by_role("button", name="Close the chat").click()
    expect(widget.panel).to_be_hidden()
    expect(widget.launcher).to_be_visible()


def test_who_wants_no_motion_gets_none(scripted: Scripted) -> None:
    widget, script = scripted()
    widget.page.emulate_media(reduced_motion="reduce")
    widget.say("hello")
    script.next("process")
    name = widget.page.locator(".dots i").first.evaluate("(dot) => getComputedStyle(dot).animationName")
    assert name == "none"


# --- long conversations ----------------------------------------------------------------------------

MANY = 5_000


def test_a_conversation_of_5000_messages_is_laid_out_only_where_somebody_looks(scripted: Scripted) -> None:
    """All of them are there for find-in-page and screen readers, and a screenful of them is rendered."""
    widget, script = scripted()

    def told(first: int, last: int) -> list[dict[str, Any]]:
        return [
            script.message(
                f"Message **{at}** " + "with some words " * (at % 7),
                "user" if at % 2 else "assistant",
                message_id=f"n{at}",
                offset=at,
            )
            for at in range(first, last + 1)
        ]

    def on_frame(frame: dict[str, Any]) -> None:
        if frame["type"] == "history":
            before = frame["before"]
            first = max(1, before - frame["limit"])
            result = {"messages": told(first, before - 1), "before": first if first > 1 else None}
            nothing = {
                "duplicate": False,
                "command_id": None,
                "status": "completed",
                "execution_id": None,
                "epoch": "e1",
                "offset": MANY,
            }
            script.send("ack", id=frame["id"], result=result, **nothing)

    script.on_frame = on_frame
    snapshot(script, MANY, told(MANY - 49, MANY), before=MANY - 49)
    messages = widget.page.locator(".log .message")
    expect(messages).to_have_count(50)
    # up to the first one, as a person scrolls: what is older comes by itself, and nothing jumps
    climb = """async (chat, many) => {
      const scroll = chat.shadowRoot.querySelector(".scroll");
      const log = chat.shadowRoot.querySelector(".log");
      const frame = () => new Promise(requestAnimationFrame);
      let [rendered, frames, long] = [0, 0, 0];
      new PerformanceObserver((list) => (long += list.getEntries().length)).observe({ type: "longtask" });
      for (let known = 0; known < many && frames < 4000; frames++) {
        scroll.scrollTop -= 900;
        const count = log.querySelectorAll(".message").length;
        if (count !== known) {
          known = count;
          const all = [...log.querySelectorAll(".message")];
          const seen = all.filter((one) => one.checkVisibility({ contentVisibilityAuto: true }));
          rendered = Math.max(rendered, seen.length);
        }
        await frame();
      }
      return { rendered, frames, long, count: log.querySelectorAll(".message").length };
    }"""
    found = widget.call(climb, MANY)
    print(found)
    assert found["count"] == MANY
    assert found["rendered"] <= 200
    ids = messages.evaluate_all("(all) => all.map((one) => Number(one.dataset.id.slice(1)))")
    assert ids == list(range(1, MANY + 1))
    script.offset = MANY
    script.events(("message.completed", script.message("The newest", message_id="last")))
    expect(widget.panel.get_by_role("button", name="Newest messages")).to_be_visible()
    widget.panel.get_by_role("button", name="Newest messages").click()
    expect(messages.last).to_be_in_viewport()


def test_what_is_looked_at_stays_where_it_is_when_older_messages_come(scripted: Scripted) -> None:
    widget, script = scripted()

    def told(first: int, last: int) -> list[dict[str, Any]]:
        return [
            script.message(f"Message {at}", message_id=f"n{at}", offset=at) for at in range(first, last + 1)
        ]

    snapshot(script, 150, told(101, 150), before=101)
    widget.until("Message 150")
    widget.call("(chat) => { chat.shadowRoot.querySelector('.scroll').scrollTop = 200; }")
    asked = script.next("history")
    place = "(chat) => chat.shadowRoot.querySelector('[data-id=n108]').getBoundingClientRect().top"
    before = widget.call(place)
    nothing = {
        "duplicate": False,
        "command_id": None,
        "status": "completed",
        "execution_id": None,
        "epoch": "e1",
        "offset": 150,
    }
    script.send("ack", id=asked["id"], result={"messages": told(51, 100), "before": 51}, **nothing)
    expect(widget.page.locator(".log .message")).to_have_count(100)
    assert abs(widget.call(place) - before) < 2
