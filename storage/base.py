"""The ports: what the server needs of a store and of a bus, and the duties of every adapter.

An adapter is one folder (``memory``, ``sqlite``, ...) and passes ``tests/conformance``. The tenant is a
parameter of every call that touches a tenant's data, and every adapter puts it into every query, so
another tenant's conversation is indistinguishable from a missing one.

Every method may raise ``StoreUnavailable``: the store cannot be reached, is full or has failed; then
nothing is known to have happened (see ``CommitUnknown`` for the one case that needs more care).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from storage.listing import ExecutionFilter, ExecutionPlace, Listed, ListPlace, Waiting, WaitPlace
from storage.models import (
    ApiKey,
    Conversation,
    EventBatch,
    Flow,
    FlowVersion,
    InboxEntry,
    KeyPlace,
    TimeMs,
)
from storage.record import record


class StorageError(Exception):
    """Base of what an adapter raises."""


class StoreUnavailable(StorageError):  # noqa: N818
    """The store cannot serve now. The operation did not happen, or had no effect worth knowing."""


class CommitUnknown(StoreUnavailable):
    """A commit or enqueue was sent and its outcome is not known (lost reply, failover).

    The caller reloads: a commit happened if ``batch_at(first_offset)`` has its ``commit_id`` (or, for a
    commit without events, if the record carries its ``commit_id``).
    """


class StoreLocked(StorageError):  # noqa: N818
    """Another server has this store open exclusively. The message says which file and what to do."""


class StoreTooNew(StorageError):  # noqa: N818
    """The store was written by a newer Parley than this one; nothing was changed."""


class StoreRefused(StorageError):  # noqa: N818
    """The store is there and will never serve us as things are. The message says what to change."""


class BusRefused(StorageError):  # noqa: N818
    """The bus is there and will never serve us as things are. The message says what to change."""


class CommitOutcome(Enum):
    """What became of a commit."""

    COMMITTED = "committed"
    CONFLICT = "conflict"
    DUPLICATE = "duplicate"


@record(frozen=True, slots=True)
class Expected:
    """What the writer read. A commit happens only if the stored record still has both.

    ``revision`` None: the record must not exist (insert-only); otherwise it must (update-only).
    ``fence`` is compared always; a writer that holds no lease passes the fence it read.
    """

    revision: int | None
    fence: int = 0


@record(frozen=True, slots=True)
class Commit:
    """One atomic change of one conversation.

    ``record`` is the whole new record: its ``revision`` is ``expected.revision + 1`` (1 for an insert)
    and its ``commit_id`` is ``batch.commit_id``. ``batch`` is None for a commit without events, then the
    commit id is ``record.commit_id``. ``batch.key`` is set only on the commit that accepts a command.

    ``meanwhile`` is what the process can do while it would wait for the commit: an adapter that waits for a
    disk calls it then, in the event loop, or does not call it; never twice. Nothing of it may show, for the
    commit may fail yet; it does not raise.
    """

    expected: Expected
    record: Conversation
    batch: EventBatch | None
    meanwhile: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the log knows of an idempotency key: the batch that accepted the command."""

    key: str
    body_hash: str | None
    epoch: str
    first_offset: int
    last_offset: int
    execution_id: str | None


@dataclass(frozen=True, slots=True)
class Due:
    """A conversation whose ``wake_at`` has come."""

    tenant_id: str
    conversation_id: str
    wake_at: TimeMs


