"""Thousands of damaged frames of every type: the codec and the session answer each of them properly.

``HYPOTHESIS_PROFILE=quick`` runs a fraction while one works on something.
"""

import json
import os
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.codec import CodecLimits, decode, encode, peek
from protocol.errors import CloseCode, ErrorCode, InvalidFrame
from protocol.frames import CLIENT_FRAME_TYPES, ClientFrame
from protocol.session import Close, Handle, Reply, Session, SessionLimits
from tests.unit.protocol.strategies import damaged_frames, valid_frames

EXAMPLES = 200 if os.environ.get("HYPOTHESIS_PROFILE") == "quick" else 5_000
LIMITS = CodecLimits(max_frame_bytes=8_192)
CODES = {ErrorCode.BAD_REQUEST, ErrorCode.INVALID_FRAME, ErrorCode.UNKNOWN_TYPE, ErrorCode.PAYLOAD_TOO_LARGE}
UNANSWERED = ("typing", "pong")

many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@pytest.mark.parametrize("name", sorted(CLIENT_FRAME_TYPES))
def test_damaged_frames_are_read_or_refused(name: str) -> None:
    """Codec and session level see the same 5,000 examples a frame type."""

    @many
    @given(data=damaged_frames(name))
    def check(data: str | bytes) -> None:
        outcome = decoded_or_refused(data)
        session_agrees(data, outcome)

    check()


def decoded_or_refused(data: str | bytes) -> ClientFrame | InvalidFrame:
    try:
        frame = decode(data, LIMITS)
    except InvalidFrame as error:
        refusal = error
    else:
        again = decode(encode(frame.model_dump()), LIMITS)
        assert again == frame
        assert encode(again.model_dump()) == encode(frame.model_dump())
        return frame
    assert refusal.code in CODES
    assert 0 < len(refusal.message) <= 300
    assert refusal.message.isprintable()
    if refusal.code in (ErrorCode.BAD_REQUEST, ErrorCode.UNKNOWN_TYPE):
        assert refusal.frame_id == peek(data)[1]
        assert refusal.field is not None
    orjson.dumps(refusal.to_wire())
    return refusal


def session_agrees(data: str | bytes, outcome: ClientFrame | InvalidFrame) -> None:
    """An open session hands out what the codec takes, and answers once what it refuses."""
    session = open_session()
    actions = session.receive_text(data, 1)
    if isinstance(outcome, InvalidFrame):
        if outcome.code is ErrorCode.PAYLOAD_TOO_LARGE:
            assert [close_code(action) for action in actions] == [CloseCode.MESSAGE_TOO_BIG]
        elif isinstance(data, bytes) and not is_utf8(data):
            assert [close_code(action) for action in actions] == [CloseCode.INVALID_UTF8]
        else:
            assert [replied(action) for action in actions] == [(outcome.frame_id, outcome.code.value)]
    elif outcome.type == "hello":
        assert [replied(action) for action in actions] == [(outcome.id, "bad_request")]
    elif outcome.type == "pong":
        assert actions == []
    else:
        assert actions == [Handle(outcome)]


@pytest.mark.parametrize("name", sorted(CLIENT_FRAME_TYPES))
def test_undamaged_frames_are_accepted(name: str) -> None:
    """The valid frames are valid, so the damage is what the other test is about."""
    for frame in valid_frames(name):
        assert decode(json.dumps(frame), LIMITS).type == name


@settings(max_examples=EXAMPLES // 5, deadline=None, database=None)
@given(st.one_of(st.text(), st.binary()))
def test_anything_at_all_is_read_or_refused(data: str | bytes) -> None:
    session_agrees(data, decoded_or_refused(data))


@settings(max_examples=EXAMPLES // 5, deadline=None, database=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=30,
    )
)
def test_any_json_survives_as_a_value_or_is_refused(value: Any) -> None:
    frame = {
        "type": "clarification",
        "id": "9",
        "conversation_id": "c",
        "pending_id": "p",
        "answers": {"a": value},
    }
    outcome = decoded_or_refused(json.dumps(frame))
    if isinstance(outcome, InvalidFrame):
        assert outcome.code is ErrorCode.INVALID_FRAME
        assert has_a_number_beyond(value)
    else:
        assert not has_a_number_beyond(value)
        assert outcome.type == "clarification"
        assert outcome.answers["a"] == value


