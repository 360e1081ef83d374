"""Which flow a message or a button starts, without a model."""

import pytest

from server.engine.flow.loader import compile_flow
from server.engine.flow.model import Flow
from server.engine.flow.understanding import Match, Understanding


def flow(flow_id: str, *intents: str) -> Flow:
    """Return a flow with these intents, in YAML."""
    listed = "".join(f"    - {intent}\n" for intent in intents)
    triggers = f"triggers:\n  intents:\n{listed}" if intents else ""
    return compile_flow(f"flow: {flow_id}\n{triggers}steps: [{{say: Hi}}]\n", "f.yaml")


BOOK = flow(
    "book_appointment",
    "{name: book, keywords: [book, appointment], payloads: [book],"
    " examples: [I need an appointment, can I come and see you]}",
)
CANCEL = flow(
    "cancel_booking", "{name: cancel, keywords: [cancel, call off], examples: [I cannot come after all]}"
)
HOURS = flow(
    "opening_hours",
    "{name: hours, examples: [when are you open, what are your opening hours, are you open on Sunday]}",
    "{name: where, keywords: [address, café], payloads: ['where?']}",
)
BARE = flow("bare")
ALL = Understanding([BOOK, CANCEL, HOURS, BARE])


def found(text: str | None = None, payload: str | None = None) -> tuple[str, str | None] | None:
    match = ALL.match(text, payload)
    assert match is None or 0 < match.score <= 1
    return None if match is None else (match.flow_id, match.intent)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("book", ("book_appointment", "book")),
        ("where?", ("opening_hours", "where")),
        ("cancel_booking", ("cancel_booking", None)),
        ("/cancel_booking", ("cancel_booking", None)),
        (" bare ", ("bare", None)),
        ("Book", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_payloads_are_exact(payload: str, expected: tuple[str, str | None] | None) -> None:
    assert found(payload=payload) == expected


def test_a_payload_goes_before_the_text() -> None:
    assert found("cancel", "book") == ("book_appointment", "book")
    assert found("cancel", "unknown") == ("cancel_booking", "cancel")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("book", ("book_appointment", "book")),
        ("I'd like to BOOK something!", ("book_appointment", "book")),
        ("Appointment.", ("book_appointment", "book")),
        ("facebook", None),
        ("booking", None),
        ("call it off", None),
        ("please call  off my visit", ("cancel_booking", "cancel")),
        ("cancel my appointment", ("cancel_booking", "cancel")),
        ("an appointment: book, do not cancel", ("book_appointment", "book")),
        ("where is the CAFE", ("opening_hours", "where")),
        ("the Café's address", ("opening_hours", "where")),
        ("I cannot come after all", ("cancel_booking", "cancel")),
        ("When are you open?", ("opening_hours", "hours")),
        ("are you open on sunday morning", ("opening_hours", "hours")),
        ("opening hours?", ("opening_hours", "hours")),
        ("are you there", None),
        ("I need an invoice", None),
        ("hello", None),
        ("/bare", ("bare", None)),
        ("/nothing", None),
        ("bare", None),
        ("", None),
        ("   ", None),
        ("!?", None),
        (None, None),
    ],
)
def test_texts(text: str | None, expected: tuple[str, str | None] | None) -> None:
    assert found(text) == expected


def test_an_example_word_for_word_is_certain() -> None:
    assert ALL.match("can i come AND see you?", None) == Match("book_appointment", "book", 1.0)


def test_the_least_overlap_is_the_authors() -> None:
    strict = Understanding([flow("f", "{name: a, examples: [my parcel is lost], min: 1.0}")])
    loose = Understanding([flow("f", "{name: a, examples: [my parcel is lost], min: 0.4}")])
    assert strict.match("my parcel is late and lost", None) is None
    assert loose.match("where is my parcel", None) is not None


def test_the_earlier_of_two_equal_flows_wins() -> None:
    same = "{name: a, keywords: [x]}"
    assert Understanding([flow("one", same), flow("two", same)]).match("x", None) == Match("one", "a", 0.92)
    assert Understanding([flow("two", same), flow("one", same)]).match("x", None) == Match("two", "a", 0.92)


def test_more_keywords_win() -> None:
    understanding = Understanding(
        [flow("one", "{name: a, keywords: [order]}"), flow("two", "{name: b, keywords: [order, status]}")]
    )
    match = understanding.match("the status of my order", None)
    assert match is not None
    assert match.flow_id == "two"


def test_commands() -> None:
    assert Understanding.command(" /Restart ") == "restart"
    assert Understanding.command("/book") is None
    assert Understanding.command("restart") is None
    assert Understanding.command(None) is None


def test_no_flows_match_nothing() -> None:
    assert Understanding([]).match("book", "book") is None
