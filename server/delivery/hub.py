"""Who watches what, and everything that is told to watchers, in order.

The engine publishes each commit here once; the hub hands it to the topic (if anybody watches) and to
the bus (if there are other instances). Subscribing, healing a gap and resuming are one mechanism:
read the store from where the client stands until it stands where the topic stands, then go live in
the same step of the event loop; so there is neither a gap nor a double, and nothing is buffered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog

from protocol.errors import ErrorCode, Refused
from protocol.frames import Resume
from server.auth.principal import Principal
from server.delivery import frames
from server.delivery.audience import audience_for, audience_of
from server.delivery.bridge import (
    ENGINE_CHANNEL,
    Bridge,
    channel_of,
    commit_payload,
    engine_payload,
    hint_payload,
    read_batch,
    read_payload,
)
from server.delivery.frames import CommitFrames, replay_frames
from server.delivery.snapshot import missing_snapshot_frame, newest_messages, snapshot_frame
from server.delivery.topic import Arrival, Subscription, Topic, Watcher
from server.engine.reducer import conversation_not_found
from server.engine.types import Publication
from storage.base import ConversationStore, EventBus, StoreUnavailable
from storage.models import Conversation, EventBatch

WATCHED_MAX: Final = 100
REPLAY_MAX_EVENTS: Final = 1000
REPLAY_MAX_BYTES: Final = 512 * 1024
HEAL_AFTER_MS: Final = 1000
TAIL_CHECK_MS: Final = 8000
"""With other instances about, each watched conversation's offset is compared this often (invariant 3)."""
TAIL_CHECK_BATCH: Final = 500

_log = structlog.get_logger(__name__)

