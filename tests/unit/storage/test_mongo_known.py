"""What an adapter knows of documents is bounded by its size, however much each of them carries."""

from storage.mongo.documents import Known
from storage.mongo.known import KnownCache


def carrying(revision: int, number_of_bytes: int) -> Known:
    return Known(revision, 0, ({"commit_id": f"c{revision}", "events": b"x" * number_of_bytes},))


def test_what_was_kept_last_stays_and_what_is_older_goes() -> None:
    cache = KnownCache(1_000_000)
    for n in range(20):
        cache.put(("t", f"c{n}"), carrying(n, 250_000))
        assert cache.bytes <= 1_000_000
    assert [n for n in range(20) if cache.get(("t", f"c{n}")) is not None] == [17, 18, 19]


def test_what_carries_nothing_takes_little_room() -> None:
    cache = KnownCache(1_000_000)
    for n in range(600):
        cache.put(("t", f"c{n}"), Known(n, 0))
    assert all(cache.get(("t", f"c{n}")) == Known(n, 0) for n in range(600))


def test_keeping_it_anew_counts_once_and_forgetting_it_frees_its_room() -> None:
    cache = KnownCache(1_000_000)
    for n in range(50):
        cache.put(("t", "c"), carrying(n, 100_000))
    cache.put(("t", "d"), carrying(1, 100_000))
    assert cache.get(("t", "c")) == carrying(49, 100_000)
    cache.forget(("t", "c"))
    cache.forget(("t", "c"))
    assert cache.get(("t", "c")) is None
    cache.forget(("t", "d"))
    assert cache.bytes == 0


def test_what_is_too_large_is_not_kept() -> None:
    cache = KnownCache(1_000)
    cache.put(("t", "c"), carrying(1, 5_000))
    assert (cache.get(("t", "c")), cache.bytes) == (None, 0)
