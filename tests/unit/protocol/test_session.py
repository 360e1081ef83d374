"""The session, beyond its vectors: its driver's side, its deadlines, its bounds."""

import json
import sys
from typing import Any

import pytest

from protocol.codec import CodecLimits, decode
from protocol.errors import CloseCode, ErrorCode, Refused
from protocol.session import Close, Handle, Reply, SendPing, Session, SessionLimits, error_frame

HELLO = '{"type":"hello","id":"h","token":"t"}'
IDENTITY = ("t", "u")


def opened(limits: SessionLimits | None = None, expires_at_ms: int | None = None) -> Session:
    session = Session(limits or SessionLimits(), 0)
    session.receive_text(HELLO, 0)
    session.authenticated(IDENTITY, expires_at_ms, 0)
    return session


def state(frame_id: str) -> str:
    return json.dumps({"type": "state", "id": frame_id, "conversation_id": "c"})


def code_of(action: Any) -> str:
    assert isinstance(action, Reply)
    return str(action.frame["error"]["code"])


def test_a_session_tells_where_it_is() -> None:
    session = Session(SessionLimits(), 0)
    assert (session.is_open, session.is_closed, session.identity) == (False, False, None)
    session.receive_text(HELLO, 0)
    assert (session.is_open, session.is_closed, session.identity) == (False, False, None)
    session.authenticated(IDENTITY, None, 0)
    assert (session.is_open, session.is_closed, session.identity) == (True, False, IDENTITY)
    session.receive_binary(0)
    assert (session.is_open, session.is_closed) == (False, True)


def test_answering_a_hello_that_never_came_is_our_own_fault() -> None:
    """Misuse by our own code is not a peer's fault, and is not told to it."""
    session = Session(SessionLimits(), 0)
    with pytest.raises(RuntimeError, match="opened"):
        session.authenticated(IDENTITY, None, 0)
    with pytest.raises(RuntimeError, match="opened"):
        session.hello_refused(Refused(ErrorCode.UNAUTHORIZED, "no"))


def test_a_hello_is_answered_once() -> None:
    with pytest.raises(RuntimeError, match="open"):
        opened().authenticated(IDENTITY, None, 0)


def test_a_refused_hello_gives_the_driver_s_error_to_the_client() -> None:
    session = Session(SessionLimits(), 0)
    session.receive_text(HELLO, 0)
    error = Refused(ErrorCode.TOKEN_EXPIRED, "The token has expired.", suggestion="Get another.")
    assert session.hello_refused(error) == [
        Reply(error_frame("h", error)),
        Close(CloseCode.TOKEN_EXPIRED, "token_expired"),
    ]
    assert session.is_closed


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_refusal_of_a_hello_closes(code: ErrorCode) -> None:
    """Temporary reasons close in the range that reconnects, the others (but an expired token) do not."""
    session = Session(SessionLimits(), 0)
    session.receive_text(HELLO, 0)
    error = Refused(code, "no")
    close = session.hello_refused(error)[-1]
    assert isinstance(close, Close)
    assert (close.code < 4500) is (error.temporary or code is ErrorCode.TOKEN_EXPIRED)


def test_a_disconnected_session_does_nothing_more() -> None:
    session = Session(SessionLimits(), 0)
    session.receive_text(HELLO, 0)
    session.receive_text(state("1"), 0)
    session.disconnected()
    assert session.authenticated(IDENTITY, None, 1) == []
    assert session.receive_text(state("2"), 1) == []
    assert session.tick(100_000) == []
    assert session.deadline_ms is None


def test_a_foreign_token_changes_nothing() -> None:
    session = opened(expires_at_ms=50_000)
    with pytest.raises(Refused) as caught:
        session.renewed(("t", "somebody-else"), 90_000)
    assert caught.value.code is ErrorCode.PERMISSION_DENIED
    assert session.tick(55_000) == [Close(CloseCode.TOKEN_EXPIRED, "the token has expired")]


# --- deadlines -----------------------------------------------------------------------------------


def test_the_deadline_follows_what_is_due_next() -> None:
    session = Session(SessionLimits(), 100)
    deadlines = [session.deadline_ms]
    session.receive_text(HELLO, 200)
    deadlines.append(session.deadline_ms)
    session.authenticated(IDENTITY, 90_200, 300)
    deadlines.append(session.deadline_ms)
    assert session.tick(25_300) == [SendPing()]
    deadlines.append(session.deadline_ms)
    session.receive_text('{"type":"pong"}', 26_000)
    deadlines.append(session.deadline_ms)
    session.tick(50_300)
    session.receive_text('{"type":"pong"}', 50_400)
    deadlines.append(session.deadline_ms)
    assert session.tick(60_200) == [Reply({"type": "auth.required", "expires_in": 30})]
    deadlines.append(session.deadline_ms)
    hello, nothing, ping, silence, next_ping, renewal, third_ping = deadlines
    assert (hello, nothing, ping, silence) == (10_100, None, 25_300, 35_300)
    assert (next_ping, renewal, third_ping) == (50_300, 60_200, 75_300)


