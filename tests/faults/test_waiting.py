"""Who waits costs a row in the store: no task, no timer, no descriptor, whatever is waited for."""

import asyncio
import gc
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from storage.sqlite import SqliteStore
from tests.support.talk import Talk
from tests.support.world import OPERATOR, VirtualClock

LATER: Final = "deadline: 1h, on_timeout: over"
STEPS: Final = {
    "waiting_input": "{id: s, collect: x, ask: {x: 'Which?'}}",
    "waiting_clarification": f"{{id: s, clarify: {{questions: [{{id: q, text: 'Which?'}}], {LATER}}}}}",
    "waiting_acceptance": f"{{id: s, accept: {{title: 'Sure?', {LATER}}}, rejected: over}}",
    "waiting_timer": "{id: s, wait: {for: 1h}}",
    "waiting_event": "{id: s, wait: {event: paid, for: 1h}}",
    "paused": "{id: s, handoff: support}",
}
FLOW: Final = "flow: {}\nslots: {{x: {{type: integer}}}}\nsteps:\n  - {}\n  - {{id: over, end: completed}}\n"
WAITING: Final = 10_000
AT_ONCE: Final = 500


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_ten_thousand_who_wait_cost_no_task_timer_or_descriptor_each(tmp_path: Path) -> None:
    """As many after ten thousand as after some: asked of the event loop, the collector and the kernel."""
    clock = VirtualClock()
    store = SqliteStore(tmp_path / "parley.db", clock=clock.now)
    await store.open()
    flows = [FLOW.format(status, step) for status, step in STEPS.items()]
    async with Talk(*flows, store=store, clock=clock, session_ms=48 * 3_600_000) as talk:
        await talk.sweeper.start()
        await _wait(talk, 0, AT_ONCE)
        before = _held()
        await _wait(talk, AT_ONCE, WAITING)
        grown = _held() - before
        assert grown.total() < WAITING // 100, f"{grown} more, for {WAITING - AT_ONCE} who wait"
        assert clock.sleeping <= 3
        statuses = Counter([(await talk.record(_name(n))).status for n in range(0, WAITING, 97)])
        assert statuses.keys() == STEPS.keys()
        assert await store.due(clock.now() + 3_600_000, 10)
        await talk.sweeper.stop()


async def _wait(talk: Talk, first: int, last: int) -> None:
    """Have conversations started that wait, each for one of the things one can wait for."""
    flows = sorted(STEPS)
    for number in range(first, last, AT_ONCE):
        await asyncio.gather(*(
            talk.send("start", {"flow_id": flows[n % len(flows)], "user_id": None}, to=_name(n), who=OPERATOR)
            for n in range(number, min(number + AT_ONCE, last))
        ))  # fmt: skip
        await talk.rest()


def _name(number: int) -> str:
    return f"c{number}"


def _held() -> Counter[str]:
    """Count what this process holds that waits: tasks, timers, futures, open descriptors."""
    gc.collect()
    found = Counter(
        kind.__name__
        for thing in gc.get_objects()
        for kind in (asyncio.TimerHandle, asyncio.Future, asyncio.Task)
        if type(thing) is kind and not _is_over(thing)
    )
    found["tasks"] = len(asyncio.all_tasks())
    descriptors = Path("/proc/self/fd")
    found["descriptors"] = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    return found


def _is_over(thing: "asyncio.TimerHandle | asyncio.Future[object]") -> bool:
    return thing.cancelled() if isinstance(thing, asyncio.TimerHandle) else thing.done()
