"""What every limiter owes: the same tests over the one in the process and the one over Redis."""

import asyncio
from typing import Final, Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.base import Bucket, Limiter, LimitStatus, Shared, Window
from tests.support.records import NOW

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
START: Final = NOW - NOW % HOUR


class Time(Protocol):
    """The ``clock`` of the fixtures."""

    ms: int


@pytest.fixture
def limiter(shared: Shared, clock: Time) -> Limiter:
    clock.ms = START
    return shared.limiter


async def taken(limiter: Limiter, *limits: Window | Bucket, times: int, key: str = "k", cost: int = 1) -> int:
    """Return how many of ``times`` were allowed."""
    return sum([(await limiter.take(key, limits, cost)).allowed for _ in range(times)])


async def test_a_window_allows_its_limit_and_says_when_there_is_more(limiter: Limiter, clock: Time) -> None:
    window = Window("minute", 3, MINUTE)
    assert await taken(limiter, window, times=3) == 3
    refused = await limiter.take("k", [window])
    assert (refused.allowed, refused.windows[0].remaining) == (False, 0)
    clock.ms += refused.retry_after_ms - 1
    assert not (await limiter.take("k", [window])).allowed
    clock.ms += 1
    assert (await limiter.take("k", [window])).allowed


async def test_a_window_slides(limiter: Limiter, clock: Time) -> None:
    window = Window("minute", 4, MINUTE)
    for _ in range(4):
        assert (await limiter.take("k", [window])).allowed
        clock.ms += 15 * SECOND
    clock.ms += SECOND
    assert await taken(limiter, window, times=2) == 1
    clock.ms += 15 * SECOND
    assert await taken(limiter, window, times=2) == 1


async def test_a_bucket_gives_a_burst_and_then_its_rate(limiter: Limiter, clock: Time) -> None:
    bucket = Bucket("burst", 4, 2, SECOND)
    assert await taken(limiter, bucket, times=9) == 4
    clock.ms += 499
    refused = await limiter.take("k", [bucket])
    assert (refused.allowed, refused.retry_after_ms) == (False, 1)
    clock.ms += 1
    assert await taken(limiter, bucket, times=9) == 1
    clock.ms += HOUR
    assert await taken(limiter, bucket, times=9) == 4


async def test_all_limits_are_taken_from_or_none(limiter: Limiter, clock: Time) -> None:
    minute, hour, burst = Window("minute", 5, MINUTE), Window("hour", 7, HOUR), Bucket("burst", 3, 3, MINUTE)
    assert await taken(limiter, minute, hour, burst, times=9) == 3
    assert [s.remaining for s in await limiter.status("k", [minute, hour, burst])] == [2, 4, 0]
    clock.ms += 61 * SECOND
    assert await taken(limiter, minute, hour, burst, times=9) == 3
    clock.ms += 61 * SECOND
    assert await taken(limiter, minute, hour, burst, times=9) == 1
    verdict = await limiter.take("k", [minute, hour, burst])
    assert [s.remaining for s in verdict.windows] == [4, 0, 2]
    assert verdict.retry_after_ms > 50 * MINUTE


async def test_a_refusal_takes_nothing(limiter: Limiter, clock: Time) -> None:
    window = Window("minute", 1, MINUTE)
    await limiter.take("k", [window])
    waits = [(await limiter.take("k", [window])).retry_after_ms for _ in range(5)]
    assert len(set(waits)) == 1


async def test_the_status_takes_nothing_and_tells_when_all_is_there_again(
    limiter: Limiter, clock: Time
) -> None:
    window, bucket = Window("minute", 3, MINUTE), Bucket("burst", 4, 2, SECOND)
    assert list(await limiter.status("k", [window, bucket])) == [
        LimitStatus("minute", 3, 3, START),
        LimitStatus("burst", 4, 4, START),
    ]
    await limiter.take("k", [window, bucket])
    for _ in range(9):
        assert list(await limiter.status("k", [window, bucket])) == [
            LimitStatus("minute", 3, 2, START + 61 * SECOND),
            LimitStatus("burst", 4, 3, START + 500),
        ]
    clock.ms += 61 * SECOND
    assert [s.remaining for s in await limiter.status("k", [window, bucket])] == [3, 4]


