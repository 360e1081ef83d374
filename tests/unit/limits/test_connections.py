"""Connections are counted by principal and in all, and nothing is kept of who has left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.limits.connections import ConnectionCounter, ConnectionRefusal


@pytest.fixture
def counter() -> ConnectionCounter:
    return ConnectionCounter(per_principal=2, per_instance=3)


def test_a_principal_has_as_many_as_allowed(counter: ConnectionCounter) -> None:
    for _ in range(2):
        assert counter.open() is None
        assert counter.identify("ann") is None
    assert counter.open() is None
    assert counter.identify("ann") is ConnectionRefusal.PRINCIPAL
    assert counter.identify("bob") is None


def test_an_instance_has_as_many_as_allowed_known_or_not(counter: ConnectionCounter) -> None:
    assert [counter.open() for _ in range(4)] == [None, None, None, ConnectionRefusal.INSTANCE]
    assert counter.count == 3


def test_who_leaves_makes_room(counter: ConnectionCounter) -> None:
    for _ in range(2):
        counter.open()
        counter.identify("ann")
    counter.close("ann")
    assert counter.open() is None
    assert counter.identify("ann") is None


def test_a_refused_connection_leaves_without_a_principal(counter: ConnectionCounter) -> None:
    for _ in range(2):
        counter.open()
        counter.identify("ann")
    counter.open()
    counter.identify("ann")
    counter.close()
    assert (counter.count, counter.of("ann")) == (2, 2)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=100))
def test_the_counts_are_those_of_who_is_there(steps: list[tuple[bool, str]]) -> None:
    counter = ConnectionCounter(per_principal=3, per_instance=5)
    present: list[str] = []
    for arrives, who in steps:
        if arrives and counter.open() is None:
            if counter.identify(who) is None:
                present.append(who)
            else:
                counter.close()
        elif not arrives and who in present:
            present.remove(who)
            counter.close(who)
        assert counter.count == len(present) <= 5
        assert all(counter.of(name) == present.count(name) <= 3 for name in "abc")
        assert counter.principals == len(set(present))
