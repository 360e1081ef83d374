"""Records and events are read leniently, errors strictly typed."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_client import Message, State, errors, events, records
from parley_client._connection import full_jitter
from parley_client._mirror import MAX_MESSAGES, Mirror
from parley_client.events import _KINDS, parse_event

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["message_id", "pending_id", "response", "context_updates", "error", "questions", "buttons"]
)


@given(st.sampled_from([*_KINDS, "other"]), st.dictionaries(names, json_values) | json_values)
def test_no_data_is_too_strange_for_an_event(kind: str, data: Any) -> None:
    raw = {"type": kind, "offset": 1, "data": data}
    event = parse_event("c1", raw)
    assert (event.type, event.offset) == (kind, 1)
    mirror = Mirror("c1")
    mirror.apply("e1", 1, [raw])
    assert mirror.snapshot({}).offset == 1


def test_an_unknown_event_keeps_its_data() -> None:
    event = parse_event("c1", {"type": "from.the.future", "offset": 7, "data": {"a": 1}, "command_id": "k"})
    assert isinstance(event, events.UnknownEvent)
    assert (event.data, event.command_id) == ({"a": 1}, "k")


def test_events_are_values() -> None:
    raw = {"type": "flow.custom", "offset": 1, "data": {"name": "n", "payload": 1}}
    assert parse_event("c1", raw) == parse_event("c1", dict(raw))
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_event("c1", raw).offset = 2  # type: ignore[misc]


def test_times_are_read_with_their_zone() -> None:
    assert records.parse_time("2026-01-01T00:00:00.000Z").utcoffset() is not None


def test_records_take_what_is_missing_by_default() -> None:
    assert Message.from_wire({}).buttons == ()
    assert (
        State.from_wire({"pending": [{"pending_id": "p1", "questions": [{"id": "q"}]}]})
        .pending[0]
        .questions[0]
        .id
        == "q"
    )


def message(number: int, role: str = "user") -> dict[str, Any]:
    data = {"message_id": f"m{number}", "role": role, "text": str(number), "offset": number}
    return {"type": "message.received", "offset": number, "time": "t", "data": data}


def test_the_mirror_keeps_the_newest_messages_and_says_where_they_begin() -> None:
    mirror = Mirror("c1")
    mirror.apply("e1", MAX_MESSAGES + 10, [message(number) for number in range(1, MAX_MESSAGES + 11)])
    assert len(mirror.messages) == MAX_MESSAGES
    assert mirror.messages[0].offset == 11
    assert mirror.snapshot({}).before == 11


def test_the_mirror_folds_pendings_slots_and_reset() -> None:
    mirror = Mirror("c1")
    pending = {"pending_id": "p1", "kind": "acceptance", "title": "Sure?"}
    mirror.apply(
        "e1",
        5,
        [
            {"type": "slots.updated", "offset": 1, "data": {"slots": {"a": 1, "b": 2}}},
            {"type": "slots.updated", "offset": 2, "data": {"slots": {"a": None}}},
            {"type": "acceptance.requested", "offset": 3, "data": pending},
            {
                "type": "execution.waiting",
                "offset": 4,
                "data": {"status": "waiting_acceptance", "flow_id": "f"},
            },
            message(5),
        ],
    )
    snapshot = mirror.snapshot({"m9": "Hel"})
    assert snapshot.state is not None
    assert snapshot.state.slots == {"b": 2}
    assert (snapshot.state.status, snapshot.state.flow_id) == ("waiting_acceptance", "f")
    assert [each.title for each in snapshot.pending] == ["Sure?"]
    assert snapshot.partials == {"m9": "Hel"}
    mirror.apply("e1", 6, [{"type": "pending.resolved", "offset": 6, "data": {"pending_id": "p1"}}])
    assert mirror.snapshot({}).pending == ()
    mirror.apply("e1", 7, [{"type": "conversation.reset", "offset": 7, "data": {"reason": "r"}}])
    after = mirror.snapshot({})
    assert after.state is not None
    assert (after.messages, after.state.slots, after.state.status) == ((), {}, "idle")


def test_each_waiter_gets_an_exception_of_its_own() -> None:
    error = errors.error_from_wire({"code": "rate_limited", "message": "slow down", "retry_after_ms": 5})
    copy = error.fresh()
    assert copy is not error
    assert type(copy) is errors.RateLimited
    assert (copy.message, copy.retry_after_ms, str(copy)) == (error.message, 5, str(error))
    closed = errors.ConnectionClosed(4500, "no")
    assert vars(closed.fresh()) == vars(closed)


def test_errors_of_any_shape_are_errors() -> None:
    assert errors.error_from_wire({}).code == "internal"
    assert errors.error_from_wire({"code": "new", "details": [1], "retry_after_ms": "x"}).details is None


@given(st.integers(0, 2000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_below_its_bound(attempt: int, part: float) -> None:
    assert 0 <= full_jitter(attempt, lambda: part) <= min(20.0, 0.5 * 2 ** min(attempt, 40))


# --- open requests ---------------------------------------------------------------------------------


def request(pending_id: str, kind: str = "acceptance", **more: Any) -> dict[str, Any]:
    return {"pending_id": pending_id, "kind": kind, "step_id": "gate", **more}


def folded(*happened: tuple[str, dict[str, Any]], mirror: Mirror | None = None) -> Mirror:
    mirror = mirror or Mirror("c1")
    mirror.apply("e1", len(happened), [{"type": kind, "data": data} for kind, data in happened])
    return mirror


def open_ids(mirror: Mirror) -> list[str]:
    return [pending.pending_id for pending in mirror.pending]


def test_requests_open_and_close_with_their_events() -> None:
    mirror = folded(
        ("clarification.requested", request("p1", "clarification")),
        ("acceptance.requested", request("p2")),
        ("acceptance.requested", request("p3")),
    )
    assert open_ids(mirror) == ["p1", "p2", "p3"]
    folded(("pending.resolved", request("p1")), ("pending.expired", request("p3")), mirror=mirror)
    assert open_ids(mirror) == ["p2"]


def test_a_request_that_changes_stays_one() -> None:
    votes = [{"by": "ada", "accepted": True}]
    mirror = folded(
        ("acceptance.requested", request("p1")), ("acceptance.requested", request("p1", votes=votes))
    )
    (pending,) = mirror.pending
    assert pending.votes == tuple(votes)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
def test_no_request_outlives_its_execution(status: str) -> None:
    mirror = folded(
        ("acceptance.requested", request("p1")), (f"execution.{status}", {"status": status, "flow_id": "f"})
    )
    assert mirror.pending == ()


def test_a_question_that_a_message_answered_is_not_open_any_more() -> None:
    asked = {"status": "waiting_input", "flow_id": "f", "pending": [request("i1", "input")]}
    mirror = folded(("acceptance.requested", request("p1")), ("execution.waiting", asked))
    assert open_ids(mirror) == ["p1", "i1"]
    folded(("execution.waiting", {**asked, "pending": [request("i2", "input")]}), mirror=mirror)
    assert open_ids(mirror) == ["p1", "i2"]


# --- errors that say what to do --------------------------------------------------------------------


def test_who_was_faster_is_told() -> None:
    decided = {"by": "ada", "accepted": True, "comment": "fine"}
    error = errors.error_from_wire(
        {"code": "pending_resolved", "message": "m", "details": {"decided": decided}}
    )
    assert isinstance(error, errors.PendingResolved)
    assert error.decided == decided


def test_missing_answers_are_named() -> None:
    error = errors.error_from_wire(
        {"code": "missing_answers", "message": "m", "details": {"missing": ["part", "day"]}}
    )
    assert isinstance(error, errors.MissingAnswers)
    assert error.missing == ("part", "day")


@pytest.mark.parametrize(
    "details", [None, {}, {"decided": None, "missing": None}, {"decided": 1, "missing": 1}]
)
def test_errors_without_their_details_have_empty_ones(details: Any) -> None:
    resolved = errors.error_from_wire({"code": "pending_resolved", "details": details})
    expired = errors.error_from_wire({"code": "pending_expired", "details": details})
    missing = errors.error_from_wire({"code": "missing_answers", "details": details})
    assert isinstance(resolved, errors.PendingResolved)
    assert isinstance(expired, errors.PendingExpired)
    assert isinstance(missing, errors.MissingAnswers)
    assert (dict(resolved.decided), dict(expired.decided), missing.missing) == ({}, {}, ())


def test_the_text_of_an_error_says_what_would_be_right() -> None:
    error = errors.error_from_wire(
        {"code": "wrong_state", "message": "Nothing runs.", "suggestion": "Start it."}
    )
    assert str(error) == "wrong_state: Nothing runs. Start it."
    assert str(error.fresh()) == str(error)