def has_a_number_beyond(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(
            has_a_number_beyond(inner) for inner in (value.values() if isinstance(value, dict) else value)
        )
    return isinstance(value, int | float) and not -(2**53) <= value <= 2**53


def open_session() -> Session:
    session = Session(SessionLimits(codec=LIMITS), 0)
    session.receive_text('{"type":"hello","id":"h"}', 0)
    session.authenticated(("t", "u"), None, 0)
    return session


def close_code(action: Any) -> CloseCode:
    assert isinstance(action, Close)
    return action.code


def replied(action: Any) -> tuple[str | None, str]:
    assert isinstance(action, Reply)
    return action.frame["id"], action.frame["error"]["code"]


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- whole connections ---------------------------------------------------------------------------

STATE = '{"type":"state","id":"1","conversation_id":"c"}'
frame_texts = st.sampled_from(sorted(CLIENT_FRAME_TYPES)).flatmap(damaged_frames)
events = st.one_of(
    st.tuples(st.just("text"), frame_texts),
    st.tuples(st.just("text"), frame_texts),
    st.tuples(st.just("text"), st.just('{"type":"hello","id":"h"}')),
    st.tuples(st.just("many"), st.sampled_from([STATE, "{", '{"type":"pong"}'])),
    st.sampled_from([("tick",), ("tick",), ("binary",), ("answered",), ("refuse",), ("renew",)]),
    st.tuples(st.just("welcome"), st.sampled_from([None, 40_000])),
)
pauses = st.sampled_from([0, 0, 1, 40, 900, 5_000, 26_000, 36_000])


@settings(
    max_examples=max(200, EXAMPLES // 5),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.booleans(), st.lists(st.tuples(pauses, events), max_size=25))
def test_a_connection_keeps_its_rules_whatever_happens(greeted: bool, life: list[tuple[int, Any]]) -> None:
    """Never raises; one answer an id; nothing before welcome or after the close; bounded memory."""
    watched = WatchedSession()
    if greeted:
        watched.happen(("text", '{"type":"hello","id":"h"}'))
        watched.happen(("welcome", None))
    for pause, event in life:
        watched.now += pause
        watched.happen(event)


class WatchedSession:
    """A session whose every action is held against the specification."""

    def __init__(self) -> None:
        self.now = 0
        self.limits = SessionLimits(codec=LIMITS)
        self.session = Session(self.limits, 0)
        self.in_flight: list[str] = []
        self.hello_seen = self.welcomed = self.closed = False
        self.unanswered = 0

    def happen(self, event: Any) -> None:
        match event:
            case ("text", data):
                self.receive(data)
            case ("many", data):
                for _ in range(60):
                    self.receive(data)
            case ("tick",):
                self.check(self.session.tick(self.now))
            case ("binary",):
                self.check(self.session.receive_binary(self.now))
            case ("answered",) if self.in_flight:
                self.session.answered(self.in_flight.pop(0))
            case ("welcome", expiry) if self.hello_seen and not self.welcomed:
                self.welcomed = True
                expires_at = None if expiry is None else self.now + expiry
                waiting, self.unanswered = self.unanswered, 0
                actions = self.session.authenticated(("t", "u"), expires_at, self.now)
                assert len(actions) <= min(waiting, self.limits.waiting_max_frames) + 1
                self.check(actions)
            case ("refuse",) if self.hello_seen and not self.welcomed and not self.closed:
                error = InvalidFrame("no", code=ErrorCode.UNAUTHORIZED)
                actions = self.session.hello_refused(error)
                assert replied(actions[0])[0] is not None
                assert close_code(actions[1]) is CloseCode.UNAUTHORIZED
                self.check(actions)
            case ("renew",) if self.welcomed and not self.closed:
                self.session.renewed(("t", "u"), self.now + 40_000)

    def receive(self, data: str | bytes) -> None:
        was_closed, waits = self.closed, self.hello_seen and not self.welcomed
        actions = self.session.receive_text(data, self.now)
        if was_closed:
            assert actions == []
            return
        name, frame_id = peek(data)
        if waits and actions == []:
            self.unanswered += 1  # it waits for the welcome, or was dropped as one too many
        elif frame_id is not None and not any(isinstance(action, Close) for action in actions):
            assert len(actions) == 1, "a frame with an id has exactly one outcome"
        elif frame_id is None and name in UNANSWERED:
            assert all(
                not isinstance(a, Reply) or a.frame["error"]["code"] != "rate_limited" for a in actions
            )
        self.check(actions)

    def check(self, actions: list[Any]) -> None:
        assert not (self.closed and actions), "nothing follows a close"
        for number, action in enumerate(actions):
            if isinstance(action, Close):
                assert number == len(actions) - 1
                self.closed = True
                assert self.session.is_closed
                assert self.session.deadline_ms is None
                assert len(action.reason.encode()) <= 123
            elif isinstance(action, Handle):
                self.handled(action.frame)
            elif isinstance(action, Reply):
                orjson.dumps(action.frame)
        deadline = self.session.deadline_ms
        if not self.closed and deadline is not None and deadline > self.now:
            assert self.session.tick(self.now) == [], "nothing is due before the deadline"

    def handled(self, frame: ClientFrame) -> None:
        if frame.type == "hello":
            assert not self.hello_seen
            self.hello_seen = True
            return
        assert self.welcomed, "nothing but hello is handled before welcome"
        assert frame.type != "pong"
        if frame.type != "typing":
            assert frame.id not in self.in_flight
            self.in_flight.append(frame.id)
            assert len(self.in_flight) <= self.limits.in_flight_max
