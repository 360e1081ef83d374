"""A token bucket lets through its rate over time and its burst at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.limits.bucket import TokenBucket


def test_a_full_bucket_gives_its_burst_and_no_more() -> None:
    bucket = TokenBucket(rate=20, burst=40, now_ms=0)
    assert [bucket.take(0) for _ in range(40)] == [0] * 40
    assert bucket.take(0) > 0


def test_it_says_when_there_will_be_one_and_then_there_is() -> None:
    bucket = TokenBucket(rate=20, burst=1, now_ms=0)
    bucket.take(0)
    wait = bucket.take(0)
    assert wait == 50
    assert bucket.take(wait - 1) == 1
    assert bucket.take(wait) == 0


def test_a_long_rest_fills_it_to_the_burst_only() -> None:
    bucket = TokenBucket(rate=1, burst=3, now_ms=0)
    for _ in range(3):
        bucket.take(0)
    assert [bucket.take(10**9) for _ in range(4)][:3] == [0, 0, 0]
    assert bucket.take(10**9) > 0


def test_a_clock_that_runs_backwards_gives_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1, now_ms=10_000)
    assert bucket.take(10_000) == 0
    assert bucket.take(0) > 0
    assert bucket.take(10_500) > 0
    assert bucket.take(11_000) == 0


def test_a_clock_that_runs_backwards_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1, now_ms=10_000)
    assert bucket.take(0) == 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_bucket_that_could_never_give_is_refused(rate: int, burst: int) -> None:
    with pytest.raises(ValueError, match="bucket"):
        TokenBucket(rate=rate, burst=burst, now_ms=0)


@given(
    st.integers(1, 100),
    st.integers(1, 50),
    st.lists(st.integers(0, 500), min_size=1, max_size=200),
)
def test_no_schedule_gets_more_than_burst_and_rate(rate: int, burst: int, pauses: list[int]) -> None:
    bucket, now, taken = TokenBucket(rate=rate, burst=burst, now_ms=0), 0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now) == 0
        assert taken <= burst + now * rate / 1000 + 1e-6