Read = Callable[[str, str], Awaitable[Conversation | None]]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a conversation stands for who subscribes: what ``welcome`` and ``ack`` say about it."""

    conversation_id: str
    epoch: str | None
    offset: int
    recovered: bool


class Hub:
    """All subscriptions of one instance.

    Args:
        store: read for replays, snapshots and gaps.
        read: reads one conversation freshly (``Engine.read``).
        now_ms: monotonic milliseconds, the time of ``tick``.
        bus: the way to other instances; None where there are none.
        on_engine: called with (tenant, conversation) when another instance has work for this one.
    """

    def __init__(
        self,
        *,
        store: ConversationStore,
        read: Read,
        now_ms: Callable[[], int],
        bus: EventBus | None = None,
        on_engine: Callable[[str, str], None] | None = None,
    ) -> None:
        self._store = store
        self._read = read
        self._now_ms = now_ms
        self._on_engine = on_engine
        self._bridge = Bridge(bus, self._receive) if bus is not None else None
        self._topics: dict[tuple[str, str], Topic] = {}
        self._gapped: set[Topic] = set()
        self._strays: set[Subscription] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tails_at_ms = 0
        self.published = 0
        self.healed = 0

    async def start(self) -> None:
        """Begin to listen to other instances."""
        if self._bridge is not None:
            await self._bridge.listen(ENGINE_CHANNEL)

    async def stop(self) -> None:
        """End what runs in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def watched(self) -> int:
        """How many conversations are watched."""
        return len(self._topics)

    # --- what happened ----------------------------------------------------------------------------

    def publish(self, publication: Publication) -> None:
        """Tell watchers, here and elsewhere, of a commit. Called once a commit, in its order."""
        record, batch = publication.record, publication.batch
        deleted = record.deleted_at is not None
        if batch is None and not deleted:
            return
        self.published += 1
        tenant_id, conversation_id = record.tenant_id, record.conversation_id
        if self._bridge is not None:
            self._bridge.publish(
                channel_of(tenant_id, conversation_id),
                commit_payload(tenant_id, conversation_id, record.user_id, deleted, batch),
            )
        topic = self._topics.get((tenant_id, conversation_id))
        if topic is not None:
            self._arrived(topic, record.user_id, deleted, batch)

    def publish_delta(
        self, tenant_id: str, conversation_id: str, execution_id: str, message_id: str, index: int, delta: str
    ) -> None:
        """Pass a piece of a streamed message on; it may be lost."""
        payload = frames.message_delta(conversation_id, execution_id, message_id, index, delta)
        topic = self._topics.get((tenant_id, conversation_id))
        if topic is not None:
            topic.stream(message_id, index, delta)
        self._hint(tenant_id, conversation_id, payload)

    def typing(self, watcher: Watcher, conversation_id: str, active: bool) -> None:
        """Tell the others of a conversation that ``watcher`` types in it, if it watches it itself."""
        subscription = watcher.subscriptions.get(conversation_id)
        if subscription is None or not subscription.live or subscription.epoch is None:
            return
        user_id = watcher.principal.user_id
        self._hint(
            watcher.principal.tenant_id, conversation_id,
            frames.typing(conversation_id, user_id, active), but=watcher,
        )  # fmt: skip

    def tell_owner(self, tenant_id: str, conversation_id: str) -> None:
        """Tell the other instances' engines that a conversation needs its owner's attention."""
        if self._bridge is not None:
            self._bridge.publish(ENGINE_CHANNEL, engine_payload(tenant_id, conversation_id))

    def _hint(
        self, tenant_id: str, conversation_id: str, payload: bytes, *, but: Watcher | None = None
    ) -> None:
        topic = self._topics.get((tenant_id, conversation_id))
        if topic is not None:
            topic.hint(payload, but=but)
        if self._bridge is not None:
            channel = channel_of(tenant_id, conversation_id)
            self._bridge.publish(channel, hint_payload(tenant_id, conversation_id, payload))

    def _arrived(self, topic: Topic, owner: str | None, deleted: bool, batch: EventBatch | None) -> None:
        if deleted:
            self._dissolve(topic)
        elif batch is not None and batch.events:
            match topic.offer(CommitFrames(topic.conversation_id, owner, batch), owner):
                case Arrival.EARLY:
                    self._heal_later(topic)
                case Arrival.OTHER_LIFE:
                    self._resync(list(topic.subscriptions))
            if topic.behind:
                behind, topic.behind = topic.behind, None
                self._resync(behind)

    def _receive(self, payload: bytes) -> None:
        """Take a payload from the bus."""
        message = read_payload(payload)
        if message is not None:
            try:
                self._take(message)
            except (KeyError, TypeError):
                _log.warning("bus_payload_malformed")

    def _take(self, message: Mapping[str, Any]) -> None:
        key = (message["tenant"], message["conversation"])
        if message["kind"] == "engine":
            if self._on_engine is not None:
                self._on_engine(*key)
            return
        topic = self._topics.get(key)
        if topic is None:
            return
        if message["kind"] == "commit":
            batch = read_batch(message["batch"]) if message["batch"] is not None else None
            self._arrived(topic, message["owner"], message["deleted"], batch)
        elif message["kind"] == "hint":
            topic.hint(orjson.dumps(message["frame"]))

    # --- who watches ------------------------------------------------------------------------------

    async def subscribe(
        self,
        watcher: Watcher,
        conversation_id: str,
        resume: Resume | None,
        reply: Callable[[Standing], bytes],
    ) -> None:
        """Begin (or resume) to watch: reply, then replay or snapshot, then live (rule 9).

        ``reply`` makes the ``welcome`` or ``ack``; it is put in the outbox ahead of everything else.

        Raises:
            Refused: ``conversation_not_found``, ``bad_request`` beyond 100 conversations.
            StoreUnavailable: nothing was sent, and what was watched before still is.
        """
        subscription, record, missed = await self._look_up(watcher, conversation_id, resume)
        recovered = missed is not None if record is not None else resume is None
        epoch, offset = (record.epoch, record.offset) if record is not None else (None, 0)
        watcher.outbox.put(reply(Standing(conversation_id, epoch, offset, recovered)))
        turn = self._next_turn(subscription)
        try:
            await self._begin(subscription, turn, record, resume, missed)
        except StoreUnavailable:
            self._strays.add(subscription)  # it was answered already; a later tick brings the snapshot

    async def _look_up(
        self, watcher: Watcher, conversation_id: str, resume: Resume | None
    ) -> tuple[Subscription, Conversation | None, Sequence[EventBatch] | None]:
        """Attach, then read: what is committed from here on reaches the topic."""
        known = conversation_id in watcher.subscriptions
        while True:
            subscription = await self._attach(watcher, conversation_id)
            try:
                record = await self._visible(watcher.principal, conversation_id)
                missed = await self._missed(record, resume) if record is not None else None
            except BaseException as error:
                if not known or isinstance(error, Refused):
                    self._detach(subscription)
                raise
            if not subscription.gone:
                subscription.topic.rest(subscription)
                return subscription, record, missed
            # It was deleted, or another's creation detached us, while we read: look again.

    def unsubscribe(self, watcher: Watcher, conversation_id: str) -> bool:
        """Stop watching. False: it was not watched."""
        subscription = watcher.subscriptions.get(conversation_id)
        if subscription is None:
            return False
        self._detach(subscription)
        return True

    def drop(self, watcher: Watcher) -> None:
        """The connection is gone: forget all it watched."""
        for subscription in list(watcher.subscriptions.values()):
            self._detach(subscription)

    def reauthorise(self, watcher: Watcher) -> None:
        """The principal's scopes changed: narrow or end the subscriptions that needed the old ones."""
        for subscription in list(watcher.subscriptions.values()):
            if subscription.epoch is None:
                continue
            audience = audience_for(watcher.principal, subscription.topic.owner)
            if audience is None:
                self._detach(subscription)
                code = ErrorCode.PERMISSION_DENIED.value
                watcher.outbox.put(frames.unsubscribed(subscription.topic.conversation_id, code))
            else:
                subscription.audience = audience

    def offsets(self, watcher: Watcher) -> dict[str, int]:
        """Return the last ``to`` put in the outbox for each watched conversation (for ``ping``)."""
        return {name: subscription.to for name, subscription in watcher.subscriptions.items()}

    async def _attach(self, watcher: Watcher, conversation_id: str) -> Subscription:
        if conversation_id not in watcher.subscriptions and len(watcher.subscriptions) >= WATCHED_MAX:
            raise Refused(
                ErrorCode.BAD_REQUEST,
                f"A connection watches at most {WATCHED_MAX} conversations.",
                field="conversation_id",
                suggestion="Unsubscribe from one first, or open another connection.",
            )
        key = (watcher.principal.tenant_id, conversation_id)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(*key)
        subscription = topic.add(watcher)
        if self._bridge is not None:
            await self._bridge.listen(channel_of(*key))
        return subscription

    def _detach(self, subscription: Subscription) -> None:
        topic = subscription.topic
        topic.remove(subscription)
        self._drop_if_unwatched(topic)

    def _drop_if_unwatched(self, topic: Topic) -> None:
        key = (topic.tenant_id, topic.conversation_id)
        if not topic.subscriptions and self._topics.get(key) is topic:
            del self._topics[key]
            self._gapped.discard(topic)
            if self._bridge is not None:
                self._bridge.leave(channel_of(*key))

    def _dissolve(self, topic: Topic) -> None:
        """The conversation was deleted: tell everybody, once."""
        notice = frames.unsubscribed(topic.conversation_id)
        for subscription in list(topic.subscriptions):
            if subscription.epoch is not None:
                topic.remove(subscription)
                subscription.watcher.outbox.put(notice)
        if topic.live == 0:
            topic.begin(None, 0)
        self._drop_if_unwatched(topic)

    # --- catching up ------------------------------------------------------------------------------

    async def _visible(self, principal: Principal, conversation_id: str) -> Conversation | None:
        """Return the record, None where it is missing. Raises Refused where it is another's."""
        record = await self._read(principal.tenant_id, conversation_id)
        if record is None or record.deleted_at is not None:
            return None
        if audience_of(principal, record) is None:
            raise conversation_not_found()
        return record

    async def _missed(self, record: Conversation, resume: Resume | None) -> Sequence[EventBatch] | None:
        """Return what the client missed, or None where it needs a snapshot."""
        if resume is None or resume.epoch != record.epoch or resume.offset < record.reset_offset:
            return None
        return await self._batches(record, resume.offset)

    async def _batches(self, record: Conversation, after: int) -> Sequence[EventBatch] | None:
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

    async def _begin(
        self,
        subscription: Subscription,
        turn: int,
        record: Conversation | None,
        resume: Resume | None,
        missed: Sequence[EventBatch] | None,
    ) -> None:
        """Send what the reply announced, then go live."""
        if record is None:
            subscription.epoch, subscription.to = None, 0
            if resume is not None:
                topic = subscription.topic
                subscription.watcher.outbox.put(missing_snapshot_frame(topic.conversation_id))
        elif missed is not None and resume is not None:
            subscription.epoch, subscription.to = record.epoch, resume.offset
            await self._replay(subscription, turn, record, missed)
        else:
            await self._snapshot(subscription, turn, record)
        await self._finish(subscription, turn)

    def _next_turn(self, subscription: Subscription) -> int:
        """Begin to catch a subscription up; whoever was at it stops at the next step."""
        self._strays.discard(subscription)
        subscription.turn += 1
        return subscription.turn

    @staticmethod
    def _overtaken(subscription: Subscription, turn: int) -> bool:
        return subscription.gone or subscription.turn != turn or subscription.watcher.outbox.closed

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
            await subscription.watcher.outbox.room()
            if self._overtaken(subscription, turn) or not subscription.put(frame, to):
                return

    async def _snapshot(self, subscription: Subscription, turn: int, record: Conversation) -> None:
        self._see(subscription, record)
        page = await newest_messages(self._store, record, subscription.audience)
        await subscription.watcher.outbox.room()
        if self._overtaken(subscription, turn):
            return
        partials = subscription.topic.partial_records()
        frame = snapshot_frame(record, subscription.audience, page, partials)
        if subscription.put(frame, record.offset):
            subscription.epoch = record.epoch

    async def _finish(self, subscription: Subscription, turn: int) -> None:
        """Read on until the subscription stands where the topic stands, then go live."""
        topic = subscription.topic
        while not self._overtaken(subscription, turn):
            if topic.enliven(subscription):
                return
            record = await self._read(topic.tenant_id, topic.conversation_id)
            if record is None or record.deleted_at is not None:
                self._ended(subscription)
            elif audience_of(subscription.watcher.principal, record) is None:
                self._detach(subscription)  # somebody else was first: silently
            else:
                await self._follow(subscription, turn, record)
                self._align(topic, subscription, record)

    async def _follow(self, subscription: Subscription, turn: int, record: Conversation) -> None:
        """Bring a subscription up to ``record``, by replay where that can be, else by a snapshot."""
        missed: Sequence[EventBatch] | None = None
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
            self._heal_soon(topic)
            return
        others = [other for other in topic.subscriptions if other is not subscription and other.live]
        topic.begin(record.epoch, subscription.to)
        topic.owner = record.user_id
        self._resync(others)

    def _ended(self, subscription: Subscription) -> None:
        """The conversation is gone while a subscription was being caught up."""
        topic = subscription.topic
        if subscription.epoch is not None:
            self._detach(subscription)
            subscription.watcher.outbox.put(frames.unsubscribed(topic.conversation_id))
        else:
            self._dissolve(topic)

    # --- healing ----------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Heal gaps that are a second old, and try again what the store was away for.

        Call it about once a second.
        """
        for topic in list(self._gapped):
            if topic.heal_at_ms is not None and topic.heal_at_ms <= now_ms and not topic.healing:
                self._heal_soon(topic)
        if self._strays:
            self._resync(list(self._strays))
        if self._bridge is not None and self._topics and now_ms >= self._tails_at_ms:
            self._tails_at_ms = now_ms + TAIL_CHECK_MS
            self._spawn(self._check_tails())

    def _heal_later(self, topic: Topic) -> None:
        if topic.heal_at_ms is None:
            topic.heal_at_ms = self._now_ms() + HEAL_AFTER_MS
        self._gapped.add(topic)

    def _heal_soon(self, topic: Topic) -> None:
        topic.healing = True
        self._spawn(self._heal(topic))

    async def _heal(self, topic: Topic) -> None:
        try:
            await self._read_on(topic)
        except StoreUnavailable:
            topic.healing, topic.heal_at_ms = False, None
            self._heal_later(topic)
            raise
        topic.healing, topic.heal_at_ms = False, None
        self.healed += 1
        self._gapped.discard(topic)
        if topic.heard > topic.delivered:
            self._heal_later(topic)

    async def _read_on(self, topic: Topic) -> None:
        """Deliver from the store what is missing between the topic and the record."""
        record = await self._read(topic.tenant_id, topic.conversation_id)
        if record is None or record.deleted_at is not None:
            if topic.epoch is not None:
                self._dissolve(topic)
            return
        if topic.epoch is None and topic.live:
            topic.born(record.epoch, record.user_id)
        if topic.epoch != record.epoch:
            self._resync([subscription for subscription in topic.subscriptions if subscription.live])
            return
        batches = await self._batches(record, min(topic.delivered, record.offset))
        if batches is None:
            self._resync([subscription for subscription in topic.subscriptions if subscription.live])
            return
        for batch in batches:
            if topic.live and topic.epoch == batch.epoch and batch.first_offset == topic.delivered + 1:
                topic.deliver(CommitFrames(topic.conversation_id, topic.owner, batch))
        topic.deliver_early()

    async def _check_tails(self) -> None:
        """Compare what was delivered with what the store has: a lost tail leaves no gap to see."""
        topics = list(self._topics.items())
        for start in range(0, len(topics), TAIL_CHECK_BATCH):
            part = topics[start : start + TAIL_CHECK_BATCH]
            stored = await self._store.offsets([key for key, _ in part])
            for key, topic in part:
                epoch, offset = stored.get(key, (None, 0))
                if topic.live and not topic.healing and (epoch != topic.epoch or offset > topic.delivered):
                    self._heal_soon(topic)

    def _resync(self, subscriptions: Iterable[Subscription]) -> None:
        """Bring these up by a snapshot, each at the speed of its socket."""
        for subscription in subscriptions:
            subscription.topic.rest(subscription)
            turn = self._next_turn(subscription)
            if not subscription.gone:
                self._spawn(self._resync_one(subscription, turn))

    async def _resync_one(self, subscription: Subscription, turn: int) -> None:
        topic = subscription.topic
        try:
            record = await self._read(topic.tenant_id, topic.conversation_id)
            if record is None or record.deleted_at is not None:
                self._ended(subscription)
                return
            await self._snapshot(subscription, turn, record)
            self._align(topic, subscription, record)
            await self._finish(subscription, turn)
        except StoreUnavailable:
            if not self._overtaken(subscription, turn):
                self._strays.add(subscription)
            raise
        except Refused:
            self._detach(subscription)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Background work ends quietly where the store is away: a later tick tries again."""
        try:
            await work
        except StoreUnavailable:
            _log.warning("delivery_waits_for_store")
        except Exception:  # noqa: BLE001 - the ladder's last rung of a background task; logged with traceback
            _log.exception("delivery_failed")
