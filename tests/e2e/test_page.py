"""The chat page in a real browser, before a real ``parley dev``.

For what no flow brings about, and what a server must not do, the test plays the server's side of the socket.
"""

import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect

from tests.support.browser import Script, Visit, context_of, pending, running_browser, tab, violations, visit
from tests.support.commands import Dev, parley
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "protocol" / "vectors"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
MARKUP = (
    "<script>pwned()</script>",
    "<img src=x onerror=pwned()>",
    "<svg onload=pwned()>",
    "<svg><script>pwned()</script></svg>",
    '"><script>pwned()</script>',
    "'-pwned()-'",
    "</textarea><script>pwned()</script>",
    "</title><script>pwned()</script>",
    "<iframe srcdoc='<script>parent.pwned()</script>'></iframe>",
    "<iframe src=javascript:pwned()>",
    "<a href=javascript:pwned()>click</a>",
    "[click](javascript:pwned())",
    "![x](x\" onerror=\"pwned())",
    "javascript:pwned()",
    "data:text/html,<script>pwned()</script>",
    "<body onload=pwned()>",
    "<details open ontoggle=pwned()>",
    "<input autofocus onfocus=pwned()>",
    "<video><source onerror=pwned()>",
    "<math><mtext><table><mglyph><style><img src=x onerror=pwned()>",
    "<style>@import 'http://127.0.0.1:1/x.css'</style>",
    "<link rel=stylesheet href=http://127.0.0.1:1/x.css>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:1/'>",
    "<base href=http://127.0.0.1:1/>",
    "<form action=http://127.0.0.1:1/><button>go</button></form>",
    "<object data=http://127.0.0.1:1/>",
    "{{constructor.constructor('pwned()')()}}",
    "${pwned()}",
    "__proto__",
    "constructor",
    "&lt;script&gt;pwned()&lt;/script&gt;",
    "\u202e<img src=x onerror=pwned()>",
)  # fmt: skip
REFUND = """\
flow: refund
triggers: {intents: [{name: refund, keywords: [refund]}]}
slots: {amount: {type: integer}, note: {type: text}, email: {type: email, pii: true}}
variables: {more: null}
steps:
  - id: what
    collect: [amount, email]
    ask: {amount: "How much?", email: "Your email?"}
  - id: more
    clarify:
      questions:
        - {id: how, text: "How shall it be paid?", options: [cash, card]}
        - {id: day, text: "When was it bought?", type: date, required: false}
    save: variables.more
  - id: gate
    accept:
      title: "Pay back ${slots.amount} euros by ${variables.more.how}?"
      editable: [slots.amount]
      deadline: 15m
      on_timeout: {decide: reject}
      digest: false
    accepted: paid
    rejected: kept
  - {id: paid, say: "Paid ${slots.amount}. We write to ${slots.email}.", goto: done}
  - {id: kept, say: "Nothing was paid."}
  - {id: done, end: completed}
"""
ECHO = """\
flow: echo
triggers: {intents: [{name: echo, keywords: [echo]}]}
slots: {word: {type: text}}
steps:
  - id: what
    collect: [word]
    ask: {word: "Say something."}
  - {id: told, say: "You said ${slots.word}"}
  - {id: again, set: {slots.word: null}, goto: what}
"""

pytestmark = pytest.mark.needs("browser")


Scripted = Callable[..., tuple[Visit, Script]]


class Opens(Protocol):
    """Opens the page of a server; the visit ends with the test, and must have been clean."""

    def __call__(self, url: str, **options: Any) -> Visit: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    with context_of(browser) as shared:
        yield shared


@pytest.fixture
def opens(browser: Browser, context: BrowserContext) -> Iterator[Opens]:
    """A tab that knows nothing of the one before; with options, in a context of its own."""
    with ExitStack() as stack:
        visits: list[Visit] = []

        def opened(url: str, **options: Any) -> Visit:
            visited = visit(browser, url, **options) if options else tab(context, url)
            visits.append(stack.enter_context(visited))
            return visits[-1]

        yield opened
        for visited in visits:
            visited.clean()


def project(folder: Path, example: str) -> Path:
    """Copy an example, without what a server left in it."""
    copy = folder / example
    shutil.copytree(
        ROOT / "examples" / example, copy, ignore=shutil.ignore_patterns(".parley", "__pycache__")
    )
    return copy


