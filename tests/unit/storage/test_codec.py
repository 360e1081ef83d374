"""What is written is what is read."""

from dataclasses import MISSING, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.codec import (
    UnknownFormat,
    decode_events,
    decode_record,
    encode_events,
    encode_json,
    encode_record,
    event_to_row,
    record_from_json,
)
from storage.models import Conversation, Event, EventBatch, RecentKey
from tests.support.records import conversation, full_conversation

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
KEYS = st.builds(
    RecentKey,
    TEXT,
    TEXT,
    st.sampled_from(["completed", "failed", "running", "queued"]),
    st.none() | st.sampled_from(["x1", "x2", "", "0"]),
    st.integers(0, 2**53),
    st.integers(0, 2**53),
)


def defaults(value: Any) -> list[str]:
    """Return the paths of fields in ``value`` that have their default, to show that a record is full."""
    found = []
    if is_dataclass(value):
        for f in fields(value):
            inner = getattr(value, f.name)
            if inner == (f.default if f.default_factory is MISSING else f.default_factory()):
                found.append(f.name)
            found += [f"{f.name}.{path}" for path in defaults(inner)]
    elif isinstance(value, tuple):
        found = defaults(value[0]) if value else ["empty"]
    return found


def test_the_full_conversation_has_no_field_at_its_default() -> None:
    """A field that is added to the records and forgotten by the codec makes one of these tests fail."""
    assert defaults(full_conversation()) == ["inbox.void"]


def test_a_full_conversation_is_read_back_equal() -> None:
    assert decode_record(encode_record(full_conversation())) == full_conversation()


def test_an_empty_conversation_is_read_back_equal() -> None:
    assert decode_record(encode_record(conversation())) == conversation()


@given(slots=st.dictionaries(TEXT, JSON), recent=st.lists(KEYS, max_size=10), output=JSON)
def test_any_record_is_read_back_equal(slots: dict[str, Any], recent: list[RecentKey], output: Any) -> None:
    full = full_conversation()
    assert full.execution is not None
    record = replace(
        full, slots=slots, recent=tuple(recent), execution=replace(full.execution, output=output)
    )
    assert decode_record(encode_record(record)) == record


@given(
    st.lists(
        st.builds(
            Event,
            st.integers(1, 2**53),
            st.integers(0, 2**53),
            TEXT,
            st.none() | TEXT,
            st.none() | TEXT,
            st.none() | TEXT,
            st.none() | TEXT,
            st.dictionaries(TEXT, JSON),
            st.sampled_from(["owner", "agent", "full"]),
        )
    )
)
def test_any_events_are_read_back_equal(events: list[Event]) -> None:
    batch = EventBatch("e", 1, len(events), "c", None, None, tuple(events))
    assert decode_events(encode_events(batch)) == batch.events


def test_what_the_events_of_a_commit_have_in_common_is_stored_once() -> None:
    """The first one of a conversation has no execution yet: it is a whole row, beside short ones."""
    alike = [Event(n, 7, "step.started", "x1", "s", "k1", None, {}, "full") for n in (5, 6)]
    first = Event(4, 7, "conversation.created", None, None, "k1", None, {})
    last = Event(7, 7, "turn.completed", "x1", "s", "k1", None, {})
    batch = EventBatch("e", 4, 7, "c", None, None, (first, *alike, last))
    assert encode_events(batch) == (
        b'[2,4,7,"x1","k1",null,[4,7,"conversation.created",null,null,"k1",null,{},"owner"],'
        b'["step.started","s",{},"full"],["step.started","s",{},"full"],["turn.completed","s",{}]]'
    )
    assert decode_events(encode_events(batch)) == batch.events


def test_events_of_the_first_format_are_read() -> None:
    """Logs and exports have them."""
    events = (
        Event(1, 7, "a", None, "s", None, "timer", {"n": 1}, "full"),
        Event(2, 7, "b", None, None, None, None, {}),
    )
    assert decode_events(encode_json([event_to_row(event) for event in events])) == events


def test_events_of_a_newer_format_are_refused() -> None:
    with pytest.raises(UnknownFormat, match="event format 3"):
        decode_events(b"[3,1,2]")


def test_a_read_only_mapping_is_written_like_a_dictionary() -> None:
    record = replace(conversation(), slots=MappingProxyType({"a": MappingProxyType({"b": 1})}))
    assert decode_record(encode_record(record)).slots == {"a": {"b": 1}}


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, b"bytes", 2**64, 1j])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode_json(value)


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_an_unknown_format_is_refused_by_name(version: object) -> None:
    document = orjson.loads(encode_record(conversation()))
    with pytest.raises(UnknownFormat, match="unknown"):
        record_from_json(document | {"v": version})


def test_records_are_of_the_declared_types() -> None:
    record: Conversation = decode_record(encode_record(full_conversation()))
    assert record.execution is not None
    for value in (record.inbox, record.recent, record.execution.frames, record.execution.pending):
        assert isinstance(value, tuple)
    assert isinstance(record.execution.pending[0].questions[0].options, tuple)


def test_a_record_from_before_waits_and_pauses_is_read() -> None:
    """What was stored when frames had eight columns and executions neither time-out nor pause."""
    document = orjson.loads(encode_record(full_conversation()))
    for name in ("timeout_ms", "subflows", "pause"):
        del document["execution"][name]
    document["execution"]["frames"] = [row[:8] for row in document["execution"]["frames"]]
    execution = record_from_json(document).execution
    assert execution is not None
    assert (execution.timeout_ms, execution.subflows, execution.pause) == (None, {}, None)
    assert (execution.frames[0].timer_at, execution.timer_at, execution.awaits) == (None, None, None)


def test_a_request_from_before_it_named_its_frame_is_read() -> None:
    document = orjson.loads(encode_record(full_conversation()))
    for name in ("frame", "answers", "binding", "bound_to"):
        del document["execution"]["pending"][0][name]
    execution = record_from_json(document).execution
    assert execution is not None
    pending = execution.pending[0]
    assert (pending.frame, pending.answers, pending.binding, pending.bound_to) == (0, {}, None, None)
