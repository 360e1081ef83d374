"""An engine in memory and in virtual time: what the runner drives, and what tests in Python may drive.

Nothing happens by itself but what needs no time. ``pass_time`` moves the clock from one due moment to the
next (a deadline, a timer, a back-off, the end of an action), so each thing happens when its time has come.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from server.auth.principal import Principal
from server.engine.actions import Actions
from server.engine.catalog import Catalog
from server.engine.flow.model import Flow
from server.engine.runner import Engine, EngineOptions
from server.engine.sweeper import Sweeper
from server.engine.types import Accepted, Command, Publication
from server.engine.views import state_view
from server.testing.clock import VirtualClock
from server.testing.stubs import StubbedActions, breathe
from storage.memory import MemoryStore
from storage.models import Conversation, Event

CONVERSATION: Final = "test"
LEASE_MS: Final = 400 * 86_400_000
"""Longer than any test: nobody else could take over, and renewals would be most of what happens."""
QUIET_PASSES: Final = 30
MAX_MOMENTS: Final = 20_000


class NeverQuiet(Exception):  # noqa: N818
    """Something goes on without end."""


class Harness:
    """One conversation with some flows.

    Args:
        flows: compiled.
        actions: stubs and what they note.
        clock: the time.
        tenant_id: of all who take part.
        session_ms: how long an idle execution waits for its user; 0: for ever.
        config: what flows read as ``config``.
        timezone: of the conversation, an IANA name.
        locale: of the conversation.
    """

    def __init__(
        self,
        flows: Sequence[Flow],
        actions: StubbedActions | None,
        clock: VirtualClock,
        *,
        tenant_id: str,
        session_ms: int = 0,
        config: Mapping[str, Any] | None = None,
        timezone: str | None = None,
        locale: str | None = None,
    ) -> None:
        self.events: list[Event] = []
        self.clock = clock
        self._tenant_id = tenant_id
        self._stubbed = actions
        self._timezone = timezone
        self._locale = locale
        self._store = MemoryStore(clock=clock.now)
        catalog = Catalog(self._store, config=config)
        for flow in flows:
            catalog.add(flow)
        self._engine = Engine(
            store=self._store,
            clock=clock,
            catalog=catalog,
            actions=actions.actions if actions is not None else Actions(),
            publish=self._note,
            sole_writer=True,
            options=EngineOptions(instance_id="test", lease_ms=LEASE_MS, session_ms=session_ms),
        )
        self._sweeper = Sweeper(self._store, clock, self._engine)
        self._published = 0
        self._keys = 0
        self._tried: tuple[int, int] | None = None

    async def __aenter__(self) -> "Harness":
        """Open the store. The engine's keeper of leases is not started: they outlast every test."""
        await self._store.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up what still runs."""
        await self._engine.stop(0)
        await self._store.close()

    def _note(self, publication: Publication) -> None:
        self._published += 1
        if publication.batch is not None:
            self.events.extend(publication.batch.events)

    # --- doing ------------------------------------------------------------------------------------

    def new_key(self) -> str:
        """Return the idempotency key of a next command."""
        self._keys += 1
        return f"test-{self._keys:05d}"

    async def send(self, kind: str, body: Mapping[str, Any], who: Principal, key: str) -> Accepted:
        """Have a command accepted, and everything done that needs no time.

        Raises:
            Refused: it is refused.
        """
        whole = {"type": kind, "conversation_id": CONVERSATION, "user_id": who.user_id, **body}
        command = Command(kind, CONVERSATION, key, key, whole, locale=self._locale, timezone=self._timezone)
        accepted = await self._engine.submit(command, who)
        await self.settle()
        return accepted

    async def settle(self) -> None:
        """Let everything happen that needs no virtual time to pass. Real actions take the time they take."""
        quiet, seen = 0, self._activity()
        for _ in range(1_000_000):
            await breathe(self._works)
            now = self._activity()
            quiet = 0 if now != seen or self._works() else quiet + 1
            seen = now
            if quiet >= QUIET_PASSES:
                return
        raise NeverQuiet

    def _activity(self) -> tuple[int, int, int]:
        called = len(self._stubbed.calls) if self._stubbed is not None else 0
        return self._published, called, self.clock.naps

    def _works(self) -> bool:
        return self._stubbed is not None and self._stubbed.working > 0

    # --- time -------------------------------------------------------------------------------------

    async def pass_time(self, ms: int, *, until_idle: bool = False) -> None:
        """Let time pass, each thing happening when it is due; with ``until_idle``, no more than it takes.

        Raises:
            NeverQuiet: there is always something more to do.
        """
        end = self.clock.now() + ms
        for _ in range(MAX_MOMENTS):
            if until_idle and not await self.busy():
                return
            moment = await self._next_moment(end)
            if moment is None:
                break
            self.clock.move_to(moment)
            await self.settle()
            await self._sweep()
        else:
            raise NeverQuiet
        if not until_idle:
            self.clock.move_to(end)
            await self.settle()

    async def _sweep(self) -> None:
        await self._sweeper.sweep()
        await self.settle()
        record = await self.record()
        if record is not None and record.wake_at is not None and record.wake_at <= self.clock.now():
            self._tried = (record.revision, record.wake_at)  # it is due, and nothing is to be done

    async def _next_moment(self, end: int) -> int | None:
        """Return when something is due next, up to ``end``; None: nothing is."""
        moments = [moment] if (moment := self.clock.next_end()) is not None else []
        record = await self.record()
        due_at = record.wake_at if record is not None else None
        if record is not None and due_at is not None and (record.revision, due_at) != self._tried:
            moments.append(due_at)
        first = min(moments, default=None)
        return None if first is None or first > end else max(first, self.clock.now())

    # --- looking ----------------------------------------------------------------------------------

    async def record(self) -> Conversation | None:
        """Return the conversation; None: it has not begun."""
        return await self._store.load(self._tenant_id, CONVERSATION)

    async def busy(self) -> bool:
        """Tell whether an action runs or is to be tried again."""
        record = await self.record()
        return record is not None and record.busy

    async def state(self) -> Mapping[str, Any]:
        """Return the ``state`` record with everything in it; that of an idle conversation before it began."""
        record = await self.record()
        if record is None:
            return {
                "current_state": "idle", "status": "idle", "flow_id": None,
                "slots": {}, "variables": {}, "pending": [],
            }  # fmt: skip
        return state_view(record, "full")
