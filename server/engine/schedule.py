"""When a conversation has to be looked at again, and who has it until then."""

from collections.abc import Iterable
from dataclasses import dataclass

from storage.models import LATE_FLUSH_MS, Attempt, Conversation, InboxEntry, Lease, Pending, TimeMs


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who takes the lease where an effect follows: the instance, and for how long."""

    owner: str
    lease_ms: int = 15_000


def wake_at(record: Conversation, now: TimeMs) -> TimeMs | None:
    """Return when a record is due: one pure function of it.

    A tombstone is looked at once more, ``LATE_FLUSH_MS`` after the deletion.
    """
    if record.deleted_at is not None:
        due = record.deleted_at + LATE_FLUSH_MS
        return due if due > now else None
    execution = record.execution
    if execution is None:
        return earliest(now, record.lease, False, (), (), record.inbox)
    running = execution.status == "running"
    return earliest(now, record.lease, running, execution.attempts, execution.pending, record.inbox)


def earliest(
    now: TimeMs,
    lease: Lease | None,
    running: bool,
    attempts: tuple[Attempt, ...],
    pending: Iterable[Pending],
    inbox: tuple[InboxEntry, ...],
) -> TimeMs | None:
    """Return the least of deadline, lease end and retry time; ``now`` where nobody is on the work."""
    times = [p.deadline for p in pending if p.deadline is not None and p.decided is None]
    if lease is not None:
        times.append(lease.until)
    elif running:
        times += [now if attempt.retry_at is None else attempt.retry_at for attempt in attempts] or [now]
    elif inbox:
        times.append(now)
    return min(times) if times else None
