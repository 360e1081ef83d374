"""A crowd of people who talk while something is done to the servers, and then come to rest.

The first has two devices in one conversation, everybody else one in a conversation of their own; operators
decide, and inspectors see all of it. Everything they do and see is in the history.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.base import Store
from tests.support.devices import Device
from tests.support.durable_log import Log
from tests.support.history import EffectLog, History
from tests.support.server import SECRET, TENANT, token

PEOPLE: Final = ("ann", "bob", "eve")
"""Their conversations have their names."""
MOVES_ON: Final = frozenset(
    {"pending", "running", "waiting_clarification", "waiting_acceptance", "waiting_timer", "waiting_event"}
)
"""The statuses that an execution leaves by itself: all these waits have deadlines in what people talk to."""
DECIDES: Final = ("acceptance:decide", "conversations:read")


def environment(effects: EffectLog) -> dict[str, str]:
    """Return what a server needs for a crowd: variables of its environment."""
    return {
        "PARLEY_JWT_SECRET": SECRET,
        "PARLEY_ACTIONS": "tests.support.till",
        "PARLEY_FRAMES_PER_SECOND": "1000",
        "PARLEY_SWEEP_SECONDS": "0.1",
        "PARLEY_DRAIN_SECONDS": "3",
        "PARLEY_TEST_EFFECTS": str(effects.path),
    }


@dataclass(frozen=True, slots=True)
class Places:
    """Where a crowd connects: everybody ``front``, an inspector each of ``inspected``."""

    front: str
    inspected: Sequence[str]


class Crowd:
    """Devices and their people.

    Args:
        history: where everything is recorded.
        places: where they connect.
        seed: of what they do.
        people: by whom; they own a conversation each.
        deciders: how many operators decide what the flows ask.
        inspects: the conversations that operators and inspectors watch; all of them unless said otherwise.
        pause_s: how long a person rests between two things, on average.
    """

    def __init__(
        self, history: History, places: Places, seed: int, *, people: Sequence[str] = PEOPLE,
        deciders: int = 0, inspects: Sequence[str] | None = None, pause_s: float = 0.01,
    ) -> None:  # fmt: skip
        self._people, self._inspects, self._pause_s = people, inspects or people, pause_s
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        owners = [f"{name}-phone" for name in people]
        owners.insert(1, f"{people[0]}-desk")
        self.owners = [
            Device(history, name, places.front, token(name.partition("-")[0]), seed=seed) for name in owners
        ]
        self.operators = [
            Device(
                history, name, places.front, token(name, scopes=DECIDES), seed=seed, audience="agent"
            )
            for name in (f"operator-{number}" for number in range(deciders))
        ]  # fmt: skip
        everything = token("operator", role="operator")
        self.inspectors = [
            Device(history, f"inspector-{number}", url, everything, seed=seed, audience="full")
            for number, url in enumerate(places.inspected)
        ]

    @property
    def devices(self) -> list[Device]:
        """Return all of them."""
        return [*self.owners, *self.operators, *self.inspectors]

    def begin(self) -> None:
        """Have everybody connect, and talk and decide until they are told to come to rest."""
        self._tasks = [asyncio.create_task(self._live(device)) for device in self.devices]

    async def _live(self, device: Device) -> None:
        if device in self.inspectors:
            await device.open(*self._inspects)
            await self._stop.wait()
        elif device in self.operators:
            await device.open(*self._inspects)
            await device.watch_and_decide(self._stop)
        else:
            mine = device.name.partition("-")[0]
            await device.open(mine)
            await device.talk(mine, self._stop, self._pause_s)
            await device.answered()

    async def come_to_rest(self, patience_s: float) -> bool:
        """Wait until everybody is answered and all who watch a conversation stand at its end.

        False: that took longer than ``patience_s``.
        """
        self._stop.set()
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.gather(*self._tasks)
                for name in self._people:
                    await _stand_still(name, [device for device in self.devices if device.watches(name)])
        except TimeoutError:
            return False
        return True

    async def leave(self) -> None:
        """Close every device, whatever its person does."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(device.close() for device in self.devices))

    def check_on(self) -> None:
        """Raise what has ended somebody."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()


async def _stand_still(name: str, watching: Sequence[Device]) -> None:
    """Wait until all stand at the same place, and nothing but a person's word can lead on from there."""
    while True:
        states = [await device.state(name) for device in watching]
        at = {offset for offset, _ in states} | {device.cursor(name) for device in watching}
        if len(at) == 1 and MOVES_ON.isdisjoint(status for _, status in states):
            return
        await asyncio.sleep(0.05)


async def read_logs(open_store: Callable[[], Store], names: Sequence[str] = PEOPLE) -> dict[str, Log]:
    """Read what the store has of these conversations, with a store of one's own."""
    store = open_store()
    await store.open()
    try:
        found = [await Log.read(store, TENANT, name) for name in names]
    finally:
        await store.close()
    return {log.conversation_id: log for log in found if log is not None}
