"""What chat shows: messages as they are said, nothing that drives the terminal, JSON for machines."""

import io
import json
from typing import Any

import pytest
from parley_client import ConnectionEvent, Pending, Question, Refused, State, errors, events

from server.cli.screen import Screen


def event(type_: str, data: dict[str, Any], command_id: str | None = "k") -> events.AnyEvent:
    raw = {"type": type_, "offset": 1, "time": None, "execution_id": None, "step_id": None}
    return events.parse_event("c1", {**raw, "command_id": command_id, "cause": None, "data": data})


def said(text: str | None, role: str = "assistant", message_id: str = "m1", **more: Any) -> events.AnyEvent:
    type_ = "message.received" if role == "user" else "message.completed"
    return event(type_, {"message_id": message_id, "role": role, "type": "text", "text": text, **more})


def delta(text: str, index: int = 0, message_id: str = "m1") -> events.MessageDelta:
    return events.MessageDelta(
        conversation_id="c1", execution_id=None, message_id=message_id, index=index, delta=text
    )


class Shown:
    """A screen with what is on it."""

    def __init__(self, *, lively: bool = False, as_json: bool = False) -> None:
        self._out, self._notices = io.StringIO(), io.StringIO()
        self.screen = Screen(self._out, self._notices, lively=lively, as_json=as_json)

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def notices(self) -> str:
        return self._notices.getvalue()


@pytest.fixture
def plain() -> Shown:
    return Shown()


@pytest.fixture
def live() -> Shown:
    return Shown(lively=True)


def test_a_reply_is_its_text(plain: Shown) -> None:
    plain.screen.show(said("Which size?"))
    assert plain.out == "Which size?\n"


def test_buttons_are_numbered_and_remembered(plain: Shown) -> None:
    plain.screen.show(
        said("Which?", buttons=[{"title": "A", "payload": "a"}, {"title": "B", "payload": "b"}])
    )
    assert plain.out == "Which?\n  1) A\n  2) B\n"
    assert [button.payload for button in plain.screen.buttons] == ["a", "b"]


def test_a_later_message_takes_the_buttons_away(plain: Shown) -> None:
    plain.screen.show(said("Which?", buttons=[{"title": "A", "payload": "a"}]))
    plain.screen.show(said("Never mind."))
    assert plain.screen.buttons == ()


def test_ones_own_words_are_not_repeated_but_those_of_another_device_are(plain: Shown) -> None:
    plain.screen.own_commands.add("k")
    plain.screen.show(said("mine", role="user"))
    assert plain.out == ""
    plain.screen.own_commands.clear()
    plain.screen.show(said("theirs", role="user"))
    assert plain.out == "theirs\n"


@pytest.mark.parametrize(
    "text",
    ["\x1b[2J gone", "\x1b]0;title\x07", "a\rb", "\x9b31m", "back\x08\x08", "turned \u202e around", "\0"],
)
def test_a_text_cannot_drive_the_terminal(text: str) -> None:
    for shown in (Shown(), Shown(lively=True)):
        shown.screen.show(said(text, buttons=[{"title": text, "payload": "a"}]))
        shown.screen.show(delta(text, message_id="m2"))
        shown.screen.error(Refused(text, code="x", suggestion=text))
        for control in "\x1b]0;", "\x1b[2J", "\r", "\x07", "\x08", "\x9b", "\u202e", "\0":
            assert control not in shown.out + shown.notices


def test_texts_keep_their_lines_and_letters(plain: Shown) -> None:
    plain.screen.show(said("Grüße 👋\n\tzwei"))
    assert plain.out == "Grüße 👋\n\tzwei\n"


def test_pieces_are_shown_as_they_come_and_the_whole_not_again(live: Shown) -> None:
    live.screen.show(delta("Hel"))
    live.screen.show(delta("lo", 1))
    live.screen.show(said("Hello"))
    assert live.out.count("Hello") == 1
    assert live.out.endswith("\n")


