"""One watched conversation: its subscriptions, and the order in which they are told.

Synchronous and without I/O. A topic delivers only the contiguous successor of what it delivered;
what comes early waits (a few commits), what comes late is dropped. The log is the truth: whatever is
lost here is read from the store by the hub.
"""

from enum import Enum
from typing import Final, Protocol

from server.auth.principal import Principal
from server.delivery.audience import audience_for
from server.delivery.frames import FRAME_MAX_BYTES, CommitFrames
from server.delivery.outbox import Outbox
from storage.base import Presence
from storage.models import Audience, EventBatch

EARLY_COMMITS: Final = 16
"""How many commits may wait for a missing one; the next is dropped and comes from the store."""
PARTIALS_MAX: Final = 8
PARTIAL_MAX_CHARS: Final = 16 * 1024


class Watcher(Protocol):
    """A connection, as its subscriptions see it."""

    @property
    def outbox(self) -> Outbox:
        """Where its frames go."""

    @property
    def principal(self) -> Principal:
        """Who watches."""

    @property
    def subscriptions(self) -> dict[str, "Subscription"]:
        """What it watches, by conversation id."""


class Subscription:
    """One connection's view of one conversation.

    ``epoch`` and ``to`` say where the client stands: what the last frame put in its outbox said.
    Only a ``live`` one is delivered to; the others are being caught up from the store. ``turn`` grows
    with each catching up, so that an older one notices that it was overtaken.
    """

    __slots__ = ("audience", "epoch", "gone", "live", "outbox", "to", "topic", "turn", "watcher")

    def __init__(self, watcher: Watcher, topic: "Topic") -> None:
        self.watcher = watcher
        self.outbox = watcher.outbox
        self.topic = topic
        self.audience: Audience = "owner"
        self.epoch: str | None = None
        self.to = 0
        self.live = False
        self.gone = False
        self.turn = 0

    def put(self, payload: bytes, to: int) -> bool:
        """Put a frame that ends at ``to`` in the outbox. False: the connection is closing."""
        if not self.outbox.put(payload):
            return False
        self.to = to
        return True


class Partial:
    """What was streamed so far of one message."""

    __slots__ = ("next_index", "parts", "size")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.size = 0
        self.next_index = 0


class Arrival(Enum):
    """What became of a commit that was offered to a topic."""

    TAKEN = "delivered, or known already"
    EARLY = "one before it is missing"
    OTHER_LIFE = "it belongs to another epoch"


