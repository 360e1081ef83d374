"""The ring's rows."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from storage.models import RecentKey
from storage.ring import ring_from_json, ring_to_json

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


@given(st.lists(ENTRIES, max_size=8))
def test_any_ring_is_read_back_equal(entries: list[RecentKey]) -> None:
    ring = tuple(entries)
    assert ring_from_json(orjson.loads(orjson.dumps(ring_to_json(ring)))) == ring


def test_executions_that_repeat_are_said_once() -> None:
    entries = [
        RecentKey(f"k{n}", "h", "completed", x, n, n) for n, x in enumerate(["x", "x", None, "x", "y"])
    ]
    assert [row[3] for row in ring_to_json(tuple(entries))] == ["x", 0, None, "x", "y"]