@pytest.fixture(scope="module")
def faq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    # on any port and with origins of one's own: the page of this very server may always connect
    folder = project(tmp_path_factory.mktemp("page"), "faq")
    (folder / "parley.toml").write_text('flows = "flows"\nframes_per_second = 1000\n')
    (folder / "flows" / "refund.yaml").write_text(REFUND)
    (folder / "flows" / "echo.yaml").write_text(ECHO)
    with Dev(folder, env={"PARLEY_ORIGINS": "https://shop.example"}) as dev:
        yield dev


@pytest.fixture
def scripted(faq: Dev, opens: Opens) -> Callable[..., tuple[Visit, Script]]:
    def begin(*, offset: int = 0, recovered: bool = True, **options: Any) -> tuple[Visit, Script]:
        visited = opens(faq.url, **options)
        script = Script(visited.page, offset=offset, recovered=recovered)
        visited.open()
        visited.state("live")
        return visited, script

    return begin


# --- the protocol ---------------------------------------------------------------------------------


def test_who_types_is_seen_until_they_stop_or_say_no_more(scripted: Scripted) -> None:
    visited, script = scripted()
    visited.page.clock.install()
    script.desk_types(visited.page.locator("#working"))


def test_the_page_does_what_the_golden_vectors_say(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    names = ("client_cursor.json", "close_codes.json")
    cursor, codes = (json.loads((VECTORS / name).read_text())["cases"] for name in names)
    runner = (Path(__file__).parent / "page" / "vectors.js").read_text()
    given = {"cursor": cursor, "codes": codes, "modules": "/page/session.js"}
    assert visited.page.evaluate(runner.strip().removesuffix(";"), given) == []


# --- journeys -------------------------------------------------------------------------------------


def test_an_appointment_is_booked_with_the_mouse(tmp_path: Path, opens: Opens) -> None:
    folder = project(tmp_path, "booking")
    with Dev(folder) as dev:
        visited = opens(dev.url)
        visited.open()
        visited.state("live")
        page = visited.page
        composer, send = page.get_by_label("Message", exact=True), page.get_by_role("button", name="Send")
        composer.fill("hello")
        send.click()
        page.get_by_role("button", name="Book", exact=True).click()
        page.get_by_role("button", name="checkup", exact=True).click()
        visited.until("Which day?")
        expect(page.locator("#state")).to_contain_text("book_appointment")
        expect(page.locator("#state")).to_contain_text("waiting input")
        expect(page.locator("#slots")).to_contain_text("checkup")
        assert visited.messages()[-3:] == ["Which service?", "checkup", "Which day?"]
        assert page.get_by_role("button", name="Book", exact=True).is_disabled()
        for words, answer in (("next Wednesday", "Your email?"), ("ada@example.org", None)):
            composer.fill(words)
            send.click()
            if answer:
                visited.until(answer)
        form = page.get_by_role("form", name="Some questions")
        form.get_by_role("radio", name="afternoon").click()
        form.get_by_role("button", name="Answer").click()
        expect(page.get_by_text("Somebody else has to decide now.")).to_be_visible()
        expect(form).to_have_count(0)
        desk(dev, folder)
        page.wait_for_function(
            "() => document.querySelector('#log').textContent.includes('confirmation number is')"
        )
        expect(page.locator("#state")).to_contain_text("completed")


def desk(dev: Dev, folder: Path) -> None:
    """Accept, as the desk does, what waits in the inbox."""
    token = parley("token", "--user", "desk", "--scope", "acceptance:decide", cwd=folder).stdout.strip()

    def call(path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(dev.url + path, data, headers)) as answer:
            return json.load(answer)

    (waits,) = call("/v1/inbox")["items"]
    decision = {"accepted": True, "pending_id": waits["pending"]["pending_id"]}
    call(f"/v1/executions/{waits['execution_id']}/acceptance", decision)


def test_frames_are_there_to_be_looked_at_without_the_token(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    visited.say("help")
    visited.until("What would you like to know about?")
    page = visited.page
    expect(page.locator("#frames summary", has_text="process")).to_have_count(1)
    page.locator("#frames summary", has_text="hello").first.click()
    shown = page.locator("#frames pre").first.inner_text()
    assert '"conversation_id"' in shown
    assert '"token": "***"' in shown


def test_questions_and_a_decision_of_a_real_flow_are_answered_over_a_reload_and_become_a_test(
    tmp_path: Path, faq: Dev, opens: Opens
) -> None:
    visited = opens(faq.url)
    visited.open()
    page = visited.page
    visited.say("a refund")
    visited.until("How much?")
    visited.say("40")
    visited.until("Your email?")
    visited.say("ada@lovelace.org")
    form = page.get_by_role("form", name="Some questions")
    form.get_by_role("button", name="Answer").click()
    expect(form.get_by_role("alert")).to_contain_text("how")
    expect(form.get_by_role("radio", name="cash")).to_be_focused()
    page.keyboard.press("ArrowDown")
    form.get_by_role("button", name="Answer").click()
    card = page.get_by_role("form", name="Pay back 40 euros by card?")
    expect(card.locator(".deadline")).to_contain_text("Open for 15 minutes")
    page.reload()
    card.get_by_label("amount").fill("35")
    card.get_by_role("button", name="Accept").click()
    visited.until("Paid 35. We write to ada@lovelace.org.")
    expect(page.locator("#slots")).to_contain_text("35")
    expect(card).to_have_count(0)
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Record this chat as a test").click()
    assert downloading.value.suggested_filename == "recorded.yaml"
    downloading.value.save_as(tmp_path / "tests" / "recorded.yaml")
    assert "lovelace" not in (tmp_path / "tests" / "recorded.yaml").read_text()
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "refund.yaml").write_text(REFUND)
    tested = parley("test", cwd=tmp_path)
    assert (tested.returncode, tested.stderr.strip()) == (0, "1 passed"), tested.stdout


def test_what_cannot_be_recorded_is_said_in_a_sentence(scripted: Scripted) -> None:
    visited, script = scripted()
    record = visited.page.get_by_role("button", name="Record this chat as a test")
    expect(record).to_be_disabled()
    script.events(("message.completed", script.message("The server itself knows nothing of this.")))
    visited.forgiven = "the server responded with a status of 404"  # what the browser itself says of it
    record.click()
    expect(visited.page.get_by_role("alert").first).to_have_text("There is no such conversation.")


def test_a_question_is_answered_with_the_keyboard_alone(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    visited.state("live")
    page, keys = visited.page, visited.page.keyboard
    assert focused(visited) == "Message"
    keys.type("help")
    keys.press("Enter")
    visited.until("What would you like to know about?")
    for expected in ("A person", "Returns", "Delivery"):
        keys.press("Shift+Tab")
        assert focused(visited) == expected
    keys.press("Enter")
    visited.until("Where do you live?")
    assert focused(visited) == "Message"
    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    keys.press("Space")
    visited.until("Two working days, and free above 50 euros.")
    assert visited.messages()[-4:] == ["Delivery", "Where do you live?", "France", visited.messages()[-1]]
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    assert page.get_by_label("Message", exact=True).input_value() == "one\ntwo"


def focused(visited: Visit) -> str:
    """Return the name of what has the focus."""
    name: str = visited.page.evaluate(
        "(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()"
    )
    return name


def test_after_a_reload_the_conversation_goes_on_where_it_was(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    visited.say("delivery")
    visited.until("Where do you live?")
    before = visited.messages()
    visited.page.reload()
    visited.until("Where do you live?")
    assert visited.messages() == before
    expect(visited.page.locator("#state")).to_contain_text("waiting input")
    visited.page.get_by_role("button", name="elsewhere").click()
    visited.until("Five to eight working days.")


def test_a_broken_flow_is_told_with_its_place_while_the_old_one_goes_on(tmp_path: Path, opens: Opens) -> None:
    """As in the terminal, and until it is mended; who is in the middle of the flow keeps its version."""
    folder = project(tmp_path, "faq")
    flow = folder / "flows" / "delivery.yaml"
    good = flow.read_text()
    with Dev(folder) as dev:
        visited = opens(dev.url)
        visited.open()
        visited.say("delivery")
        visited.until("Where do you live?")
        told = visited.page.locator("#broken")
        expect(told).to_be_hidden()
        flow.write_text(good.replace("collect:", "colect:"))
        expect(told.locator("li").first).to_contain_text(
            re.compile(r"delivery\.yaml:14:5: error .*did you mean collect")
        )
        assert violations(visited.page) == []
        line = told.locator("li").first.inner_text()
        dev.err.wait_for(re.escape(line))
        flow.write_text(good.replace("Two working days", "One working day"))
        expect(told).to_be_hidden()
        visited.say("France")
        visited.until("Two working days, and free above 50 euros.")
        visited.say("delivery")
        visited.until("Where do you live?")
        visited.say("France")
        visited.until("One working day, and free above 50 euros.")


def test_a_browser_outlives_its_server_and_begins_anew_with_one_that_forgot_it(
    tmp_path: Path, opens: Opens
) -> None:
    folder, port = project(tmp_path, "faq"), free_port()
    with Dev(folder, port=port) as dev:
        visited = opens(dev.url)
        visited.forgiven = "WebSocket connection to"  # what the browser itself says of a refused connection
        visited.open()
        visited.say("delivery")
        visited.until("Where do you live?")
        dev.kill()
    visited.state("waiting")
    visited.say("France")
    expect(visited.page.locator("#unsent")).to_contain_text("France")
    with Dev(folder, port=port) as dev:
        visited.until("Two working days, and free above 50 euros.")
        assert [text for text in visited.messages() if text == "France"] == ["France"]
        expect(visited.page.locator("#unsent .message")).to_have_count(0)
        visited.state("live")
        dev.kill()
    shutil.rmtree(folder / ".parley")
    with Dev(folder, port=port):
        visited.page.wait_for_selector("#log .note")
        visited.state("live")
        assert visited.messages()[-1].startswith("The server does not know this browser any more")
        visited.say("phone")
        visited.until("Call 01 23 45 67 89, Monday to Friday, 9 to 17.")


def test_a_new_conversation_and_a_fresh_start_are_one_press_away(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    visited.say("help")
    visited.until("What would you like to know about?")
    conversation = visited.page.locator("#state dd").nth(3)
    first = conversation.inner_text()
    visited.page.get_by_role("button", name="Start over").click()
    expect(visited.page.locator("#log .note")).to_have_text("The conversation begins afresh.")
    assert visited.messages() == ["The conversation begins afresh."]
    assert conversation.inner_text() == first
    visited.page.get_by_role("button", name="New", exact=True).click()
    expect(conversation).not_to_have_text(first)
    visited.say("phone")
    visited.until("Call 01 23 45 67 89, Monday to Friday, 9 to 17.")


def test_two_tabs_are_one_person_in_one_conversation(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    visited.state("live")
    other = visited.context.new_page()
    other.goto(faq.url)
    other.wait_for_selector("#connection[data-state=live]")
    visited.say("phone")
    other.wait_for_function("() => document.querySelector('#log').textContent.includes('01 23 45')")


def test_a_long_conversation_opens_with_its_newest_messages(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    for number in range(30):
        visited.say(f"phone {number}")
        if number % 15 == 14:  # as many as may wait at once
            expect(visited.page.locator("#log .message")).to_have_count(2 * (number + 1))
    visited.page.reload()
    visited.state("live")
    messages = visited.page.locator("#log .message")
    expect(messages).to_have_count(50)
    expect(messages.first).to_contain_text("phone 5")
    visited.page.get_by_role("button", name="Earlier messages").click()
    expect(messages).to_have_count(60)
    expect(messages.first).to_contain_text("phone 0")
    expect(visited.page.get_by_role("button", name="Earlier messages")).to_be_hidden()


# --- the connection, with a server that is played --------------------------------------------------


def test_what_was_not_acknowledged_survives_a_reload_with_its_key(scripted: Scripted) -> None:
    visited, script = scripted()
    visited.say("remember me")
    first = script.next("process")
    expect(visited.page.locator("#unsent")).to_contain_text("remember me")
    visited.page.reload()
    again = script.next("process")
    assert again["idempotency_key"] == first["idempotency_key"]
    assert again["content"] == first["content"]
    result: dict[str, Any] = {"response": {"messages": []}}
    script.ack(again, duplicate=True, status="completed", result=result)
    expect(visited.page.locator("#unsent .message")).to_have_count(0)
    script.frames.clear()
    visited.page.reload()
    script.next("hello")
    visited.state("live")
    assert "process" not in [frame["type"] for frame in script.frames]


def test_one_command_is_on_its_way_at_a_time(scripted: Scripted) -> None:
    visited, script = scripted()
    visited.say("first")
    visited.say("second")
    first = script.next("process")
    assert "process" not in [frame["type"] for frame in script.frames]
    script.ack(first, status="running")
    assert script.next("process")["content"]["text"] == "second"


def test_a_lost_connection_resumes_behind_what_was_seen(scripted: Scripted) -> None:
    visited, script = scripted()
    script.events(("message.completed", script.message("one")), ("message.completed", script.message("two")))
    visited.until("two")
    script.frames.clear()
    script.sockets[-1].close(code=4001, reason="shutdown")
    assert script.next("hello")["resume"] == {"epoch": "e1", "offset": 2}
    visited.state("live")
    script.events(("message.completed", script.message("three")))
    visited.until("three")
    assert visited.messages() == ["one", "two", "three"]


def test_a_gap_is_asked_for_and_not_shown(scripted: Scripted) -> None:
    visited, script = scripted()
    script.events(("message.completed", script.message("one")))
    visited.until("one")
    script.offset += 1
    script.events(("message.completed", script.message("three")))
    assert script.next("subscribe")["resume"] == {"epoch": "e1", "offset": 1}
    assert visited.messages() == ["one"]


def test_a_close_that_is_final_says_why_and_waits_for_a_person(scripted: Scripted) -> None:
    visited, script = scripted()
    for code in (4500, 4503, 4507, 1008):
        script.frames.clear()
        script.sockets[-1].close(code=code, reason=f"not here, by {code}")
        visited.state("stopped")
        expect(visited.page.get_by_role("alert").first).to_have_text(f"not here, by {code}")
        assert script.frames == []
        visited.page.get_by_role("button", name="Try now").click()
        assert script.next("hello")
        visited.state("live")


def test_a_token_is_renewed_when_the_server_asks(scripted: Scripted) -> None:
    _, script = scripted()
    script.send("auth.required", expires_in=25)
    assert script.next("auth")["token"]


def test_a_message_is_shown_while_it_is_written_and_read_out_when_it_is_whole(scripted: Scripted) -> None:
    visited, script = scripted()
    page = visited.page
    for index, piece in enumerate(("Good ", "morn", "ing")):
        script.send("message.delta", execution_id="x1", message_id="m9", index=index, delta=piece)
    writing = page.locator("#writing .text")
    expect(writing).to_have_text("Good morning")
    assert page.locator("[role=log] .message, [aria-live] .message").count() == 0
    script.send("message.delta", execution_id="x1", message_id="m9", index=4, delta="lost")
    script.events(("message.completed", script.message("Good morning, Ada.", message_id="m9")))
    visited.until("Good morning, Ada.")
    expect(writing).to_have_count(0)
    assert visited.messages() == ["Good morning, Ada."]
    script.send("message.delta", execution_id="x1", message_id="m10", index=0, delta="Hm")
    expect(writing).to_have_text("Hm")
    script.events(("message.retracted", {"message_id": "m10"}))
    expect(writing).to_have_count(0)


def test_a_snapshot_shows_what_is_being_written(scripted: Scripted) -> None:
    visited, script = scripted(offset=7, recovered=False)
    script.send("snapshot", epoch="e1", offset=7, state={"current_state": "tell", "status": "running"},
                messages=[script.message("so far")], before=None, pending=[],
                partials=[{"message_id": "m5", "text": "Hel", "next_index": 2}])  # fmt: skip
    script.send("message.delta", execution_id="x1", message_id="m5", index=2, delta="lo")
    expect(visited.page.locator("#writing .text")).to_have_text("Hello")
    assert visited.messages() == ["so far"]
    expect(visited.page.locator("#state")).to_contain_text("tell")


def test_a_refused_message_comes_back_to_be_mended(scripted: Scripted) -> None:
    visited, script = scripted()
    visited.say("too long")
    frame = script.next("process")
    script.send("error", id=frame["id"], error=wire_error("bad_request", "That is too long.", "Say less."))
    expect(visited.page.get_by_role("alert").first).to_have_text("That is too long. Say less.")
    expect(visited.page.get_by_label("Message", exact=True)).to_have_value("too long")
    expect(visited.page.locator("#unsent .message")).to_have_count(0)


def wire_error(code: str, message: str, suggestion: str | None = None, **more: Any) -> dict[str, Any]:
    nothing = {"temporary": False, "retry_after_ms": None, "field": None, "details": None, "docs": ""}
    return {**nothing, "code": code, "message": message, "suggestion": suggestion, **more}


# --- people are asked -----------------------------------------------------------------------------


QUESTIONS = [
    {"id": "part", "text": "Which?", "type": "choice", "options": ["morning", "afternoon"], "required": True},
    {"id": "day", "text": "Which day?", "type": "date", "options": [], "required": True},
    {"id": "first", "text": "Is it your first time?", "type": "boolean", "options": [], "required": True},
    {"id": "place", "text": "Where?", "type": "choice", "options": list("abcdefgh"), "required": True},
    {"id": "note", "text": "Anything else?", "type": "text", "options": [], "required": False},
]  # fmt: skip


def test_questions_are_a_form_that_is_filled_with_the_keyboard(scripted: Scripted) -> None:
    visited, script = scripted()
    page, keys = visited.page, visited.page.keyboard
    script.events(("clarification.requested", pending("clarification", questions=QUESTIONS)))
    form = page.get_by_role("form", name="Some questions")
    form.get_by_role("radio", name="morning").focus()
    keys.press("ArrowDown")
    keys.press("Tab")
    keys.type("12242026")
    form.get_by_role("radio", name="Yes").focus()
    keys.press("Space")
    keys.press("Tab")
    keys.type("c")
    keys.press("Tab")
    keys.type("please")
    keys.press("Enter")
    sent = script.next("clarification")
    assert sent["answers"] == {
        "part": "afternoon", "day": "2026-12-24", "first": True, "place": "c", "note": "please"
    }  # fmt: skip
    expect(form.get_by_role("button", name="Answer")).to_be_disabled()
    script.events(resolved("clarification", answers=sent["answers"]), key=sent["idempotency_key"])
    expect(form).to_have_count(0)


@pytest.mark.parametrize("name", ["elements", "append", "remove", "querySelector", "onsubmit", "id"])
def test_a_question_may_be_called_like_a_part_of_the_form(scripted: Scripted, name: str) -> None:
    """In a browser a control of that name takes the place of the form's own property."""
    visited, script = scripted()
    questions = [{"id": name, "text": "Which?", "type": "text", "options": [], "required": True}]
    script.events(("clarification.requested", pending("clarification", questions=questions)))
    form = visited.page.get_by_role("form", name="Some questions")
    form.get_by_label("Which?").fill("this")
    form.get_by_role("button", name="Answer").click()
    sent = script.next("clarification")
    assert sent["answers"] == {name: "this"}
    expect(form.get_by_role("button", name="Answer")).to_be_disabled()
    script.events(resolved("clarification", answers=sent["answers"]), key=sent["idempotency_key"])
    expect(form).to_have_count(0)


def test_a_slot_called_comment_is_not_taken_for_the_comment(scripted: Scripted) -> None:
    visited, script = scripted()
    asked = pending("acceptance", title="Send it?", prompt=None, editable=["slots.comment"], digest="d1")
    script.events(("slots.updated", {"slots": {"comment": "rude"}}), ("acceptance.requested", asked))
    card = visited.page.get_by_role("form", name="Send it?")
    card.get_by_label("comment", exact=True).fill("kind")
    card.get_by_label("Comment (optional)").fill("mended")
    card.get_by_role("button", name="Accept").click()
    sent = script.next("acceptance")
    assert (sent["edits"], sent["comment"]) == ({"comment": "kind"}, "mended")


def resolved(kind: str, **decided: Any) -> tuple[str, dict[str, Any]]:
    return "pending.resolved", {"pending_id": "p1", "kind": kind, "decided": {"by": "u1", **decided}}


def test_a_missing_answer_is_named_and_gets_the_focus(scripted: Scripted) -> None:
    visited, script = scripted()
    script.events(("clarification.requested", pending("clarification", questions=QUESTIONS)))
    form = visited.page.get_by_role("form", name="Some questions")
    form.get_by_label("Anything else?").fill("kept")
    form.get_by_role("button", name="Answer").click()
    sent = script.next("clarification")
    assert sent["answers"] == {"note": "kept"}
    error = wire_error(
        "missing_answers", "These questions need an answer: day.", details={"missing": ["day"]}
    )
    script.send("error", id=sent["id"], error=error)
    expect(form.get_by_role("alert")).to_have_text("These questions need an answer: day.")
    expect(form.get_by_label("Which day?")).to_be_focused()
    expect(form.get_by_label("Anything else?")).to_have_value("kept")


def test_a_decision_shows_its_deadline_and_takes_edits(scripted: Scripted) -> None:
    visited, script = scripted()
    card = asks_to_accept(visited, script)
    expect(card.locator(".deadline")).to_contain_text("until")
    amount = card.get_by_label("amount")
    expect(amount).to_have_value("40")
    amount.fill("35")
    # what waits changes while somebody types
    script.events(("acceptance.requested", refund(votes=[{"by": "u2", "accepted": True}], digest="d2")))
    expect(card).to_contain_text("1 of 2 have decided.")
    expect(amount).to_have_value("35")
    card.get_by_label("Comment (optional)").fill("fine")
    card.get_by_role("button", name="Accept").click()
    sent = script.next("acceptance")
    told = {name: sent[name] for name in ("pending_id", "accepted", "comment", "edits", "digest")}
    assert told == {
        "pending_id": "p1", "accepted": True, "comment": "fine", "edits": {"amount": 35}, "digest": "d2"
    }  # fmt: skip
    script.events(resolved("acceptance", accepted=True), key=sent["idempotency_key"])
    expect(card).to_have_count(0)


def refund(digest: str = "d1", **fields: Any) -> dict[str, Any]:
    return pending(
        "acceptance",
        title="Pay back 40 euros?",
        prompt="To Ada, for the broken cup.",
        editable=["slots.amount", "slots.reason"],
        by={"scope": None, "user": "u1", "quorum": 2},
        digest=digest,
        deadline="2026-01-01T00:15:00.000Z",
        **fields,
    )


def asks_to_accept(visited: Visit, script: Script) -> Locator:
    slots = {"amount": 40, "reason": "a broken cup"}
    script.events(("slots.updated", {"slots": slots}), ("acceptance.requested", refund()))
    card = visited.page.get_by_role("form", name="Pay back 40 euros?")
    expect(card).to_contain_text("To Ada, for the broken cup.")
    return card


def test_a_rejection_carries_no_edits(scripted: Scripted) -> None:
    visited, script = scripted()
    card = asks_to_accept(visited, script)
    card.get_by_label("amount").fill("35")
    card.get_by_role("button", name="Reject").click()
    sent = script.next("acceptance")
    assert (sent["accepted"], sent["edits"], sent["comment"]) == (False, {}, None)


def test_who_was_slower_is_told(scripted: Scripted) -> None:
    visited, script = scripted()
    card = asks_to_accept(visited, script)
    card.get_by_role("button", name="Accept").click()
    sent = script.next("acceptance")
    script.events(resolved("acceptance", accepted=False), key="another-command")
    script.send("error", id=sent["id"], error=wire_error("pending_resolved", "It was rejected by bob."))
    expect(card).to_have_count(0)
    expect(visited.page.locator("#trouble")).to_have_text("It was rejected by bob.")
    assert visited.messages() == ["Rejected."]


def test_a_deadline_that_passes_is_told(scripted: Scripted) -> None:
    visited, script = scripted()
    card = asks_to_accept(visited, script)
    expired = {"pending_id": "p1", "kind": "acceptance", "decided": {"by": None, "accepted": False}}
    script.events(("pending.expired", expired))
    expect(card).to_have_count(0)
    assert visited.messages() == ["The time is over: rejected."]


# --- what must not happen -------------------------------------------------------------------------


def test_markup_that_people_say_stays_text(faq: Dev, opens: Opens) -> None:
    visited = opens(faq.url)
    visited.open()
    visited.say("echo")
    visited.until("Say something.")
    for words in MARKUP:
        visited.say(words)
        if words in MARKUP[9::10]:  # as many as may wait at once
            heard(visited, words)
    heard(visited, MARKUP[-1])
    echoed = [text.removeprefix("You said ") for text in visited.messages() if text.startswith("You said ")]
    assert echoed == [clean(words) for words in MARKUP]
    nothing_but_text(visited)
    visited.page.reload()
    heard(visited, MARKUP[-1])
    nothing_but_text(visited)


def clean(words: str) -> str:
    """Return words as a flow gets them: without what turns the direction of writing."""
    return words.replace("\u202e", "")


def heard(visited: Visit, words: str) -> None:
    """Wait until these words have come back, and everything before them."""
    told = f"You said {clean(words)}"
    newest = "(text) => [...document.querySelectorAll('#log .text')].at(-2)?.textContent === text"
    visited.page.wait_for_function(newest, arg=told)
    visited.until("Say something.")


def nothing_but_text(visited: Visit) -> None:
    known = "script[src='/page/main.js'], link[href^='/page/'], a[href='/page/widget.html']"
    markup = "script, link, img, svg, iframe, object, embed, a, base, style, video, math, meta[http-equiv]"
    assert visited.page.locator(f":is({markup}):not({known})").count() == 0
    names = "[...document.querySelectorAll('*')].flatMap((element) => element.getAttributeNames())"
    attributes = visited.page.evaluate(names)
    assert [name for name in attributes if name == "style" or name.startswith("on")] == []


def test_markup_stays_text_wherever_a_server_may_put_it(scripted: Scripted) -> None:
    visited, script = scripted()
    page = visited.page
    for number, words in enumerate(MARKUP):
        questions = [
            {"id": words, "text": words, "type": kind, "options": [words] * many, "required": True}
            for kind, many in (("choice", 2), ("choice", 9), ("text", 0), (words, 0))
        ]
        person = pending(
            "clarification", pending_id=f"c{number}{words}", title=words, prompt=words, questions=questions
        )
        decision = pending("acceptance", pending_id=f"a{number}{words}", title=words, prompt=words,
                           editable=[f"slots.{words}"], deadline=words)  # fmt: skip
        script.events(
            ("message.received", script.message(words, "user")),
            ("message.completed", script.message(words, buttons=[{"title": words, "payload": words}])),
            ("message.completed", script.message(None, words, type="card", payload={words: words})),
            ("slots.updated", {"slots": {words: words}}),
            ("variables.updated", {"variables": {words: words}}),
            ("execution.waiting", {"status": words, "flow_id": words, "flow_version": words}),
            ("clarification.requested", person),
            ("acceptance.requested", decision),
            ("handoff.requested", {"to": words}),
            ("flow.custom", {"name": words, "payload": words}),
            (words, {"status": words}),
        )
        script.send("message.delta", execution_id="x1", message_id=f"d{number}", index=0, delta=words)
        script.send(words)
        script.send("error", id=None, error=wire_error(words, words, words))
        expect(page.locator("#writing .text").last).to_have_text(words)
    page.evaluate("document.querySelectorAll('#frames details').forEach((frame) => frame.open = true)")
    page.wait_for_timeout(200)
    page.evaluate("document.querySelectorAll('#log .buttons button:enabled').forEach((one) => one.click())")
    nothing_but_text(visited)
    assert len(page.locator("#requests form").all()) == 2 * len(MARKUP)


@pytest.mark.parametrize("size", ["wide", "phone"])
def test_axe_finds_nothing_in_the_light_and_in_the_dark(scripted: Scripted, size: str) -> None:
    # high, so that nothing lies under anything else, whose colours could then not be judged
    view: dict[str, Any] = {"width": 360 if size == "phone" else 1280, "height": 2_600}
    visited, script = scripted(**{**(PHONE if size == "phone" else {}), "viewport": view})
    page = visited.page
    assert violations(visited.page) == []
    buttons = [{"title": "Yes", "payload": "y"}, {"title": "No", "payload": "n"}]
    script.events(
        ("message.received", script.message("Hello", "user")),
        ("message.completed", script.message("Shall I?", buttons=buttons)),
        ("message.completed", script.message("I take over.", "agent")),
        ("message.completed", script.message(None, payload={"card": 1}, type="card")),
        ("handoff.requested", {"to": "desk"}),
        ("clarification.requested", pending("clarification", pending_id="p2", questions=QUESTIONS)),
    )
    card = asks_to_accept(visited, script)
    script.send("message.delta", execution_id="x1", message_id="m9", index=0, delta="I am ")
    script.send("error", id=None, error=wire_error("bad_request", "Something is wrong."))
    visited.say("waits")
    card.get_by_role("button", name="Accept").focus()
    assert violations(visited.page) == []
    if size == "phone":
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="Inspect").click()
    page.locator("#frames summary").last.click()
    assert violations(visited.page) == []
    script.sockets[-1].close(code=4500, reason="ended")
    visited.state("stopped")
    assert violations(visited.page) == []


def test_who_wants_no_motion_gets_none(scripted: Scripted) -> None:
    visited, _ = scripted()
    visited.page.emulate_media(reduced_motion="reduce")
    visited.say("hello")
    assert (
        visited.page.locator(".dots i").first.evaluate("(dot) => getComputedStyle(dot).animationName")
        == "none"
    )


def test_without_javascript_the_page_says_what_it_needs(faq: Dev, browser: Browser) -> None:
    with visit(browser, faq.url, java_script_enabled=False) as visited:
        visited.open()
        assert re.search("JavaScript", visited.page.locator("noscript").inner_text())