class Topic:
    """A watched conversation of one tenant.

    ``epoch`` None: it does not exist as far as is known. ``live`` counts the live subscriptions; while
    there is none, nobody relies on the order, and the topic only notes how far the log has come.
    ``heard`` is the highest offset that any commit spoke of; above ``delivered`` something is missing.
    ``behind`` are those that a frame was too large for; the hub catches them up with a snapshot.
    ``prepared`` is a commit that was not durable when it was encoded, and may never be.
    ``presence`` is told of everybody who comes and goes.
    """

    __slots__ = (
        "behind", "conversation_id", "delivered", "early", "epoch", "heal_at_ms", "healing", "heard", "live",
        "owner", "partials", "prepared", "presence", "subscriptions", "tenant_id",
    )  # fmt: skip

    def __init__(self, tenant_id: str, conversation_id: str, presence: Presence | None = None) -> None:
        self.presence = presence
        self.tenant_id = tenant_id
        self.conversation_id = conversation_id
        self.owner: str | None = None
        self.epoch: str | None = None
        self.delivered = 0
        self.heard = 0
        self.live = 0
        self.subscriptions: dict[Subscription, None] = {}
        self.early: dict[int, CommitFrames] | None = None
        self.behind: list[Subscription] | None = None
        self.partials: dict[str, Partial] | None = None
        self.prepared: CommitFrames | None = None
        self.heal_at_ms: int | None = None
        self.healing = False

    # --- who watches ------------------------------------------------------------------------------

    def add(self, watcher: Watcher) -> Subscription:
        """Return ``watcher``'s subscription, making one that is not live yet."""
        found = watcher.subscriptions.get(self.conversation_id)
        if found is None:
            found = watcher.subscriptions[self.conversation_id] = Subscription(watcher, self)
            self.subscriptions[found] = None
            if self.presence is not None:
                self.presence.enter(self.tenant_id, self.conversation_id, watcher.principal.user_id)
        return found

    def remove(self, subscription: Subscription) -> None:
        """End a subscription; its client is not told."""
        self.rest(subscription)
        subscription.gone = True
        watcher = subscription.watcher
        if subscription in self.subscriptions:
            del self.subscriptions[subscription]
            if self.presence is not None:
                self.presence.leave(self.tenant_id, self.conversation_id, watcher.principal.user_id)
        watcher.subscriptions.pop(self.conversation_id, None)

    def living(self) -> list[Subscription]:
        """Return the subscriptions that are delivered to."""
        return [subscription for subscription in self.subscriptions if subscription.live]

    def rest(self, subscription: Subscription) -> None:
        """Stop delivering to a subscription, while it is caught up."""
        if subscription.live:
            subscription.live = False
            self.live -= 1

    def enliven(self, subscription: Subscription) -> bool:
        """Deliver to ``subscription`` from now on, if it stands where that leaves neither gap nor double."""
        if self.live == 0 and self.epoch is None and subscription.epoch is not None:
            self.begin(subscription.epoch, subscription.to)
        if self.epoch != subscription.epoch or subscription.to < self.delivered:
            return False
        if not subscription.live:
            subscription.live = True
            self.live += 1
        return True

    def begin(self, epoch: str | None, delivered: int) -> None:
        """Take another life of the conversation up, where it stands."""
        self.epoch = epoch
        self.delivered = self.heard = delivered
        self.early = None

    def born(self, epoch: str, owner: str | None) -> None:
        """The conversation exists now. Who waited for it and may not see it is detached silently."""
        self.begin(epoch, 0)
        self.owner = owner
        for subscription in list(self.subscriptions):
            audience = audience_for(subscription.watcher.principal, owner)
            if audience is None:
                self.remove(subscription)
            elif subscription.live:
                subscription.audience, subscription.epoch = audience, epoch

    # --- what comes in ----------------------------------------------------------------------------

    def prepare(self, commit: CommitFrames) -> None:
        """Encode what ``deliver`` will need of a commit that may come; nobody is told."""
        self.prepared = commit
        for audience in {subscription.audience for subscription in self.subscriptions if subscription.live}:
            commit.frame(audience)

    def frames_of(self, batch: EventBatch, owner: str | None) -> CommitFrames:
        """Return the frames of a commit that has come: those that were prepared, if it is this very one."""
        prepared, self.prepared = self.prepared, None
        if prepared is not None and prepared.batch is batch:
            return prepared
        return CommitFrames(self.conversation_id, owner, batch)

    def offer(self, commit: CommitFrames, owner: str | None) -> Arrival:
        """Deliver ``commit`` if it is next, keep it if it is early, drop it if it is old."""
        if not self.live:
            self._note(commit, owner)
            return Arrival.TAKEN
        if commit.epoch != self.epoch:
            if self.epoch is not None:
                return Arrival.OTHER_LIFE
            if commit.first_offset == 1:
                self.born(commit.epoch, owner)
        elif commit.last_offset <= self.delivered:
            return Arrival.TAKEN
        self.heard = max(self.heard, commit.last_offset)
        if commit.epoch != self.epoch or commit.first_offset != self.delivered + 1:
            self._keep(commit)
            return Arrival.EARLY
        self.deliver(commit)
        self.deliver_early()
        return Arrival.EARLY if self.heard > self.delivered else Arrival.TAKEN

    def _note(self, commit: CommitFrames, owner: str | None) -> None:
        """Nobody relies on the order: remember how far the log reaches."""
        if commit.epoch == self.epoch:
            self.delivered = max(self.delivered, commit.last_offset)
        else:
            self.epoch, self.delivered = commit.epoch, commit.last_offset
        self.owner = owner
        self.heard = self.delivered
        self.early = None

    def _keep(self, commit: CommitFrames) -> None:
        if self.early is None:
            self.early = {}
        if len(self.early) < EARLY_COMMITS:
            self.early[commit.first_offset] = commit

    def deliver(self, commit: CommitFrames) -> None:
        """Put the next commit in the outbox of every live subscription that has not got it."""
        self.delivered = commit.last_offset
        if self.partials:
            self._end_partials(commit)
        last, audience, frame = commit.last_offset, None, b""
        for subscription in self.subscriptions:
            if subscription.live and subscription.to < last:
                if subscription.audience != audience:
                    audience = subscription.audience
                    frame = commit.frame(audience)
                if len(frame) <= FRAME_MAX_BYTES:
                    subscription.put(frame, last)
                else:
                    self._leave_behind(subscription)

    def _leave_behind(self, subscription: Subscription) -> None:
        self.rest(subscription)
        self.behind = [*(self.behind or ()), subscription]

    def deliver_early(self) -> None:
        """Deliver what waited and is next now; forget what is old."""
        early = self.early
        if not early:
            return
        while (commit := early.pop(self.delivered + 1, None)) is not None and commit.epoch == self.epoch:
            self.deliver(commit)
        kept = {
            first: commit
            for first, commit in early.items()
            if commit.epoch == self.epoch and commit.last_offset > self.delivered
        }
        self.early = kept or None

    # --- hints ------------------------------------------------------------------------------------

    def hint(self, payload: bytes, epoch: str, *, but: Watcher | None = None) -> None:
        """Send what may be lost (a delta, a typing notice) to whom it can reach at once.

        Not to who waits for a conversation to begin, nor to who knows another life of it: whether they may
        see this one, its first commit tells, and a bus may bring that later, or never.
        """
        for subscription in self.subscriptions:
            knows = subscription.live and subscription.epoch == epoch
            if knows and subscription.watcher is not but and subscription.outbox.has_room:
                subscription.outbox.put(payload)

    def stream(self, message_id: str, index: int, delta: str) -> None:
        """Keep what was streamed of a message, for snapshots; gives up on holes and on long ones."""
        if self.partials is None:
            self.partials = {}
        partial = self.partials.get(message_id)
        if partial is None:
            if index != 0 or len(self.partials) >= PARTIALS_MAX:
                return
            partial = self.partials[message_id] = Partial()
        if index != partial.next_index or partial.size + len(delta) > PARTIAL_MAX_CHARS:
            del self.partials[message_id]
            return
        partial.parts.append(delta)
        partial.size += len(delta)
        partial.next_index += 1

    def partial_records(self) -> list[dict[str, object]]:
        """Return the ``partials`` of a snapshot."""
        return [
            {"message_id": message_id, "text": "".join(partial.parts), "next_index": partial.next_index}
            for message_id, partial in (self.partials or {}).items()
        ]

    def _end_partials(self, commit: CommitFrames) -> None:
        assert self.partials is not None
        for event in commit.events:
            if event.type in ("message.completed", "message.retracted"):
                self.partials.pop(event.data.get("message_id", ""), None)


__all__ = ["Arrival", "Subscription", "Topic", "Watcher"]