async def test_keys_and_names_are_counted_apart(limiter: Limiter, clock: Time) -> None:
    minute, hour = Window("minute", 1, MINUTE), Window("hour", 1, HOUR)
    assert await taken(limiter, minute, times=2, key="a") == 1
    assert await taken(limiter, minute, times=2, key="b") == 1
    assert await taken(limiter, hour, times=2, key="a") == 1


async def test_a_changed_limit_counts_what_was_taken_under_its_name(limiter: Limiter, clock: Time) -> None:
    assert await taken(limiter, Window("minute", 5, MINUTE), times=9) == 5
    assert await taken(limiter, Window("minute", 8, MINUTE), times=9) == 3
    (status,) = await limiter.status("k", [Window("minute", 2, MINUTE)])
    assert (status.limit, status.remaining) == (2, 0)


async def test_a_cost_is_taken_whole(limiter: Limiter, clock: Time) -> None:
    window, bucket = Window("minute", 10, MINUTE), Bucket("burst", 10, 10, MINUTE)
    assert await taken(limiter, window, bucket, times=9, cost=4) == 2
    assert [s.remaining for s in await limiter.status("k", [window, bucket])] == [2, 2]


async def test_what_can_never_be_allowed_is_refused(limiter: Limiter, clock: Time) -> None:
    for limit in (Window("minute", 3, MINUTE), Bucket("burst", 3, 3, MINUTE)):
        refused = await limiter.take("k", [limit], 4)
        assert (refused.allowed, refused.retry_after_ms) == (False, MINUTE)
    assert not (await limiter.take("k", [Window("never", 0, MINUTE)])).allowed


async def test_no_limits_allow_everything(limiter: Limiter) -> None:
    verdict = await limiter.take("k", [])
    assert (verdict.allowed, verdict.retry_after_ms, verdict.windows) == (True, 0, ())


async def test_many_at_once_get_no_more_than_the_limit(limiter: Limiter, clock: Time) -> None:
    window = Window("minute", 50, MINUTE)
    verdicts = await asyncio.gather(*(limiter.take("k", [window]) for _ in range(200)))
    assert sum(verdict.allowed for verdict in verdicts) == 50


async def test_any_key_is_a_key(limiter: Limiter, clock: Time) -> None:
    window = Window("minute", 1, MINUTE)
    for key in ("", "ü:{}\r\n *", "x" * 5000, "process:acme:u1"):
        assert await taken(limiter, window, times=2, key=key) == 1


STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1, 7, 150, 999, 1000, 4000, 30_000]), st.integers(1, 4)), max_size=60
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(steps=STEPS, limit=st.integers(1, 8), period_ms=st.sampled_from([60, 1000, 10_000, 60_000]))
@example(steps=[(0, 1), (7, 1), (7, 1), (7, 1), (999, 1)], limit=1, period_ms=1000)
async def test_no_window_of_any_place_has_more_than_its_limit(
    limiter: Limiter, clock: Time, steps: list[tuple[int, int]], limit: int, period_ms: int
) -> None:
    """Against a list of everything that was allowed; and nothing is refused that a 60th later would fit."""
    window, key = Window("w", limit, period_ms), f"any:{clock.ms}"
    allowed: list[tuple[int, int]] = []
    for pause, cost in steps:
        clock.ms += pause
        verdict = await limiter.take(key, [window], cost)

        def used(within_ms: int) -> int:
            return sum(c for at, c in allowed if at > clock.ms - within_ms)

        if verdict.allowed:
            allowed.append((clock.ms, cost))
            assert used(period_ms) <= limit
        else:
            assert used(61 * -(-period_ms // 60)) + cost > limit  # a sixtieth is whole milliseconds
    clock.ms += 10 * HOUR
