"""Makes reductions durable, runs effects, and keeps each conversation's order.

One conversation's inputs are reduced and committed one at a time, in arrival order (its *lane*); an
effect runs outside the lane, under a lease that is renewed. Everything that this instance believes may
be wrong by the time it commits: the commit states what was read, and a miss means to look again and
reduce the same input on what is there now. ``docs/explanation/guarantees.md`` says what follows.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeVar

import orjson

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.actions import ActionContext, Actions, Failure, sayable
from server.engine.cache import Key, RecordCache
from server.engine.catalog import Catalog
from server.engine.folding.decisions import DECISIONS, may_decide
from server.engine.folding.requests import is_due
from server.engine.inputs import (
    CommandInput,
    EffectDone,
    EffectFailed,
    EffectProgress,
    Erase,
    Input,
    NextInbox,
    Reduction,
    Wake,
)
from server.engine.lanes import Lanes
from server.engine.reducer import conversation_not_found, reduce
from server.engine.schedule import Claimant, first_due, wake_at
from server.engine.seeds import Seeds
from server.engine.types import Accepted, Command, Publication
from server.telemetry.seldom import Seldom
from storage.base import Clock, Commit, CommitOutcome, CommitUnknown, Expected, Store, StoreUnavailable
from storage.models import (
    INBOX_MAX_BYTES,
    INBOX_MAX_ENTRIES,
    RING_SIZE,
    SHORT_RING_SIZE,
    Attempt,
    CommandState,
    Conversation,
    EventBatch,
    InboxEntry,
)

log = logging.getLogger("parley.engine")

T = TypeVar("T")

MAX_MISSES: Final = 8
RELEASE_S: Final = 2.0
"""How long letting go of leases may take at the end; those that are left run out by themselves."""
AWAY_EVERY_S: Final = 10.0
"""While the store is away it is said so often, however much fails."""
LANE_LIMIT: Final = 64
"""How many inputs of one conversation may wait in memory; more are told to come back."""
SETTLE_TRIES: Final = 6
QUEUED: Final = {"process": "enqueue", "signal": "enqueue", "context": "enqueue", "start": "reject"}
"""The commands that wait while an effect runs, with what ``on_busy`` is where they do not say."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What can be tuned.

    Attributes:
        instance_id: the owner's name in leases; unique to this process.
        lease_ms: how long a lease holds without renewal.
        renew_ms: how often it is renewed.
        cache_bytes: what cached records may take.
        sweep_seconds: how often the store is asked for what is due.
        ring_size: idempotency keys kept in a record; None: as many as the store needs.
        session_ms: how long an execution waits for its user before it expires; 0: for ever.
        patience_s: how long a command may take to be accepted before its sender is told that the store is
            away; None: as long as it takes, which is right where the store is in this process.
    """

    instance_id: str = ""
    lease_ms: int = 15_000
    renew_ms: int = 5_000
    cache_bytes: int = 64 * 1024 * 1024
    sweep_seconds: float = 1.0
    ring_size: int | None = None
    session_ms: int = 0
    patience_s: float | None = None


@dataclass(slots=True)
class EngineStats:
    """Plain counters; telemetry reads them."""

    turns_completed: int = 0
    turns_failed: int = 0
    commits: int = 0
    conflicts: int = 0
    duplicates: int = 0
    enqueued: int = 0
    effects: int = 0
    woken: int = 0
    overtaken: int = 0


@dataclass(slots=True)
class _Running:
    attempt: Attempt
    fence: int
    until: int
    due: int | None
    task: asyncio.Task[None]
    interrupted: bool = False
    ended: bool = False
    renewing: bool = False


class Engine:
    """The engine of one instance over one store. See the module's docstring for its duties.

    Args:
        publish: told of each commit, in each conversation's order.
        prepare: told of what will be published if its commit succeeds, while that is on its way to the disk.
        sole_writer: nobody else writes this store: what is cached is fresh.
        tell_owner: told (tenant, conversation, owner) where the work of another instance needs attention.
        tell_due: told when work was let go of that others can take at once.
        observe_commit: told how long a commit took, in seconds.
        expect: told when something falls due, in ms.
        renew_flows: looks whether others have published what is not known here; None: nobody else can.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        catalog: Catalog,
        actions: Actions,
        publish: Callable[[Publication], None],
        sole_writer: bool,
        prepare: Callable[[Publication], None] = lambda publication: None,
        tell_owner: Callable[[str, str, str], None] = lambda tenant_id, conversation_id, owner: None,
        tell_due: Callable[[], None] = lambda: None,
        observe_commit: Callable[[float], None] = lambda seconds: None,
        expect: Callable[[int], None] = lambda at: None,
        renew_flows: Callable[[], Awaitable[None]] | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._actions = actions
        self._publish = publish
        self._prepare = prepare
        self._sole_writer = sole_writer
        self._tell_owner = tell_owner
        self._tell_due = tell_due
        self._observe_commit = observe_commit
        self._expect = expect
        self._renew_flows = renew_flows
        self._options = options or EngineOptions()
        self._me = self._options.instance_id or os.urandom(8).hex()
        self._claimant = Claimant(self._me, self._options.lease_ms)
        self._ring_size = self._options.ring_size or (
            SHORT_RING_SIZE if store.detects_duplicates else RING_SIZE
        )
        self._cache = RecordCache(self._options.cache_bytes)
        self._lanes = Lanes(LANE_LIMIT)
        self._running: dict[Key, _Running] = {}
        self._folding_on: set[asyncio.Task[Any]] = set()
        self._looked_after: set[Key] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._away = Seldom(AWAY_EVERY_S)
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._seeds = Seeds()
        self.stats = EngineStats()

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to renew leases. What is due is the sweeper's to find."""
        self._keeper = asyncio.create_task(self._keep_leases())

    async def stop(self, grace_seconds: float) -> None:
        """Let running effects end for that long, then give the rest up.

        Their leases are let go, and whoever starts next recovers them. Nothing that was accepted is lost.
        """
        self._stopping = True
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_seconds
        # An effect's result may lead to the next effect, which has its intent then and needs its time too.
        while (at_work := self._at_work()) and (left_s := end - loop.time()) > 0:
            await asyncio.wait(at_work, timeout=left_s)
        left = dict(self._running)
        for running in left.values():
            running.task.cancel()
        releases = [asyncio.create_task(self._release(key, running)) for key, running in left.items()]
        if releases:
            await asyncio.wait(releases, timeout=RELEASE_S)
        tasks = [*self._tasks, *releases, *([self._keeper] if self._keeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tell_due()

    def _at_work(self) -> list[asyncio.Task[Any]]:
        return [*(running.task for running in self._running.values()), *self._folding_on]

    async def _release(self, key: Key, running: _Running) -> None:
        now = self._clock.now()
        try:
            await self._store.renew(*key, running.fence, self._me, now, now)
        except StoreUnavailable:
            return  # the lease runs out by itself

    @property
    def running_effects(self) -> int:
        """How many effects run here now."""
        return len(self._running)

    # --- reading ----------------------------------------------------------------------------------

    async def read(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        """Return the conversation as it is now (a tombstone as such), or None. Raises StoreUnavailable."""
        key = (tenant_id, conversation_id)
        if self._sole_writer:
            cached = self._cache.get(key)
            if cached is not None:
                return cached
        return await self._store.load(*key)

    async def _record(self, key: Key, *, fresh: bool) -> tuple[Conversation | None, bool]:
        """Return the record and whether it is fresh."""
        if not fresh:
            cached = self._cache.get(key)
            if cached is not None:
                return cached, self._sole_writer
        record = await self._store.load(*key)
        if record is not None:
            self._cache.put(key, record)
        else:
            self._cache.evict(key)
        return record, True

    # --- commands ---------------------------------------------------------------------------------

    async def submit(self, command: Command, principal: Principal) -> Accepted:
        """Accept a command durably.

        Returns after the commit (or the enqueue) is durable. A command whose key was accepted before
        returns the first outcome and changes nothing.

        Raises:
            Refused: it is refused; nothing changed.
            StoreUnavailable: nothing is known to have changed; send it again with the same key.
        """
        if self._stopping:
            raise Refused(ErrorCode.OVERLOADED, "The server is shutting down.", retry_after_ms=1000)
        key = (principal.tenant_id, command.conversation_id)
        patience_s = self._options.patience_s
        if patience_s is None:
            async with self._lanes.hold(key):
                return await self._submit(key, command, principal)
        try:
            async with asyncio.timeout(patience_s), self._lanes.hold(key):
                return await self._submit(key, command, principal)
        except TimeoutError:  # what was sent to the store is settled without its sender
            raise StoreUnavailable("the store has not answered in time") from None

    async def _submit(self, key: Key, command: Command, principal: Principal) -> Accepted:
        fresh = False
        misses = 0
        while misses <= MAX_MISSES:
            record, is_fresh = await self._record(key, fresh=fresh)
            try:
                accepted = await self._try(key, record, is_fresh, command, principal)
            except Refused as refused:
                too_late = refused.code is ErrorCode.PENDING_EXPIRED and refused.details is None
                if is_fresh and not (too_late and await self._close_overdue(key, record)):
                    raise
                accepted = None
            else:
                if accepted is None and is_fresh:
                    self.stats.conflicts += 1
            if accepted is not None:
                return accepted
            misses += is_fresh
            fresh = True
        raise Refused(
            ErrorCode.CONVERSATION_BUSY,
            "Too many are writing in this conversation at once.",
            retry_after_ms=200,
        )

    async def _try(
        self, key: Key, record: Conversation | None, fresh: bool, command: Command, principal: Principal
    ) -> Accepted | None:
        """Try once on ``record``; None: look again (freshly)."""
        if record is not None:
            if not _may_send(record, command, principal) and not await self._decided_before(record, command):
                raise conversation_not_found()
            known = await self._known(record, command)
            if known is not None:
                return known if fresh else None
            if command.type in QUEUED and record.busy:
                return await self._wait_in_line(key, record, command, principal) if fresh else None
        await self._load_flows(record, command)
        try:
            reduction = self._reduce(key, record, CommandInput(command, principal))
        except Refused:
            if not fresh or record is None or not record.ring_full:
                raise
            known = await self._known_in_log(record, command)
            if known is None:
                raise
            return known
        if reduction is None:
            return None
        outcome, after = await self._commit(key, record, reduction)
        if outcome is CommitOutcome.DUPLICATE and record is not None:
            return await self._known_in_log(record, command)
        if outcome is not CommitOutcome.COMMITTED:
            return None
        return Accepted(
            False,
            command.key,
            reduction.status,
            _execution_id(after),
            after.epoch,
            after.offset,
            reduction.result,
            after,
        )

    async def _close_overdue(self, key: Key, record: Conversation | None) -> bool:
        """Commit that a request's time is up before anybody is told so; True: look again.

        Else somebody who comes later might decide it yet: at an instance whose clock is behind, or after the
        clock was set back. Where that has happened already, it is not too late any more.
        """
        execution = record.execution if record is not None else None
        now = self._clock.now()
        if record is None or execution is None or not any(is_due(p, now) for p in execution.pending):
            return True
        reduction = self._reduce(key, record, Wake())
        if reduction is not None:
            await self._commit(key, record, reduction)
        return reduction is not None

    # --- commands that were sent before -----------------------------------------------------------

    async def _known(self, record: Conversation, command: Command) -> Accepted | None:
        """Return the first outcome of a command whose key is known."""
        for entry in record.recent:
            if entry.key == command.key:
                _same_body(entry.body_hash, command)
                return await self._duplicate(
                    record, command, entry.status, entry.execution_id, record.epoch, entry.first_offset
                )
        for waiting in record.inbox:
            if waiting.key == command.key:
                _same_body(waiting.body_hash, command)
                self.stats.duplicates += 1
                return Accepted(True, command.key, "queued", None, record.epoch, record.offset, None, record)
        if record.ring_full and not self._store.detects_duplicates:
            return await self._known_in_log(record, command)
        return None

    async def _decided_before(self, record: Conversation, command: Command) -> bool:
        """Tell whether the log has this very decision, which neither request nor ring knows any more."""
        if record.deleted_at is not None or command.type not in DECISIONS or not record.ring_full:
            return False
        found = await self._store.find_key(record.tenant_id, record.conversation_id, command.key)
        return found is not None and found.epoch == record.epoch and found.body_hash == command.body_hash

    async def _known_in_log(self, record: Conversation, command: Command) -> Accepted | None:
        found = await self._store.find_key(record.tenant_id, record.conversation_id, command.key)
        if found is None or found.epoch != record.epoch:
            return None
        _same_body(found.body_hash, command)
        return await self._duplicate(
            record, command, "running", found.execution_id, found.epoch, found.first_offset
        )

    async def _duplicate(
        self,
        record: Conversation,
        command: Command,
        status: CommandState,
        execution_id: str | None,
        epoch: str,
        first_offset: int,
    ) -> Accepted:
        self.stats.duplicates += 1
        end = await self._store.turn_end(
            record.tenant_id, record.conversation_id, epoch, command.key, first_offset
        )
        result = None
        for event in end.events if end is not None else ():
            if event.command_id == command.key and event.type in ("turn.completed", "turn.failed"):
                status = "completed" if event.type == "turn.completed" else "failed"
                result, execution_id = event.data, event.execution_id
                break
        return Accepted(True, command.key, status, execution_id, record.epoch, record.offset, result, record)

    # --- the inbox --------------------------------------------------------------------------------

    async def _wait_in_line(
        self, key: Key, record: Conversation, command: Command, principal: Principal
    ) -> Accepted | None:
        """``on_busy``: queue the command, or say that the conversation is busy. None: no longer busy."""
        if record.ring_full:
            known = await self._known_in_log(record, command)
            if known is not None:
                return known
        on_busy = command.body.get("on_busy") or QUEUED[command.type]
        if on_busy == "reject":
            raise Refused(
                ErrorCode.CONVERSATION_BUSY,
                "The conversation is working on an earlier message.",
                retry_after_ms=1000,
                suggestion='Send it later, or with on_busy "enqueue".',
            )
        now = self._clock.now()
        body = {**command.body, "type": command.type}
        entry = InboxEntry(
            command.key,
            command.body_hash,
            body,
            principal.to_record(),
            now,
            correlation_id=command.correlation_id,
            request_id=command.request_id,
        )
        _room_in_inbox(record, entry)
        idle = record.lease is None and not _retry_waits(record)
        self._cache.evict(key)
        try:
            queued = await self._store.enqueue(*key, entry, now if idle else record.wake_at or now)
        except CommitUnknown:
            return None  # looking again finds it in the inbox, as a duplicate, or not at all
        if not queued:
            return None
        self.stats.enqueued += 1
        self._poke(key, record, interrupt=on_busy == "interrupt")
        return Accepted(False, command.key, "queued", None, record.epoch, record.offset, None, record)

    def _poke(self, key: Key, record: Conversation, *, interrupt: bool) -> None:
        """See to it that somebody works the inbox off."""
        running = self._running.get(key)
        if running is not None:
            if interrupt:
                self._interrupt(running)
        elif record.lease is not None and record.lease.owner != self._me:
            self._tell_owner(*key, record.lease.owner)
        else:
            self._spawn(self._work_off(key))

    def _interrupt(self, running: _Running) -> None:
        """A ``write`` is left to end: its result is the next safe point."""
        if not running.attempt.may_have_written and not running.interrupted and not running.ended:
            running.interrupted = True
            running.task.cancel()

    def on_bus(self, tenant_id: str, conversation_id: str, owner: str | None = None) -> None:
        """Another instance says that it queued something for ``owner``, or pre-empted it; None: for us."""
        key = (tenant_id, conversation_id)
        if owner not in (None, self._me) or key in self._looked_after:
            return
        self._looked_after.add(key)
        self._cache.evict(key)
        self._spawn(self._look_after(key))

    async def _look_after(self, key: Key) -> None:
        self._looked_after.discard(key)  # what is said from here on is not in what is read now
        record = await self._store.load(*key)
        if key in self._running:
            self._heed(key, record)
        else:
            await self._work_off(key)

    def _heed(self, key: Key, record: Conversation | None) -> None:
        """Do what ``record`` says to whoever runs its effect: to stop, because it was pre-empted or asked."""
        running = self._running.get(key)
        if running is None:
            return
        if record is None or record.fence > running.fence:  # a lower one was read before this effect began
            running.task.cancel()
        elif any(entry.command.get("on_busy") == "interrupt" and not entry.void for entry in record.inbox):
            self._interrupt(running)

    async def _work_off(self, key: Key) -> None:
        """Give each waiting command its turn, each in a commit of its own."""
        async with self._lanes.hold(key, bounded=False):
            await self._drain(key)

    async def _drain(self, key: Key) -> None:
        misses = 0
        fresh = False
        while misses <= MAX_MISSES and not self._stopping:
            record, is_fresh = await self._record(key, fresh=fresh)
            if record is None or not record.inbox or key in self._running:
                return
            if record.ring_full and not self._store.detects_duplicates and await self._drop_done(key, record):
                fresh = True
                continue
            await self._load_flows(record)
            reduction = self._next_in_line(key, record)
            if reduction is None:
                return
            outcome, _ = await self._commit(key, record, reduction)
            if outcome is CommitOutcome.COMMITTED:
                misses, fresh = 0, False
                continue
            if outcome is CommitOutcome.DUPLICATE:
                await self._drop_done(key, record)
            misses += is_fresh
            fresh = True

    def _next_in_line(self, key: Key, record: Conversation) -> Reduction | None:
        """Reduce the inbox's first command; one that cannot be reduced is settled as failed.

        Otherwise it would be tried again for ever, with everything else waiting behind it.
        """
        try:
            return self._reduce(key, record, NextInbox())
        except Exception:
            log.exception("a queued command failed", extra={"conversation_id": key[1]})
            return self._reduce(key, record, NextInbox(broken=True))

    async def _drop_done(self, key: Key, record: Conversation) -> bool:
        """Take the inbox's first command out where the log has it: it was queued when the ring had not.

        True: the record is another one now.
        """
        entry, *rest = record.inbox
        if await self._store.find_key(*key, entry.key) is None:
            return False
        after = replace(record, inbox=tuple(rest))
        await self._rewrite(key, replace(after, wake_at=self._due_at(after)))
        return True

    # --- deletion ---------------------------------------------------------------------------------

    async def delete(self, tenant_id: str, conversation_id: str, principal: Principal) -> bool:
        """Delete a conversation: its owner may, and who has ``conversations:delete``. False: there is none.

        Raises:
            Refused: ``conversation_not_found`` for everybody else's.
            StoreUnavailable: send it again.
        """
        key = (tenant_id, conversation_id)
        async with self._lanes.hold(key):
            for _ in range(MAX_MISSES):
                record, _ = await self._record(key, fresh=True)
                if record is None or record.deleted_at is not None:
                    return False
                if record.user_id != principal.user_id and not principal.may("conversations:delete"):
                    raise conversation_not_found()
                reduction = self._reduce(key, record, Erase())
                if reduction is None:
                    return False
                outcome, _ = await self._commit(key, record, reduction)
                if outcome is CommitOutcome.COMMITTED:
                    await self._store.remove_events(*key)
                    return True
        raise Refused(ErrorCode.CONVERSATION_BUSY, "Too many are writing in this conversation at once.")

    # --- reducing and committing ------------------------------------------------------------------

    def _reduce(self, key: Key, record: Conversation | None, event: Input) -> Reduction | None:
        return reduce(
            record,
            event,
            now=self._clock.now(),
            seed=self._seeds.next(),
            flows=self._catalog,
            claimant=self._claimant,
            conversation=key,
            ring_size=self._ring_size,
            session_ms=self._options.session_ms,
        )

    async def _load_flows(self, record: Conversation | None, command: Command | None = None) -> None:
        if self._renew_flows is not None and command is not None and self._catalog.is_unknown(command):
            await self._renew_flows()
        missing = self._catalog.missing(record, command)
        if missing:
            await self._catalog.load_versions(missing)

    async def _commit(
        self, key: Key, before: Conversation | None, reduction: Reduction, *, swept: bool = False
    ) -> tuple[CommitOutcome, Conversation]:
        """Make a reduction durable; then, and only then, publish it and run its effects.

        ``swept``: nobody talks in this conversation now, so its record takes no place in the cache.
        """
        commit = self._commit_of(before, reduction)
        record = commit.record
        try:
            outcome = await self._outcome_of(key, commit)
        except asyncio.CancelledError:
            # The caller is gone, the commit may not be: whoever holds the lane next reads afresh, and
            # what did happen is published and continued as if nobody had left.
            self._cache.evict(key)
            self._spawn(self._settle_alone(key, before, commit, reduction))
            raise
        except StoreUnavailable:
            self._cache.evict(key)
            raise
        if outcome is CommitOutcome.COMMITTED:
            self._committed(key, before, commit, reduction, swept=swept)
        else:
            self._cache.evict(key)
        return outcome, record

    def _commit_of(self, before: Conversation | None, reduction: Reduction) -> Commit:
        record = reduction.record
        expected = Expected(None) if before is None else Expected(before.revision, before.fence)
        if not reduction.events:
            return Commit(expected, record, None)
        first, last = reduction.events[0].offset, reduction.events[-1].offset
        batch = EventBatch(
            record.epoch, first, last, record.commit_id, reduction.key, reduction.body_hash, reduction.events
        )
        return Commit(expected, record, batch, partial(self._prepare, Publication(record, batch)))

    async def _outcome_of(self, key: Key, commit: Commit) -> CommitOutcome:
        began = perf_counter()
        try:
            outcome = await self._store.commit(commit)
            self._observe_commit(perf_counter() - began)
            return outcome
        except CommitUnknown:
            self._cache.evict(key)
            return await self._settle(key, commit)

    def _tell_of_pre_emption(self, key: Key, before: Conversation | None, after: Conversation) -> None:
        lease = before.lease if before is not None else None
        if lease is None or before is None or before.fence == after.fence or lease.owner == self._me:
            return
        self._tell_owner(*key, lease.owner)

    def _committed(
        self,
        key: Key,
        before: Conversation | None,
        commit: Commit,
        reduction: Reduction,
        *,
        swept: bool = False,
    ) -> None:
        record = commit.record
        if not swept or record.busy or self._cache.peek(key) is not None:
            self._cache.put(key, record)
        self._count(reduction)
        self._tell_of_pre_emption(key, before, record)
        running = self._running.get(key)
        if (
            running is not None
            and running.fence != record.fence
            and running.task is not asyncio.current_task()
        ):
            running.task.cancel()
            del self._running[key]
        elif running is not None:
            running.due = first_due(record)
        self._publish(Publication(record, commit.batch))
        for attempt in reduction.effects:
            self._launch(key, record, attempt)
        if reduction.unfinished:
            self._fold_on(key)
        elif record.inbox and not reduction.effects and not _effect_runs(record) and not _retry_waits(record):
            self._spawn(self._work_off(key))
        elif record.wake_at is not None and (record.lease is None or record.wake_at < record.lease.until):
            self._expect(record.wake_at)  # the end of a lease is not expected: it is renewed

    def _count(self, reduction: Reduction) -> None:
        self.stats.commits += 1
        for event in reduction.events:
            if event.type == "turn.completed":
                self.stats.turns_completed += 1
            elif event.type == "turn.failed":
                self.stats.turns_failed += 1

    async def _settle(self, key: Key, commit: Commit) -> CommitOutcome:
        """Find out whether a commit of unknown outcome happened. Raises StoreUnavailable."""
        delay = 0.05
        for _ in range(SETTLE_TRIES):
            try:
                return await self._look_up(key, commit)
            except StoreUnavailable:
                await self._clock.sleep(delay)
                delay *= 2
        raise StoreUnavailable("the outcome of a commit could not be found out")

    async def _look_up(self, key: Key, commit: Commit) -> CommitOutcome:
        record = await self._store.load(*key)
        if record is not None and record.commit_id == commit.record.commit_id:
            return CommitOutcome.COMMITTED
        if commit.batch is not None:
            found = await self._store.batch_at(*key, commit.batch.epoch, commit.batch.first_offset)
            if found is not None and found.commit_id == commit.batch.commit_id:
                return CommitOutcome.COMMITTED
        return CommitOutcome.CONFLICT

    async def _settle_alone(
        self, key: Key, before: Conversation | None, commit: Commit, reduction: Reduction
    ) -> None:
        async with self._lanes.hold(key, bounded=False):
            for _ in range(SETTLE_TRIES):
                if await self._settle(key, commit) is CommitOutcome.COMMITTED:
                    break
                await self._clock.sleep(0.05)  # it may still be on its way
            else:
                return
            record = await self._store.load(*key)
            if record is not None and record.fence == commit.record.fence:
                self._committed(key, before, commit, reduction)
                self._cache.evict(key)  # somebody may have committed since
            else:
                self._publish(Publication(commit.record, commit.batch))

    # --- effects ----------------------------------------------------------------------------------

    def _launch(self, key: Key, record: Conversation, attempt: Attempt) -> None:
        if record.lease is None or record.lease.until <= self._clock.now():
            return  # it took so long to be committed that somebody else may have it by now
        self.stats.effects += 1
        task = asyncio.create_task(self._perform(key, record, attempt))
        self._running[key] = _Running(attempt, record.fence, record.lease.until, first_due(record), task)
        task.add_done_callback(lambda ended: self._forget(key, ended))
        self._hold(task)

    async def _perform(self, key: Key, record: Conversation, attempt: Attempt) -> None:
        me = asyncio.current_task()
        started = self._clock.now()
        try:
            result = await self._call(key, record, attempt)
            elapsed = max(0, self._clock.now() - started)
            outcome: EffectDone | EffectFailed
            if isinstance(result, Failure):
                outcome = EffectFailed(
                    attempt.key, attempt.number, result.kind, result.message, elapsed, result.unknown
                )
            else:
                outcome = EffectDone(attempt.key, attempt.number, result, elapsed)
        except asyncio.CancelledError:
            running = self._running.get(key)
            if running is None or running.task is not me or not running.interrupted or self._stopping:
                self._forget(key, me)
                raise
            elapsed = max(0, self._clock.now() - started)
            outcome = EffectFailed(attempt.key, attempt.number, "interrupted", "Interrupted.", elapsed)
        running = self._running.get(key)
        if running is not None and running.task is me:
            running.ended = True
        try:
            await self._feed(key, record.fence, outcome)
        finally:
            self._forget(key, me)
        await self._work_off(key)

    def _forget(self, key: Key, task: asyncio.Task[Any] | None) -> None:
        running = self._running.get(key)
        if running is not None and running.task is task:
            del self._running[key]

    async def _call(self, key: Key, record: Conversation, attempt: Attempt) -> Any:
        timeout_ms = self._timeout_of(record, attempt)
        context = self._action_context(key, record, attempt, timeout_ms)
        call = self._actions.run(attempt.name, context, attempt.arguments)
        ended = await self._ended_within(timeout_ms, call)
        if ended is None:
            return Failure("timeout", f'The action "{attempt.name}" took too long.', unknown=True)
        if ended.cancelled():  # from inside: who cancels this task is heard in the await above
            return Failure("error", f'The action "{attempt.name}" failed.')
        return ended.result()

    async def _ended_within(self, ms: int, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T] | None":
        """Return ``work`` as the task that it ended in; None: it took too long, and was cancelled."""
        task = asyncio.create_task(work)
        timer = asyncio.ensure_future(self._clock.sleep(ms / 1000))
        try:
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
            return task if task.done() else None
        finally:
            task.cancel()
            timer.cancel()

    def _timeout_of(self, record: Conversation, attempt: Attempt) -> int:
        execution = record.execution
        frame = next((f for f in execution.frames if f.frame == attempt.frame), None) if execution else None
        flow = self._catalog.version(frame.flow_id, frame.version) if frame else None
        step = flow.steps[flow.index[attempt.step_id]] if flow and attempt.step_id in flow.index else None
        return int(getattr(step, "timeout_ms", 30_000))

    def _action_context(
        self, key: Key, record: Conversation, attempt: Attempt, timeout_ms: int
    ) -> ActionContext:
        execution = record.execution

        async def report(text: str) -> None:
            await self._feed(
                key, record.fence, EffectProgress(attempt.key, attempt.number, sayable(str(text), 2000))
            )

        return ActionContext(
            key=attempt.key,
            tenant_id=key[0],
            user_id=record.user_id,
            conversation_id=key[1],
            execution_id=execution.execution_id if execution else "",
            step_id=attempt.step_id,
            attempt=attempt.number,
            deadline=self._clock.now() + timeout_ms,
            correlation_id=execution.correlation_id if execution else None,
            slots=record.slots,
            variables=record.variables,
            config=self._catalog.config(),
            report=report,
            log=logging.LoggerAdapter(
                logging.getLogger("parley.actions"),
                {
                    "conversation_id": key[1],
                    "step_id": attempt.step_id,
                    "correlation_id": execution.correlation_id if execution else None,
                },
            ),
        )

    async def _feed(self, key: Key, fence: int, result: EffectDone | EffectFailed | EffectProgress) -> None:
        """Commit an effect's result. It is tried until it is in, or the fence says that it is not wanted."""
        delay = 0.05
        fresh = False
        while True:
            try:
                async with self._lanes.hold(key, bounded=False):
                    if await self._feed_once(key, fence, result, fresh=fresh):
                        return
                fresh = True
            except StoreUnavailable:
                fresh = True
                await self._clock.sleep(delay)
                delay = min(delay * 2, 2.0)

    async def _feed_once(
        self, key: Key, fence: int, result: EffectDone | EffectFailed | EffectProgress, *, fresh: bool
    ) -> bool:
        """Try once; True when there is nothing more to do."""
        record, _ = await self._record(key, fresh=fresh)
        if record is None or record.fence != fence:
            return fresh or self._sole_writer
        await self._load_flows(record)
        reduction = self._reduce(key, record, result)
        if reduction is None:
            return True
        outcome, _ = await self._commit(key, record, reduction)
        if outcome is CommitOutcome.CONFLICT:
            self.stats.conflicts += 1
        return outcome is CommitOutcome.COMMITTED

    # --- leases and time --------------------------------------------------------------------------

    async def _keep_leases(self) -> None:
        """Renew what runs here; an effect whose lease cannot be renewed is stopped at its own deadline."""
        while True:
            await self._clock.sleep(self._options.renew_ms / 1000)
            for key, running in self._running.items():
                if not running.renewing:
                    running.renewing = True
                    self._hold(asyncio.create_task(self._renew(key, running)))
            if self._running and not self._sole_writer:
                self._spawn(self._look_after_all())

    async def _look_after_all(self) -> None:
        """Find what a lost word of another instance was about: a wish to interrupt what runs here."""
        records = await self._store.load_many(list(self._running))
        for key, record in records.items():
            self._heed(key, record)

    async def _renew(self, key: Key, running: _Running) -> None:
        now = self._clock.now()
        until = now + self._options.lease_ms
        left_ms = running.until - now - self._options.renew_ms // 5
        if self._sole_writer and running.until <= now:
            left_ms = self._options.renew_ms  # the clock has leapt over its end, but nobody else can take it
        wake_at = until if running.due is None else min(until, running.due)
        renewal = self._store.renew(*key, running.fence, self._me, until, wake_at)
        try:
            ended = await self._ended_within(left_ms, renewal)
            if ended is not None and ended.result():
                running.until = until
            else:
                self._give_up(running)
        except StoreUnavailable:
            if self._clock.now() >= running.until - self._options.renew_ms:
                self._give_up(running)  # the next try would come too late
        finally:
            running.renewing = False

    def _give_up(self, running: _Running) -> None:
        """Stop an effect whose lease is lost. The result of one that has ended is committed or refused."""
        if not running.ended:
            running.task.cancel()

    @property
    def live_commits(self) -> int:
        """How many commits there were that no sweep has caused."""
        return self.stats.commits - self.stats.woken

    @property
    def overtaken(self) -> int:
        """How many conversations that were due had been seen to by somebody else when it came to them."""
        return self.stats.overtaken

    async def wake(self, keys: Sequence[Key]) -> Mapping[Key, Exception]:
        """Do what is due for these conversations; the sweeper calls it.

        They are read at once, and who is due no more costs only that. The cache keeps what it held: a sweep
        through thousands would leave nothing in it of those who are talking.

        Returns:
            What went wrong with some of them; the others are done, or had nothing to be done.

        Raises:
            StoreUnavailable: they could not be read.
        """
        records, failed = await self._read_all(keys)
        now = self._clock.now()
        due = [
            (key, record)
            for key, record in records.items()
            if record.wake_at is not None and record.wake_at <= now
        ]
        self.stats.overtaken += len(records) - len(due)
        ended = await asyncio.gather(*(self._wake(*item, "due") for item in due), return_exceptions=True)
        for (key, _), error in zip(due, ended, strict=True):
            if isinstance(error, Exception):
                failed[key] = error
        return failed

    async def _read_all(self, keys: Sequence[Key]) -> tuple[dict[Key, Conversation], dict[Key, Exception]]:
        """Return the records that exist, as fresh as ``read``'s, and why some cannot be read."""
        cached = ((key, self._cache.peek(key) if self._sole_writer else None) for key in keys)
        records = {key: record for key, record in cached if record is not None}
        left = [key for key in keys if key not in records]
        try:
            return {**records, **(await self._store.load_many(left) if left else {})}, {}
        except StoreUnavailable:
            raise
        except Exception:  # noqa: BLE001 - one of them, and the others are to be done; each is asked alone
            found = await asyncio.gather(*(self._store.load(*key) for key in left), return_exceptions=True)
        failed: dict[Key, Exception] = {}
        for key, record in zip(left, found, strict=True):
            if isinstance(record, Conversation):
                records[key] = record
            elif isinstance(record, Exception):
                failed[key] = record
        return records, failed

    def _fold_on(self, key: Key) -> None:
        """Go on with a fold that was split; also where this instance goes away, whose lease it has."""
        task = asyncio.create_task(self._continue(key))
        self._folding_on.add(task)
        task.add_done_callback(self._folding_on.discard)
        self._hold(task)

    async def _continue(self, key: Key) -> None:
        record, _ = await self._record(key, fresh=True)
        if record is not None:
            await self._wake(key, record, "continue")

    async def _wake(self, key: Key, record: Conversation, why: str) -> None:
        async with self._lanes.hold(key, bounded=False):
            due = first_due(record)
            if self._stopping and why == "due":
                return
            if key in self._running and (due is None or due > self._clock.now()):
                return
            if record.deleted_at is not None:
                await self._sweep_tombstone(key, record)
                return
            if await self._go_on(key, record, why):
                return
            await self._drain(key)
            await self._put_right(key)

    async def _go_on(self, key: Key, record: Conversation | None, why: str) -> bool:
        """Go on with what is due in the execution, looking again after a miss. False: nothing is."""
        for _ in range(MAX_MISSES):
            if record is None or record.deleted_at is not None:
                return True
            await self._load_flows(record)
            mine = record.lease is not None and record.lease.owner == self._me
            orphaned = mine and why == "due" and key not in self._running
            reason: Any = "orphaned" if orphaned else why
            reduction = self._reduce(key, record, Wake(reason))
            if reduction is None:
                return False
            outcome, _ = await self._commit(key, record, reduction, swept=why == "due")
            if outcome is CommitOutcome.COMMITTED:
                self.stats.woken += why == "due"
                return True
            self.stats.conflicts += 1
            record, _ = await self._record(key, fresh=True)
            if why == "due" and not self._is_due(record):
                self.stats.overtaken += 1
                return True
        return True

    def _is_due(self, record: Conversation | None) -> bool:
        return record is not None and record.wake_at is not None and record.wake_at <= self._clock.now()

    async def _put_right(self, key: Key) -> None:
        """A record that is due although nothing is to be done gets the ``wake_at`` that it should have."""
        record, _ = await self._record(key, fresh=True)
        if record is None or record.wake_at is None or record.wake_at > self._clock.now() or record.inbox:
            return
        right = self._due_at(record)
        if right != record.wake_at and (right is None or right > self._clock.now()):
            await self._rewrite(key, replace(record, wake_at=right))

    def _due_at(self, record: Conversation) -> int | None:
        return wake_at(record, self._clock.now(), self._options.session_ms)

    async def _sweep_tombstone(self, key: Key, record: Conversation) -> None:
        """Remove the events once more: a writer that was late may have left some."""
        await self._store.remove_events(*key)
        await self._rewrite(key, replace(record, wake_at=None))

    async def _rewrite(self, key: Key, record: Conversation) -> None:
        expected = Expected(record.revision, record.fence)
        after = replace(record, revision=record.revision + 1, commit_id=self._seeds.next())
        self._cache.evict(key)
        try:
            await self._store.commit(Commit(expected, after, None))
        except CommitUnknown:
            return  # the next sweep finds it if it did not happen

    # --- lanes and tasks --------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._stopping:
            work.close()
            return
        self._hold(asyncio.create_task(work))

    def _hold(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, StoreUnavailable):
            if self._away.due():
                log.warning("the store is away: %s", error)
        elif error is not None:
            log.error("background work failed", exc_info=error)


# --- small judgements -----------------------------------------------------------------------------


def _may_send(record: Conversation, command: Command, principal: Principal) -> bool:
    """Tell whether somebody may write here.

    Writing takes the owner, who acts for the owner (the command's maker has checked that it may), or
    ``conversations:write``; deciding takes whom the request names. A tombstone is missing for everybody.
    """
    if record.deleted_at is not None:
        return False
    user_id = command.body.get("user_id") or principal.user_id
    if user_id == record.user_id or principal.may("conversations:write"):
        return True
    return command.type in DECISIONS and may_decide(record, command, principal)


def _same_body(body_hash: str | None, command: Command) -> None:
    if body_hash is not None and body_hash != command.body_hash:
        raise Refused(
            ErrorCode.IDEMPOTENCY_CONFLICT,
            "This idempotency key was used for another command.",
            field="idempotency_key",
            suggestion="Use a new key for each command, and the same one only to send it again.",
        )


def _room_in_inbox(record: Conversation, entry: InboxEntry) -> None:
    waiting = [*record.inbox, entry]
    if len(waiting) <= INBOX_MAX_ENTRIES and sum(len(orjson.dumps(e)) for e in waiting) <= INBOX_MAX_BYTES:
        return
    raise Refused(ErrorCode.INBOX_FULL, "Too many messages wait in this conversation.", retry_after_ms=2000)


def _execution_id(record: Conversation) -> str | None:
    return record.execution.execution_id if record.execution else None


def _effect_runs(record: Conversation) -> bool:
    execution = record.execution
    if execution is None or execution.status != "running":
        return False
    return any(attempt.retry_at is None for attempt in execution.attempts)


def _retry_waits(record: Conversation) -> int | None:
    execution = record.execution
    if execution is None or execution.status != "running":
        return None
    return min((a.retry_at for a in execution.attempts if a.retry_at is not None), default=None)