def test_a_whole_that_differs_from_its_pieces_wins(live: Shown) -> None:
    live.screen.show(delta("Hel"))
    live.screen.show(said("Help is near"))
    assert "Help is near" in live.out


def test_pieces_are_for_people_only(plain: Shown) -> None:
    plain.screen.show(delta("Hel"))
    assert plain.out == ""


def test_the_prompt_comes_after_a_turn_once(live: Shown) -> None:
    live.screen.show(event("turn.completed", {"success": True}))
    live.screen.prompt()
    assert live.out == "> "
    live.screen.show(said("One more thing."))
    assert live.out.startswith("> \r")


def test_nothing_prompts_where_nobody_sits(plain: Shown) -> None:
    plain.screen.show(event("turn.completed", {"success": True}))
    assert plain.out == ""


def test_a_failed_turn_says_why(plain: Shown) -> None:
    error = {"code": "step_failed", "message": "The calendar is away.", "temporary": False}
    plain.screen.show(event("turn.failed", {"error": error}))
    assert plain.notices == "! The calendar is away.\n"


def test_a_refusal_says_why_and_what_would_be_right(plain: Shown) -> None:
    plain.screen.error(errors.WrongState("Nothing runs.", suggestion="Say something first."))
    assert plain.notices == "! Nothing runs. (Say something first.)\n"


@pytest.mark.parametrize(
    ("type_", "data", "shown"),
    [
        ("conversation.reset", {"reason": None}, "begins afresh"),
        ("handoff.requested", {"to": "support"}, "person is asked"),
        ("flow.custom", {"name": "action.progress", "payload": {"text": "half way"}}, "half way"),
    ],
)
def test_what_nobody_said_is_a_notice(live: Shown, type_: str, data: dict[str, Any], shown: str) -> None:
    live.screen.show(event(type_, data))
    assert shown in live.notices


TIMES = {"created_at": "2026-01-01T00:00:00.000Z", "deadline": "2026-01-01T00:15:00.000Z"}


def requested(kind: str, **more: Any) -> events.AnyEvent:
    return event(f"{kind}.requested", {"pending_id": "p", "kind": kind, **more})


@pytest.mark.parametrize("kind", ["clarification", "acceptance"])
def test_an_open_request_says_what_it_is_about_and_until_when(plain: Shown, kind: str) -> None:
    plain.screen.show(requested(kind, prompt="Book it?", **TIMES))
    assert plain.out == "Book it?\n"
    assert "within 15 minutes" in plain.notices


def test_a_decision_shows_what_may_be_done(plain: Shown) -> None:
    votes = [{"by": "ada", "accepted": True, "comment": "fine"}]
    plain.screen.show(requested("acceptance", title="Pay 40?", editable=["slots.amount"], votes=votes))
    assert plain.out == "Pay 40?\n"
    for shown in "/accept", "/reject", "/edit amount=", "Accepted by ada: fine":
        assert shown in plain.notices


def test_what_may_be_changed_is_shown_as_it_is_now(plain: Shown) -> None:
    pending = Pending.from_wire({"pending_id": "p", "kind": "acceptance", "editable": ["date", "note"]})
    plain.screen.request(pending, 60, {"date": "2031-05-20"})
    assert 'date (now "2031-05-20"), note.' in plain.notices


def test_options_of_a_question_are_numbered(plain: Shown) -> None:
    plain.screen.question(Question("part", "When?", options=("morning", "afternoon"), required=False))
    assert plain.out == "When?\n  1) morning\n  2) afternoon\n"
    assert "/skip" in plain.notices