class ConversationStore(Protocol):
    """Conversations and their event logs.

    Ordering: all operations on one conversation are linearizable; ``load`` and ``events`` that start
    after a commit returned see it. After ``COMMITTED``, ``events`` returns the batch.
    """

    detects_duplicates: bool
    """Whether ``commit`` itself answers ``DUPLICATE`` for every key in the log. Where False the caller
    looks a key up with ``find_key`` before it reduces."""

    embedded: bool
    """Whether this process is the only one that can write, so that a cached record is fresh."""

    migrated: Sequence[str]
    """What the last ``open`` changed of how things are kept, such as an index that it made; often nothing."""

    async def open(self) -> None:
        """Connect, lock, migrate. Raises StoreLocked, StoreTooNew, StoreRefused or StoreUnavailable.

        An exclusive store voids all leases here (``lease`` none, ``wake_at`` now): their owners are dead.
        """

    async def close(self) -> None:
        """Finish what was accepted and release everything. Idempotent."""

    async def ping(self) -> None:
        """Raise StoreUnavailable unless a read and the writer work."""

    def now(self) -> TimeMs:
        """Return the store's time; never blocks. A networked store keeps a measured offset."""

    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        """Return the newest committed record (a majority read), a tombstone included, or None."""

    async def load_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Conversation]:
        """Return what ``load`` would for each (tenant, conversation) that exists, in one read."""

    async def commit(self, commit: Commit) -> CommitOutcome:
        """Make ``record`` and ``batch`` durable together, or change nothing.

        ``COMMITTED`` is answered only when both survive the loss of power. ``CONFLICT``: the record is
        not at ``expected`` (revision or fence, or it exists / does not exist). ``DUPLICATE``: the batch's
        key is already in this conversation's log (checked only where ``expected`` held). Raises
        CommitUnknown where the outcome cannot be told. A cancelled caller does not undo it.
        """

    async def renew(
        self, tenant_id: str, conversation_id: str, fence: int, owner: str, until: TimeMs, wake_at: TimeMs
    ) -> bool:
        """Move the lease's end and ``wake_at``, if ``fence`` and ``owner`` still hold.

        Leaves the revision alone and writes no event. False: the lease is lost; stop the effect.
        """

    async def enqueue(self, tenant_id: str, conversation_id: str, entry: InboxEntry, wake_at: TimeMs) -> bool:
        """Append ``entry`` to the inbox in one conditional write.

        The conditions: the record exists, is no tombstone, is busy, has the key neither in ``inbox`` nor
        in ``recent``, and the inbox stays within ``INBOX_MAX_ENTRIES`` and ``INBOX_MAX_BYTES``. Adds 1 to
        the revision, sets ``last_activity``, sets ``wake_at`` to the earlier of the present one and
        ``wake_at``. No event. False: no match.
        """

    async def events(
        self,
        tenant_id: str,
        conversation_id: str,
        epoch: str,
        after: int,
        *,
        limit: int = 1000,
        max_bytes: int = 512 * 1024,
    ) -> list[EventBatch]:
        """Return whole batches whose ``last_offset`` is above ``after``, in order.

        As many as fit ``limit`` events and ``max_bytes``, but at least one if there is any.
        """

    async def batch_at(
        self, tenant_id: str, conversation_id: str, epoch: str, first_offset: int
    ) -> EventBatch | None:
        """Return the batch that begins at ``first_offset``, or None."""

    async def find_key(self, tenant_id: str, conversation_id: str, key: str) -> KeyRecord | None:
        """Find the batch that accepted the command with this idempotency key: one indexed read."""

    async def turn_end(
        self, tenant_id: str, conversation_id: str, epoch: str, command_id: str, from_offset: int
    ) -> EventBatch | None:
        """Return the batch in which the turn of ``command_id`` ends, or None while it has not.

        That is the first at or after ``from_offset`` with a ``turn.completed`` or ``turn.failed`` of it.
        """

    async def messages(
        self, tenant_id: str, conversation_id: str, epoch: str, *, before: int | None, after: int, limit: int
    ) -> list[EventBatch]:
        """Return, oldest first, the batches that hold the newest ``limit`` messages of a range.

        The range is ``after < offset < before`` (``before`` None: no upper end). The batches hold further
        events, too.
        """

    async def due(self, now: TimeMs, limit: int) -> list[Due]:
        """Return up to ``limit`` conversations with ``wake_at <= now``, the earliest first."""

    async def offsets(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
        """Return ``(epoch, offset)`` for each (tenant, conversation) that exists, in one read."""

    async def find_execution(self, tenant_id: str, execution_id: str) -> ExecutionPlace | None:
        """Return where the events of an execution are, be it its conversation's current one or not."""

    async def executions(
        self,
        tenant_id: str,
        wanted: ExecutionFilter,
        *,
        after: ListPlace | None = None,
        limit: int = 50,
        max_bytes: int = 4 * 1024 * 1024,
    ) -> list[Listed]:
        """Return the current executions of a tenant's conversations, the most lately active first.

        Those behind ``after``: as many as fit ``limit`` and ``max_bytes`` of stored records, but at least
        one if there is any. The order is by ``Listing.active_at`` and conversation id, both descending. A
        place is a value, not a count: what begins or ends meanwhile shifts nothing, and an execution that
        has moved to the front is found there. Served by an index over (tenant, time) or, where one is asked
        for, (tenant, status, time) or (tenant, user, time); the other filters are applied on the way.
        A record that cannot be read is passed over, and logged (``storage.readable``).
        """

    async def conversations(
        self,
        tenant_id: str,
        wanted: ExecutionFilter,
        *,
        after: ListPlace | None = None,
        limit: int = 50,
        max_bytes: int = 4 * 1024 * 1024,
    ) -> list[Listed]:
        """Return a tenant's conversations; as ``executions``, and those without an execution (``IDLE``)."""

    async def count_conversations(self, tenant_id: str, wanted: ExecutionFilter) -> int:
        """Return how many ``conversations`` would find in all. Its cost is that of walking over them."""

    async def waiting(
        self, tenant_id: str, deciders: Sequence[str], *, after: WaitPlace | None = None, limit: int = 50
    ) -> list[Waiting]:
        """Return what waits for any of ``deciders`` (see ``listing.Wait``), the oldest first.

        Up to ``limit`` of those behind ``after``, by ``since`` and ``wait_id``, each once. Served by an
        index over (tenant, decider, since) that holds nothing else than what waits: its cost is the page's.
        """

    async def conversation_ids(self, tenant_id: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Return up to ``limit`` ids above ``after`` of a tenant's conversations, tombstones left out.

        In the order of their code points, served by the index over (tenant, conversation).
        """

    async def restore(self, record: Conversation, log: Iterable[EventBatch]) -> bool:
        """Insert a conversation with its whole log, all or nothing; False where its id is taken.

        Nobody sees anything of it before all of it is there. ``record`` has revision 1 and no lease; the
        batches have its epoch and run from offset 1 to ``record.offset``. ``log`` may be long: it is
        taken batch by batch, perhaps in another thread and perhaps more than once, each time from its
        beginning. What it raises ends the call, and nothing has happened. A tombstone takes its id, too.

        Raises:
            ValueError: the record or the offsets contradict this.
            StorageError: a key is there twice.
        """

    async def remove_events(self, tenant_id: str, conversation_id: str) -> int:
        """Remove every batch of a conversation whose record is a tombstone; return how many.

        ``find_execution`` forgets the executions of these batches.
        """

    async def expire_tombstones(self, now: TimeMs, limit: int) -> int:
        """Remove up to ``limit`` tombstones with ``expires_at <= now``; return how many."""


class FlowStore(Protocol):
    """Flows and their immutable versions."""

    async def publish(
        self, version: FlowVersion, *, name: str, description: str, is_default: bool
    ) -> FlowVersion:
        """Store ``version`` as the next one of its flow and return it with the number that was given.

        Where the newest has the same ``sha256``, that one is returned, and only the head's name,
        description and default are brought up to date. A default unmakes the tenant's former default; an
        archived flow becomes active again.
        """

    async def flow_version(self, tenant_id: str, flow_id: str, version: int) -> FlowVersion | None:
        """Return one version, or None."""

    async def flows(self, tenant_id: str) -> list[Flow]:
        """Return the heads of the tenant's flows that are not archived, by flow id."""

    async def archive_flow(self, tenant_id: str, flow_id: str) -> bool:
        """Archive a flow: it starts no more executions; those that run keep their version.

        It is no default any more. False: there is none, or it is archived already.
        """


class AccountStore(Protocol):
    """Keys of tenants.

    A key is what tells the tenant, so it is found by its hash alone, and so are the pages that keys name;
    whatever else is asked names the tenant.
    """

    async def create_api_key(self, key: ApiKey) -> bool:
        """Insert a key. False: its id or its hash is taken, and nothing has changed."""

    async def api_key_by_hash(self, sha256: str) -> ApiKey | None:
        """Return the key of this hash, or None: one indexed read, however many keys there are."""

    async def api_keys_by_id(self, ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], ApiKey]:
        """Return the key of each (tenant, key id) that exists, in one read."""

    async def api_keys(
        self, tenant_id: str, *, after: KeyPlace | None = None, limit: int = 50
    ) -> list[ApiKey]:
        """Return up to ``limit`` of a tenant's keys behind ``after``, the newest first, revoked ones too.

        By ``created_at`` and ``key_id``, both descending; served by an index.
        """

    async def change_api_key(self, before: ApiKey, after: ApiKey) -> bool:
        """Replace a key, if ``sha256``, ``is_active`` and ``origins`` are still those of ``before``.

        ``tenant_id``, ``key_id``, ``prefix`` and ``created_*`` stay, and so does ``last_used_at`` as it is
        stored. False: it has changed meanwhile, or is not there.

        Raises:
            StorageError: another key has the hash.
        """

    async def touch_api_keys(self, used: Mapping[tuple[str, str], TimeMs]) -> None:
        """Note when the keys of these (tenant, key id) were used last; a time never goes back."""

    async def has_origin(self, patterns: Sequence[str], now: TimeMs, *, tenant_id: str | None = None) -> bool:
        """Tell whether a ``pk_`` key that works now has one of these as an origin: one indexed read.

        Args:
            patterns: origins and patterns, as keys hold them.
            now: keys that have ended by then do not count.
            tenant_id: only this tenant's keys; None: anybody's.
        """


class Store(ConversationStore, FlowStore, AccountStore, Protocol):
    """What one adapter offers whole."""


@dataclass(frozen=True, slots=True)
class BusMessage:
    """A hint to other instances: ``payload`` is JSON bytes. Never a source of truth."""

    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class BusHealth:
    """Whether an instance hears the others now, since when (Unix milliseconds), and if not, why not.

    ``reason`` is a sentence for operators without addresses or secrets; None where ``up``.
    """

    up: bool
    reason: str | None
    since_ms: TimeMs


class EventBus(Protocol):
    """Fan-out between instances: at most once, unordered in general, lossy by contract.

    What a bus loses is healed from the store; so no method reports delivery, and none raises or waits
    for a bus that is away: it is looked for in the background, and ``health`` tells.
    """

    @property
    def networked(self) -> bool:
        """Whether it reaches other processes."""

    @property
    def dropped(self) -> int:
        """How many messages were dropped because too much waited to be sent."""

    async def open(self, restored: Callable[[], None] | None = None) -> None:
        """Connect, or go on trying in the background.

        ``restored`` is called whenever the bus is back after having been away (also where it was away at
        the start) and every subscription stands again. What was published meanwhile is lost: read the store.

        Raises:
            BusRefused: waiting would not help: the credentials are wrong, the server is too old.
        """

    async def close(self) -> None:
        """Release everything; what waits to be sent gets a moment. Idempotent."""

    def health(self) -> BusHealth:
        """Return how the bus is doing; costs nothing."""

    def publish(self, channel: str, payload: bytes) -> None:
        """Send to all other subscribers of ``channel``; returns at once, never raises.

        What waits to be sent is bounded; when it is too much, the oldest is dropped.
        """

    async def subscribe(self, channel: str, receive: Callable[[bytes], None]) -> None:
        """Call ``receive`` with each payload of others; it must not block. One receiver a channel.

        Returns once what others publish from here on is heard; with a bus that is away at once, and the
        channel is heard from ``restored`` on.
        """

    async def unsubscribe(self, channel: str) -> None:
        """Stop. Unknown channels are ignored."""


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``limit`` in any ``period_ms``: a sliding window, exact to a sixtieth and never too generous.

    A limit of 0 allows nothing.

    ``name`` tells windows of one key apart and stands in its status: ``minute``, ``hour``, ``day``.
    """

    name: str
    limit: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: at most ``limit`` at once, ``refill`` (>= 1) come back every ``period_ms``, evenly."""

    name: str
    limit: int
    refill: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """Where one window or bucket stands (``records.md``: window, limit, remaining, reset_at).

    ``reset_at`` is the Unix millisecond at which all of ``limit`` is there again if nothing more is taken.
    """

    window: str
    limit: int
    remaining: int
    reset_at: TimeMs


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it was allowed; if not, after how many milliseconds it would be (0: allowed)."""

    allowed: bool
    retry_after_ms: int
    windows: tuple[LimitStatus, ...]


class Limiter(Protocol):
    """How much a key may do, counted over all instances.

    ``key`` names who and what (``process:acme:u1``); it is hashed where it leaves the process. The limits
    of a key may change from call to call: what was taken under a name counts for that name. Never raises
    for a service that is away: then each instance counts for itself until it is back.
    """

    async def take(self, key: str, limits: Sequence[Window | Bucket], cost: int = 1) -> Verdict:
        """Take ``cost`` from all of ``limits``, or, if any has too little, from none: one atomic step.

        A refusal takes nothing, so who asks again too early does not wait longer.
        """

    async def status(self, key: str, limits: Sequence[Window | Bucket]) -> tuple[LimitStatus, ...]:
        """Return where ``limits`` stand, in their order, and take nothing."""


@dataclass(frozen=True, slots=True)
class Present:
    """Somebody who is connected to a conversation, on how many sockets of all instances."""

    user_id: str
    connections: int


class Presence(Protocol):
    """Who is connected to which conversation, over all instances.

    A hint for people, never a condition: it may be some seconds old, and an instance that died is
    forgotten after ``PRESENCE_TTL_MS``. ``enter`` and ``leave`` return at once and never raise; what they
    say is passed on in batches.
    """

    def enter(self, tenant_id: str, conversation_id: str, user_id: str) -> None:
        """One more connection of ``user_id`` watches the conversation on this instance."""

    def leave(self, tenant_id: str, conversation_id: str, user_id: str) -> None:
        """One connection less."""

    async def present(self, tenant_id: str, conversation_id: str) -> list[Present]:
        """Return who is there, by user id; with a service that is away, those of this instance."""


class Cache(Protocol):
    """Bytes by key for a limited time, shared by all instances. Never a source of truth.

    Whatever is here may be gone, or be missing on a service that is away: no method raises for that. Who
    changes what a key tells deletes it; a reader may still see the old for a moment.
    """

    async def get(self, key: str) -> bytes | None:
        """Return what was set, or None."""

    async def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        """Keep ``value`` for at most ``ttl_ms``."""

    async def delete(self, *keys: str) -> None:
        """Forget what these keys tell."""


class Shared(Protocol):
    """What instances count and remember together. It is lost with its service, and nothing breaks."""

    limiter: Limiter
    presence: Presence
    cache: Cache

    async def open(self) -> None:
        """Connect, or go on trying in the background. Raises BusRefused as ``EventBus.open`` does."""

    async def close(self) -> None:
        """Release everything. Idempotent."""


PRESENCE_TTL_MS: Final = 30_000
"""After how long an instance that says nothing any more is not counted as connected to anybody."""


class Clock(Protocol):
    """Time as the engine sees it: the store's time, never running backwards inside a process."""

    def now(self) -> TimeMs:
        """Milliseconds since the Unix epoch."""

    async def sleep(self, seconds: float) -> None:
        """Wait; a virtual clock returns when a test has moved it on."""


__all__ = [
    "PRESENCE_TTL_MS",
    "AccountStore",
    "Bucket",
    "BusHealth",
    "BusMessage",
    "BusRefused",
    "Cache",
    "Clock",
    "Commit",
    "CommitOutcome",
    "CommitUnknown",
    "ConversationStore",
    "Due",
    "EventBus",
    "Expected",
    "FlowStore",
    "KeyRecord",
    "LimitStatus",
    "Limiter",
    "Presence",
    "Present",
    "Shared",
    "StorageError",
    "Store",
    "StoreLocked",
    "StoreRefused",
    "StoreTooNew",
    "StoreUnavailable",
    "Verdict",
    "Window",
]