def test_ticking_only_at_deadlines_does_the_same_as_ticking_always() -> None:
    often, seldom = opened(expires_at_ms=100_000), opened(expires_at_ms=100_000)
    told_often, told_seldom = [], []
    for now in range(0, 110_000, 100):
        if now % 20_000 == 0:
            often.receive_text('{"type":"pong"}', now)
            seldom.receive_text('{"type":"pong"}', now)
        told_often += [(now, action) for action in often.tick(now)]
        if (due := seldom.deadline_ms) is not None and now >= due:
            told_seldom += [(now, action) for action in seldom.tick(now)]
    assert told_often == told_seldom
    assert told_often[-1] == (105_000, Close(CloseCode.TOKEN_EXPIRED, "the token has expired"))


def test_a_clock_that_steps_back_harms_nobody() -> None:
    session = opened()
    session.receive_text(state("1"), 5_000)
    assert session.receive_text(state("2"), 4_000) == [Handle(decoded(state("2")))]
    assert session.tick(3_000) == []


def decoded(text: str) -> Any:
    return decode(text, CodecLimits())


# --- bounds --------------------------------------------------------------------------------------


def test_unanswered_frames_are_bounded() -> None:
    session = opened()
    for number in range(256):
        actions = session.receive_text(state(str(number)), number * 50)
        assert isinstance(actions[0], Handle)
    assert code_of(session.receive_text(state("one more"), 13_000)[0]) == "rate_limited"
    session.answered("7")
    assert isinstance(session.receive_text(state("one more"), 13_100)[0], Handle)


def test_ids_are_forgotten_when_answered() -> None:
    """A connection that lives for months does not grow."""
    session = opened()
    before = footprint(session)
    for number in range(5_000):
        now = number * 50
        session.receive_text(state(f"a rather long id, number {number}"), now)
        session.answered(f"a rather long id, number {number}")
    assert footprint(session) <= before + 512


def test_a_misbehaving_connection_is_bounded_too() -> None:
    session = opened()
    for number in range(2_000):
        session.receive_text('{"type":"launch","id":"1"}', number)
        if session.is_closed:
            break
    assert session.is_closed
    assert footprint(session) < 8_192


def test_what_waits_for_welcome_is_freed_with_the_session() -> None:
    session = Session(SessionLimits(), 0)
    session.receive_text(HELLO, 0)
    for number in range(30):
        session.receive_text(state(str(number)) + " " * 4_000, 0)
    session.hello_refused(Refused(ErrorCode.UNAUTHORIZED, "no"))
    assert footprint(session) < 4_096


def test_an_idle_session_is_small() -> None:
    assert footprint(opened()) < 2_048


def footprint(session: Session) -> int:
    """Bytes of the session and what only it holds, one level deep, strings in lists included."""
    total = sys.getsizeof(session)
    for name in type(session).__slots__:
        value = getattr(session, name)
        if name != "_limits":
            total += sys.getsizeof(value)
            if isinstance(value, list | set):
                total += sum(sys.getsizeof(item) for item in value)
    return total


def test_bytes_and_text_are_taken_alike() -> None:
    assert opened().receive_text(state("é").encode(), 1) == opened().receive_text(state("é"), 1)


def test_the_limits_of_the_page_are_the_defaults() -> None:
    limits = SessionLimits()
    assert (limits.codec.max_frame_bytes, limits.codec.message_max_chars) == (65_536, 2_000)
    assert (limits.frames_per_second, limits.burst) == (20, 40)
    assert (limits.hello_timeout_ms, limits.ping_interval_ms, limits.pong_timeout_ms) == (
        10_000,
        25_000,
        10_000,
    )


def test_retry_after_is_when_the_next_frame_is_taken() -> None:
    session = opened(SessionLimits(frames_per_second=3))
    for _ in range(5):
        session.receive_text('{"type":"pong"}', 0)
    refused = session.receive_text(state("1"), 0)[0]
    assert isinstance(refused, Reply)
    wait = refused.frame["error"]["retry_after_ms"]
    assert code_of(session.receive_text(state("1"), wait - 1)[0]) == "rate_limited"
    assert isinstance(session.receive_text(state("1"), wait)[0], Handle)