@pytest.mark.parametrize(
    ("type_", "decided", "shown"),
    [
        ("resolved", {"by": "ada", "accepted": True, "comment": "ok"}, "Accepted by ada: ok.\n"),
        ("resolved", {"by": "ada", "accepted": False, "comment": None}, "Rejected by ada.\n"),
        ("resolved", {"by": "ada", "accepted": None, "answers": {}}, "Answered by ada.\n"),
        ("expired", {"by": None, "accepted": False}, "Nobody decided in time: rejected.\n"),
        ("expired", {"by": None, "accepted": None}, "This can no longer be answered.\n"),
    ],
)
def test_who_decided_is_told_when_it_was_not_oneself(
    plain: Shown, type_: str, decided: dict[str, Any], shown: str
) -> None:
    closed = event(f"pending.{type_}", {"pending_id": "p", "kind": "acceptance", "decided": decided})
    plain.screen.show(closed)
    assert plain.notices == shown
    if type_ == "resolved":
        plain.screen.own_commands.add("k")
        plain.screen.show(closed)
        assert plain.notices == shown


def test_who_was_faster_is_told_with_the_refusal(plain: Shown) -> None:
    decided = {"by": "ada", "accepted": False, "comment": None}
    plain.screen.error(errors.PendingResolved("Answered.", details={"decided": decided}))
    assert plain.notices == "! Answered. Rejected by ada.\n"


def test_a_request_cannot_drive_the_terminal(plain: Shown) -> None:
    plain.screen.show(requested("acceptance", title="\x1b[2J", editable=["\x1b[2J"]))
    plain.screen.question(Question("q", "\x1b[2J", options=("\x1b[2J",)))
    assert "\x1b" not in plain.out + plain.notices


def test_after_a_deadline_it_is_the_persons_turn_again(live: Shown) -> None:
    live.screen.show(event("execution.waiting", {"status": "waiting_input"}, command_id=None))
    assert live.out == "> "


@pytest.mark.parametrize(
    "type_", ["slots.updated", "step.started", "execution.started", "of.a.later.version"]
)
def test_what_is_not_for_people_is_not_shown(live: Shown, type_: str) -> None:
    live.screen.show(event(type_, {}))
    assert live.out + live.notices == ""


def test_where_a_conversation_stands(plain: Shown) -> None:
    plain.screen.state(State.from_wire({
        "conversation_id": "c1", "status": "waiting_input", "current_state": "what", "flow_id": "order",
        "flow_version": 2, "offset": 7, "slots": {"size": "large"},
    }))  # fmt: skip
    assert plain.notices == 'waiting_input at what of order (version 2), offset 7\n  size: "large"\n'


def test_a_lost_connection_is_told_once_and_its_return_too(live: Shown) -> None:
    for state, attempt in [("connected", 0), ("disconnected", 1), ("connecting", 1), ("disconnected", 2)]:
        live.screen.on_connection(ConnectionEvent(state=state, attempt=attempt))  # type: ignore[arg-type]
    assert live.notices.count("connection is lost") == 1
    live.screen.on_connection(ConnectionEvent(state="connected"))
    assert live.notices.count("Connected again") == 1


def test_connections_are_not_told_where_nobody_sits(plain: Shown) -> None:
    plain.screen.on_connection(ConnectionEvent(state="connected"))
    plain.screen.on_connection(ConnectionEvent(state="disconnected", attempt=1))
    assert plain.notices == ""


def test_trouble_is_told(plain: Shown) -> None:
    trouble = errors.RateLimited("Too fast.")
    plain.screen.on_connection(ConnectionEvent(state="trouble", error=trouble))
    assert plain.notices == "! Too fast.\n"


def test_for_machines_everything_is_a_line_of_json() -> None:
    shown = Shown(as_json=True)
    shown.screen.show(said("a\nb\x1b"))
    shown.screen.show(delta("Hel"))
    shown.screen.show(event("of.a.later.version", {"x": 1}))
    shown.screen.error(Refused("No.", code="wrong_state"))
    shown.screen.notice("not for machines")
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["type"] for row in rows] == [
        "message.completed",
        "message.delta",
        "of.a.later.version",
        "error",
    ]
    assert rows[0]["data"]["text"] == "a\nb\x1b"
    assert rows[3]["error"] == {"code": "wrong_state", "message": "No.", "suggestion": None}
    assert shown.notices == ""
