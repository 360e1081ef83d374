"""The inbox as it changes: one stream of server-sent events after another, told as if it were one."""

from collections.abc import AsyncIterator, Callable

from ._clock import Clock, sleep
from ._connection import full_jitter
from ._rest import Rest
from .errors import ParleyError
from .events import InboxEvent, InboxOpened, InboxReady, InboxSettled
from .records import InboxItem, mapping


async def watch_inbox(rest: Rest, clock: Clock, random: Callable[[], float]) -> AsyncIterator[InboxEvent]:
    """Yield what opens and what is settled, over reconnections; see ``AsyncParley.inbox_events``."""
    known: dict[str, InboxItem] = {}
    tries, ready, renewed = 0, False, False
    while True:
        again: set[str] = set()
        renewing = False
        try:
            async for name, data in rest.stream("/inbox"):
                raw = mapping(data)
                wait_id = str(raw.get("wait_id", ""))
                if name == "opened":
                    again.add(wait_id)
                    if wait_id not in known:
                        known[wait_id] = InboxItem.from_wire(raw)
                        yield InboxOpened(item=known[wait_id])
                elif name == "settled":
                    again.discard(wait_id)
                    if (item := known.pop(wait_id, None)) is not None:
                        yield InboxSettled(item=item, decided=raw.get("decided"))
                elif name == "ready":
                    tries, renewed = 0, False
                    for gone in [one for one in known if one not in again]:
                        yield InboxSettled(item=known.pop(gone), decided=None)
                    if not ready:
                        ready = True
                        yield InboxReady(items=len(known))
        except ParleyError as error:
            renewing = not renewed and rest.renew(error)
            if not renewing and not error.temporary:
                raise
            renewed = renewed or renewing
        tries += 1
        await sleep(clock, 0.0 if renewing else full_jitter(tries, random))
