"""Bringing subscriptions up to where their conversation stands, from the store.

Subscribing, resuming and healing a gap are one mechanism: read the log from where the client (or the
topic) stands until it stands where the topic stands, then go live in the same step of the event loop.
So there is neither a gap nor a double, and nothing is buffered: what happens meanwhile is in the log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import structlog

from protocol.errors import ErrorCode, Refused
from protocol.frames import Resume
from server.auth.principal import Principal
from server.delivery import frames
from server.delivery.audience import audience_of
from server.delivery.frames import CommitFrames, replay_frames
from server.delivery.snapshot import missing_snapshot_frame, newest_messages, snapshot_frame
from server.delivery.topic import Subscription, Topic
from server.delivery.topics import Topics
from server.engine.reducer import conversation_not_found
from storage.base import ConversationStore, StoreUnavailable
from storage.models import Conversation, EventBatch

REPLAY_MAX_EVENTS: Final = 1000
REPLAY_MAX_BYTES: Final = 512 * 1024
HEAL_AFTER_MS: Final = 1000
READS_AT_ONCE: Final = 64
"""Thousands may fall behind in one moment; the store is not asked for all of them in the same one."""
PROBES: Final = 8
"""While the store is away, so many a tick find out whether it is back; the others wait."""
BEGIN_S: Final = 0.5
"""So long the frames behind a subscription wait for what it announced."""
PATIENCE_S: Final = 0.05
ROUNDS_MAX: Final = 20

_log = structlog.get_logger(__name__)

Read = Callable[[str, str], Awaitable[Conversation | None]]
Missed = Sequence[EventBatch] | None
"""What a client missed; None where it needs a snapshot."""


class CatchUp:
    """Reads the store for subscriptions and topics that are behind.

    Args:
        topics: who watches what.
        store: the log.
        read: reads one conversation freshly.
        now_ms: monotonic milliseconds, the time of ``tick``.
    """

    def __init__(
        self, topics: Topics, store: ConversationStore, read: Read, now_ms: Callable[[], int]
    ) -> None:
        self._topics = topics
        self._store = store
        self._read = read
        self._now_ms = now_ms
        self._gapped: set[Topic] = set()
        self._strays: set[Subscription] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Semaphore(READS_AT_ONCE)
        self._store_is_away = False
        self.healed = 0

    async def stop(self) -> None:
        """End what runs in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs in the background."""
        return not self._tasks

    # --- one subscription -------------------------------------------------------------------------

    async def look_up(
        self, principal: Principal, conversation_id: str, resume: Resume | None
    ) -> tuple[Conversation | None, Missed]:
        """Return the record (None where it is missing) and what a client with ``resume`` missed of it.

        Raises:
            Refused: it is another owner's.
            StoreUnavailable: the store is away.
        """
        record = await self._read(principal.tenant_id, conversation_id)
        if record is None or record.deleted_at is not None:
            return None, None
        if audience_of(principal, record) is None:
            raise conversation_not_found()
        if resume is None or resume.epoch != record.epoch or resume.offset < record.reset_offset:
            return record, None
        return record, await self._batches(record, resume.offset)

    async def begin(
        self, subscription: Subscription, record: Conversation | None, resume: Resume | None, missed: Missed
    ) -> None:
        """Send what a reply has announced, then go live.

        Where the store is slow this goes on behind the return: the next frame of the connection has waits
        of its own to bear. Never raises StoreUnavailable: it is tried again.
        """
        turn = self._next_turn(subscription)
        work = self.spawn(self._begin(subscription, turn, record, resume, missed))
        await asyncio.wait((work,), timeout=BEGIN_S)

    async def _begin(
        self,
        subscription: Subscription,
        turn: int,
        record: Conversation | None,
        resume: Resume | None,
        missed: Missed,
    ) -> None:
        with self._trying(subscription, turn):
            if record is None:
                subscription.epoch, subscription.to = None, 0
                if resume is not None:
                    name = subscription.topic.conversation_id
                    subscription.outbox.put(missing_snapshot_frame(name))
            elif missed is not None and resume is not None:
                subscription.epoch, subscription.to = record.epoch, resume.offset
                await self._replay(subscription, turn, record, missed)
            else:
                await self._snapshot(subscription, turn, record)
            await self._finish(subscription, turn)

    def resync(self, subscriptions: Iterable[Subscription]) -> None:
        """Bring these up by a snapshot, each at the speed of its socket."""
        for subscription in subscriptions:
            subscription.topic.rest(subscription)
            turn = self._next_turn(subscription)
            if not subscription.gone:
                self.spawn(self._resync_one(subscription, turn))

    def reauthorise(self, subscription: Subscription) -> None:
        """Begin anew with one that is being caught up: what was read for it, another principal may see."""
        turn = self._next_turn(subscription)
        self.spawn(self._resync_one(subscription, turn, told=True))

    async def _resync_one(self, subscription: Subscription, turn: int, *, told: bool = False) -> None:
        topic = subscription.topic
        with self._trying(subscription, turn, told=told):
            record = await self._read_in_turn(topic)
            if record is None or record.deleted_at is not None:
                self._ended(subscription)
            else:
                await self._snapshot(subscription, turn, record)
                self._align(topic, subscription, record)
            await self._finish(subscription, turn)

    @contextmanager
    def _trying(self, subscription: Subscription, turn: int, *, told: bool = False) -> Iterator[None]:
        """Remember who has to be caught up once the store is back, and let go of who may not watch.

        ``told``: who could watch a moment ago learns of it.
        """
        try:
            yield
        except StoreUnavailable:
            if not self._overtaken(subscription, turn):
                self._strays.add(subscription)
            raise
        except Refused:
            self._topics.detach(subscription)
            if told:
                name = subscription.topic.conversation_id
                subscription.outbox.put(frames.unsubscribed(name, ErrorCode.PERMISSION_DENIED.value))

    def _next_turn(self, subscription: Subscription) -> int:
        """Begin to catch a subscription up; whoever was at it stops at the next step."""
        self._strays.discard(subscription)
        subscription.turn += 1
        return subscription.turn

    @staticmethod
    def _overtaken(subscription: Subscription, turn: int) -> bool:
        return subscription.gone or subscription.turn != turn or subscription.outbox.closed

    def _see(self, subscription: Subscription, record: Conversation) -> None:
        """Note as whom the watcher sees the record that it is being brought to."""
        audience = audience_of(subscription.watcher.principal, record)
        if audience is None:
            raise conversation_not_found()
        subscription.audience = audience
        subscription.topic.owner = record.user_id

    async def _replay(
        self, subscription: Subscription, turn: int, record: Conversation, batches: Sequence[EventBatch]
    ) -> None:
        """Send ``batches`` as fast as the socket drains."""
        self._see(subscription, record)
        for frame, to in replay_frames(record, batches, subscription.to, subscription.audience):
            await subscription.outbox.room()
            if self._overtaken(subscription, turn) or not subscription.put(frame, to):
                return

    async def _snapshot(self, subscription: Subscription, turn: int, record: Conversation) -> None:
        self._see(subscription, record)
        page = await newest_messages(self._store, record, subscription.audience)
        await subscription.outbox.room()
        if self._overtaken(subscription, turn):
            return
        partials = subscription.topic.partial_records()
        frame = snapshot_frame(record, subscription.audience, page, partials)
        if subscription.put(frame, record.offset):
            subscription.epoch = record.epoch

    async def _finish(self, subscription: Subscription, turn: int) -> None:
        """Read on until the subscription stands where the topic stands, then go live."""
        topic, stuck = subscription.topic, 0
        while not self._overtaken(subscription, turn) and not topic.enliven(subscription):
            before = (subscription.epoch, subscription.to)
            record = await self._read(topic.tenant_id, topic.conversation_id)
            if record is None or record.deleted_at is not None:
                self._ended(subscription)
            elif audience_of(subscription.watcher.principal, record) is None:
                self._topics.detach(subscription)  # somebody else was first: silently
            else:
                await self._follow(subscription, turn, record)
                self._align(topic, subscription, record)
            if before == (subscription.epoch, subscription.to):
                stuck += 1
                await self._wait_for_store(subscription, stuck)

    async def _wait_for_store(self, subscription: Subscription, rounds: int) -> None:
        """The topic has heard of more than the store tells: a read that was overtaken, or a false word."""
        if rounds < ROUNDS_MAX:
            await asyncio.sleep(PATIENCE_S if rounds > 1 else 0)
            return
        topic = subscription.topic
        _log.warning("topic_ahead_of_store", conversation_id=topic.conversation_id, heard=topic.delivered)
        others = [other for other in topic.living() if other is not subscription]
        topic.begin(subscription.epoch, subscription.to)
        self.resync(others)

    async def _follow(self, subscription: Subscription, turn: int, record: Conversation) -> None:
        """Bring a subscription up to ``record``, by replay where that can be, else by a snapshot."""
        missed: Missed = None
        if subscription.epoch in (record.epoch, None):
            missed = await self._batches(record, subscription.to)
        if missed is None:
            await self._snapshot(subscription, turn, record)
        else:
            subscription.epoch = record.epoch
            await self._replay(subscription, turn, record, missed)

    def _align(self, topic: Topic, subscription: Subscription, record: Conversation) -> None:
        """The store has just said which life the conversation is in; a topic that thinks otherwise learns."""
        if topic.epoch == record.epoch or subscription.epoch != record.epoch:
            return
        if topic.epoch is None:
            topic.born(record.epoch, record.user_id)
            self.heal_soon(topic)
            return
        others = [other for other in topic.living() if other is not subscription]
        topic.begin(record.epoch, subscription.to)
        topic.owner = record.user_id
        self.resync(others)

    def _ended(self, subscription: Subscription) -> None:
        """The conversation is gone while a subscription was being caught up."""
        topic = subscription.topic
        if subscription.epoch is not None:
            self._topics.detach(subscription)
            subscription.outbox.put(frames.unsubscribed(topic.conversation_id))
        else:
            self._topics.dissolve(topic)

    async def _batches(self, record: Conversation, after: int) -> Missed:
        if after > record.offset or record.offset - after > REPLAY_MAX_EVENTS:
            return None
        if after == record.offset:
            return []
        # The first batch may begin before `after` and counts whole; hence the wider limit.
        batches = await self._store.events(
            record.tenant_id, record.conversation_id, record.epoch, after,
            limit=2 * REPLAY_MAX_EVENTS, max_bytes=REPLAY_MAX_BYTES,
        )  # fmt: skip
        position = after
        for batch in batches:
            if batch.first_offset > position + 1:
                return None
            position = batch.last_offset
        return batches if position >= record.offset else None

    # --- one topic --------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Heal gaps that are a second old, and try again what the store was away for."""
        most = PROBES if self._store_is_away else None
        due: list[Topic] = []
        for topic in list(self._gapped):
            if not topic.subscriptions:
                self._gapped.discard(topic)
            elif topic.heal_at_ms is not None and topic.heal_at_ms <= now_ms and not topic.healing:
                due.append(topic)
        for topic in due[:most]:
            self.heal_soon(topic)
        if self._strays:
            self.resync(list(self._strays)[:most])

    def heal_later(self, topic: Topic) -> None:
        """Something is missing; it may still come by itself."""
        if topic.heal_at_ms is None:
            topic.heal_at_ms = self._now_ms() + HEAL_AFTER_MS
        self._gapped.add(topic)

    def heal_soon(self, topic: Topic) -> None:
        """Read what is missing now."""
        topic.healing = True
        self.spawn(self._heal(topic))

    async def _heal(self, topic: Topic) -> None:
        try:
            await self._read_on(topic)
        except StoreUnavailable:
            topic.healing, topic.heal_at_ms = False, None
            self.heal_later(topic)
            raise
        topic.healing, topic.heal_at_ms = False, None
        self.healed += 1
        self._gapped.discard(topic)
        if topic.heard > topic.delivered:
            self.heal_later(topic)

    async def _read_on(self, topic: Topic) -> None:
        """Deliver from the store what is missing between the topic and the record."""
        record = await self._read_in_turn(topic)
        if record is None or record.deleted_at is not None:
            if topic.epoch is not None:
                self._topics.dissolve(topic)
            return
        if topic.epoch is None and topic.live:
            topic.born(record.epoch, record.user_id)
        if topic.epoch != record.epoch:
            self.resync(topic.living())
            return
        batches = await self._batches(record, min(topic.delivered, record.offset))
        if batches is None:
            self.resync(topic.living())
            return
        for batch in batches:
            if topic.live and topic.epoch == batch.epoch and batch.first_offset == topic.delivered + 1:
                topic.deliver(CommitFrames(topic.conversation_id, topic.owner, batch))
        topic.deliver_early()

    async def _read_in_turn(self, topic: Topic) -> Conversation | None:
        async with self._reading:
            record = await self._read(topic.tenant_id, topic.conversation_id)
        if self._store_is_away:
            self._store_is_away = False
            _log.info("delivery_goes_on")
        return record

    # --- in the background ------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work``; where the store is away it ends quietly, a later tick tries again."""
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except StoreUnavailable:
            if not self._store_is_away:
                _log.warning("delivery_waits_for_store")
            self._store_is_away = True
        except Exception:  # noqa: BLE001 - the last rung of a background task; logged with its traceback
            _log.exception("delivery_failed")
