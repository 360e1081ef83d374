"""The ring's rows, and that encoding a ring from the one before it changes nothing."""

from dataclasses import replace

import orjson
from hypothesis import given
from hypothesis import strategies as st

from storage.models import RecentKey
from storage.ring import Ring, RingEncoder, ring_from_json, ring_to_json

STATES = st.sampled_from(["completed", "failed", "running", "queued"])
ENTRIES = st.builds(
    RecentKey,
    st.text('kq],["\\', max_size=4),
    st.just("h"),
    STATES,
    st.none() | st.sampled_from(["x1", "x2", "0", ""]),
    st.integers(0, 9),
    st.integers(0, 9),
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "update last", "update any", "drop", "same", "reload", "clear"]),
        ENTRIES,
        st.integers(0, 9),
    ),
    max_size=40,
)
SIZE = 2


def changed(ring: Ring, change: str, entry: RecentKey, place: int) -> Ring:
    match change:
        case "add":
            return (*ring, entry)[-SIZE:]
        case "update last" if ring:
            return (*ring[:-1], replace(ring[-1], status=entry.status))
        case "update any" if ring:
            place %= len(ring)
            return (*ring[:place], replace(ring[place], status=entry.status), *ring[place + 1 :])
        case "drop":
            return ring[1:]
        case "reload":
            return tuple(replace(e) for e in ring)
        case "clear":
            return ()
    return ring


@given(st.lists(ENTRIES, max_size=8))
def test_any_ring_is_read_back_equal(entries: list[RecentKey]) -> None:
    ring = tuple(entries)
    assert ring_from_json(orjson.loads(orjson.dumps(ring_to_json(ring)))) == ring


@given(CHANGES)
def test_a_ring_encoded_from_the_one_before_is_the_same(
    changes: list[tuple[str, RecentKey, int]],
) -> None:
    """Two conversations in turn, and a memory of one, which is as good as none."""
    remembering, forgetting = RingEncoder(), RingEncoder(1)
    rings: dict[str, Ring] = {"a": (), "b": ()}
    for n, (change, entry, place) in enumerate(changes):
        name = "ab"[n % 2]
        ring = rings[name] = changed(rings[name], change, entry, place)
        expected = orjson.dumps(ring_to_json(ring))
        assert orjson.dumps(remembering.encode(("t", name), ring)) == expected
        assert orjson.dumps(forgetting.encode(("t", name), ring)) == expected


def test_executions_that_repeat_are_said_once() -> None:
    entries = [
        RecentKey(f"k{n}", "h", "completed", x, n, n) for n, x in enumerate(["x", "x", None, "x", "y"])
    ]
    assert [row[3] for row in ring_to_json(tuple(entries))] == ["x", 0, None, "x", "y"]


def test_a_ring_that_has_dropped_its_first_row_says_its_execution_anew() -> None:
    encoder = RingEncoder()
    ring = tuple(RecentKey(f"k{n}", "h", "completed", "x", n, n) for n in range(3))
    encoder.encode(("t", "c"), ring)
    ring = (*ring[1:], RecentKey("k3", "h", "completed", "x", 3, 3))
    rows = orjson.loads(orjson.dumps(encoder.encode(("t", "c"), ring)))
    assert [row[3] for row in rows] == ["x", 0, 0]
    assert ring_from_json(rows) == ring
