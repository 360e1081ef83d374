"""What every cache owes: the same tests over the one in the process and the one over Redis."""

from typing import Protocol

import pytest

from storage.base import Cache, Shared
from storage.memory.cache import VALUE_MAX_BYTES


class Time(Protocol):
    """The ``clock`` of the fixtures."""

    ms: int


@pytest.fixture
def cache(shared: Shared) -> Cache:
    return shared.cache


async def test_what_was_set_is_there_as_it_was(cache: Cache) -> None:
    await cache.set("a", b"\x00\r\n\xff", 60_000)
    await cache.set("b", b"", 60_000)
    assert [await cache.get(key) for key in ("a", "b", "c")] == [b"\x00\r\n\xff", b"", None]


async def test_a_later_value_replaces_an_earlier_one(cache: Cache) -> None:
    await cache.set("a", b"1", 60_000)
    await cache.set("a", b"2", 60_000)
    assert await cache.get("a") == b"2"


async def test_what_was_deleted_is_gone(cache: Cache) -> None:
    for key in ("a", "b", "c"):
        await cache.set(key, b"1", 60_000)
    await cache.delete("a", "c", "never there")
    await cache.delete()
    assert [await cache.get(key) for key in ("a", "b", "c")] == [None, b"1", None]


async def test_a_value_that_is_too_long_is_not_kept_and_neither_is_the_one_before(cache: Cache) -> None:
    await cache.set("a", b"1", 60_000)
    await cache.set("a", b"x" * (VALUE_MAX_BYTES + 1), 60_000)
    assert await cache.get("a") is None
    await cache.set("a", b"x" * VALUE_MAX_BYTES, 60_000)
    assert await cache.get("a") == b"x" * VALUE_MAX_BYTES


async def test_any_key_is_a_key(cache: Cache) -> None:
    for key in ("", "ü:{}\r\n *", "x" * 5000):
        await cache.set(key, b"1", 60_000)
        assert await cache.get(key) == b"1"
