"""Who watches what, and everything that is told to watchers, in order.

The engine publishes each commit here once; the hub hands it to the topic (if anybody watches) and to
the bus (if there are other instances). What a topic cannot deliver by itself, ``catchup`` reads from
the store.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from protocol.errors import ErrorCode, Refused
from protocol.frames import Resume
from server.delivery import frames
from server.delivery.audience import audience_for
from server.delivery.bridge import (
    ENGINE_CHANNEL,
    FLOWS_CHANNEL,
    Bridge,
    channel_of,
    commit_payload,
    due_payload,
    engine_payload,
    flows_payload,
    hint_payload,
    inbox_channel_of,
    inbox_payload,
    read_batch,
    read_payload,
)
from server.delivery.catchup import CatchUp, Missed, Read
from server.delivery.frames import CommitFrames
from server.delivery.inbox import InboxFeed, changes_inbox
from server.delivery.tails import Tails
from server.delivery.topic import Arrival, Subscription, Topic, Watcher
from server.delivery.topics import Topics
from server.delivery.turns import Turn, TurnFeed
from server.engine.types import Publication
from storage.base import ConversationStore, EventBus, Presence
from storage.models import Conversation, EventBatch

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a conversation stands for who subscribes: what ``welcome`` and ``ack`` say about it."""

    conversation_id: str
    epoch: str | None
    offset: int
    recovered: bool


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What other instances have to say to this one, beside what its watchers are told.

    Attributes:
        work: called with (tenant, conversation, owner) where ``owner``'s work needs attention.
        due: work was let go of; it is due now.
        flows: other flows are to be started from now on.
    """

    work: Callable[[str, str, str], None] = lambda *_: None
    due: Callable[[], None] = lambda: None
    flows: Callable[[], None] = lambda: None


class Hub:
    """All subscriptions of one instance.

    Args:
        store: read for replays, snapshots and gaps.
        read: reads one conversation freshly (``Engine.read``).
        now_ms: monotonic milliseconds, the time of ``tick``.
        bus: the way to other instances; None where there are none.
        elsewhere: called with what other instances say.
        presence: told who watches what here, and tells who does anywhere; None: nobody asks.
    """

    def __init__(
        self,
        *,
        store: ConversationStore,
        read: Read,
        now_ms: Callable[[], int],
        bus: EventBus | None = None,
        elsewhere: Elsewhere | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._elsewhere = elsewhere or Elsewhere()
        self._bridge = Bridge(bus, self._receive) if bus is not None else None
        self._topics = Topics(self._bridge, presence)
        self.inboxes = InboxFeed()
        self.turns = TurnFeed()
        self.catchup = CatchUp(self._topics, store, read, now_ms)
        # Others may write the same store also where no bus tells of it.
        shared = bus is not None or not store.embedded
        self._tails = Tails(self._topics, store, self.catchup) if shared else None
        self._heard = 0

    async def start(self) -> None:
        """Begin to listen to other instances."""
        if self._bridge is not None:
            await self._bridge.listen(ENGINE_CHANNEL)
            await self._bridge.listen(FLOWS_CHANNEL)

    async def stop(self) -> None:
        """End what runs in the background."""
        await self.catchup.stop()

    def restored(self) -> None:
        """The bus is back: find out at once what was missed while it was away."""
        if self._tails is not None:
            self._tails.check_all()
        self.inboxes.wake_all()
        self.turns.wake_all()
        self._elsewhere.due()
        self._elsewhere.flows()

    @property
    def watched(self) -> int:
        """How many conversations are watched."""
        return len(self._topics)

    @property
    def healed(self) -> int:
        """How many gaps were healed from the store."""
        return self.catchup.healed

    def traffic(self) -> Mapping[str, int]:
        """Return how many messages were given to the bus (``sent``) and came from it (``received``)."""
        return {"sent": self._bridge.sent if self._bridge is not None else 0, "received": self._heard}

    def tick(self, now_ms: int) -> None:
        """Let time pass. Call it about once a second."""
        self.catchup.tick(now_ms)
        if self._tails is not None:
            self._tails.tick()

    # --- what happened ----------------------------------------------------------------------------

    def prepare(self, publication: Publication) -> None:
        """Encode what watchers here will be told of a commit that is not durable yet."""
        record, batch = publication.record, publication.batch
        topic = self._topics.get((record.tenant_id, record.conversation_id))
        if topic is not None and batch is not None:
            topic.prepare(CommitFrames(topic.conversation_id, record.user_id, batch))

    def publish(self, publication: Publication) -> None:
        """Tell watchers, here and elsewhere, of a commit. Called once a commit, in its order."""
        record, batch = publication.record, publication.batch
        deleted = record.deleted_at is not None
        if batch is None and not deleted:
            return
        tenant_id, conversation_id = record.tenant_id, record.conversation_id
        if self._bridge is not None:
            self._bridge.publish(
                channel_of(tenant_id, conversation_id),
                commit_payload(tenant_id, conversation_id, record.user_id, deleted, batch),
            )
            if changes_inbox(batch):
                self._bridge.publish(inbox_channel_of(tenant_id), inbox_payload(tenant_id))
        if self.inboxes:
            self.inboxes.committed(tenant_id, batch)
        if self.turns:
            self.turns.committed(tenant_id, conversation_id, batch)
        topic = self._topics.get((tenant_id, conversation_id))
        if topic is not None:
            self._arrived(topic, record.user_id, deleted, batch)

    def publish_delta(
        self,
        tenant_id: str,
        conversation_id: str,
        epoch: str,
        execution_id: str,
        message_id: str,
        index: int,
        delta: str,
    ) -> None:
        """Pass a piece of a streamed message on; it may be lost."""
        payload = frames.message_delta(conversation_id, execution_id, message_id, index, delta)
        topic = self._topics.get((tenant_id, conversation_id))
        if topic is not None and topic.epoch == epoch:
            topic.stream(message_id, index, delta)
        self._hint(tenant_id, conversation_id, epoch, payload)

    def typing(self, watcher: Watcher, conversation_id: str, active: bool) -> None:
        """Tell the others of a conversation that ``watcher`` types in it, if it watches it itself."""
        subscription = watcher.subscriptions.get(conversation_id)
        if subscription is None or not subscription.live or subscription.epoch is None:
            return
        user_id = watcher.principal.user_id
        self._hint(
            watcher.principal.tenant_id, conversation_id, subscription.epoch,
            frames.typing(conversation_id, user_id, active), but=watcher,
        )  # fmt: skip

    def tell_owner(self, tenant_id: str, conversation_id: str, owner: str) -> None:
        """Tell another instance's engine that a conversation needs its owner's attention."""
        if self._bridge is not None:
            self._bridge.publish(ENGINE_CHANNEL, engine_payload(tenant_id, conversation_id, owner))

    def tell_due(self) -> None:
        """Tell the other instances that work was let go of here, which is due now."""
        if self._bridge is not None:
            self._bridge.publish(ENGINE_CHANNEL, due_payload())

    def tell_flows(self) -> None:
        """Tell the other instances that other flows are to be started."""
        if self._bridge is not None:
            self._bridge.publish(FLOWS_CHANNEL, flows_payload())

    def _hint(
        self, tenant_id: str, conversation_id: str, epoch: str, payload: bytes, *, but: Watcher | None = None
    ) -> None:
        topic = self._topics.get((tenant_id, conversation_id))
        if topic is not None:
            topic.hint(payload, epoch, but=but)
        if self._bridge is not None:
            channel = channel_of(tenant_id, conversation_id)
            self._bridge.publish(channel, hint_payload(tenant_id, conversation_id, epoch, payload))

    def _arrived(self, topic: Topic, owner: str | None, deleted: bool, batch: EventBatch | None) -> None:
        if deleted:
            self._topics.dissolve(topic)
        elif batch is not None and batch.events:
            match topic.offer(topic.frames_of(batch, owner), owner):
                case Arrival.EARLY:
                    self.catchup.heal_later(topic)
                case Arrival.OTHER_LIFE:
                    self.catchup.resync(topic.living())
            if topic.behind:
                behind, topic.behind = topic.behind, None
                self.catchup.resync(behind)
            self._topics.settle(topic)

    def _receive(self, payload: bytes) -> None:
        """Take a payload from the bus."""
        self._heard += 1
        message = read_payload(payload)
        if message is not None:
            try:
                self._take(message)
            except (KeyError, TypeError):
                _log.warning("bus_payload_malformed")

    def _take(self, message: Mapping[str, Any]) -> None:
        match message["kind"]:
            case "engine":
                self._elsewhere.work(message["tenant"], message["conversation"], message["owner"])
            case "due":
                self._elsewhere.due()
            case "flows":
                self._elsewhere.flows()
            case "inbox":
                self.inboxes.wake(message["tenant"])
            case "commit":
                self._take_commit((message["tenant"], message["conversation"]), message)
            case "hint":
                topic = self._topics.get((message["tenant"], message["conversation"]))
                if topic is not None:
                    topic.hint(orjson.dumps(message["frame"]), message["epoch"])

    def _take_commit(self, key: tuple[str, str], message: Mapping[str, Any]) -> None:
        topic = self._topics.get(key)
        if topic is None and not self.turns:
            return
        batch = read_batch(message["batch"]) if message["batch"] is not None else None
        self.turns.committed(*key, batch)
        if topic is not None:
            self._arrived(topic, message["owner"], message["deleted"], batch)

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
        await self.catchup.begin(subscription, record, resume, missed)

    @asynccontextmanager
    async def watch_inbox(self, tenant_id: str, wake: Callable[[], None]) -> AsyncIterator[None]:
        """Have ``wake`` called whenever the tenant's inbox may have changed, on whatever instance."""
        with self.inboxes.watch(tenant_id, wake):
            async with self._hearing(inbox_channel_of(tenant_id)):
                yield

    @asynccontextmanager
    async def watch_turn(self, turn: Turn, wake: Callable[[], None]) -> AsyncIterator[None]:
        """Have ``wake`` called when a turn may have ended, on whatever instance."""
        with self.turns.watch(turn, wake):
            async with self._hearing(channel_of(*turn[:2])):
                yield

    def _hearing(self, channel: str) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._bridge is None else self._bridge.hearing(channel)

    async def _look_up(
        self, watcher: Watcher, conversation_id: str, resume: Resume | None
    ) -> tuple[Subscription, Conversation | None, Missed]:
        """Attach, then read: what is committed from here on reaches the topic."""
        known = conversation_id in watcher.subscriptions
        while True:
            subscription = await self._topics.attach(watcher, conversation_id)
            try:
                record, missed = await self.catchup.look_up(watcher.principal, conversation_id, resume)
            except BaseException as error:
                if not known or isinstance(error, Refused):
                    self._topics.detach(subscription)
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
        self._topics.detach(subscription)
        return True

    def drop(self, watcher: Watcher) -> None:
        """The connection is gone: forget all it watched."""
        for subscription in list(watcher.subscriptions.values()):
            self._topics.detach(subscription)

    def reauthorise(self, watcher: Watcher) -> None:
        """The principal's scopes changed: narrow or end the subscriptions that needed the old ones."""
        for subscription in list(watcher.subscriptions.values()):
            if not subscription.live:
                self.catchup.reauthorise(subscription)
                continue
            if subscription.epoch is None:
                continue
            audience = audience_for(watcher.principal, subscription.topic.owner)
            if audience is None:
                self._topics.detach(subscription)
                code = ErrorCode.PERMISSION_DENIED.value
                watcher.outbox.put(frames.unsubscribed(subscription.topic.conversation_id, code))
            else:
                subscription.audience = audience

    def offsets(self, watcher: Watcher) -> dict[str, int]:
        """Return the last ``to`` put in the outbox for each watched conversation (for ``ping``)."""
        return {name: subscription.to for name, subscription in watcher.subscriptions.items()}
