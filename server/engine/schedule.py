"""When a conversation has to be looked at again, and who has it until then."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from storage.models import LATE_FLUSH_MS, Attempt, Conversation, InboxEntry, Lease, Pending, TimeMs

HOUR_MS: Final = 3_600_000
AWAITS_USER: Final = frozenset({"waiting_input", "waiting_clarification", "paused"})


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who takes the lease where an effect follows: the instance, and for how long."""

    owner: str
    lease_ms: int = 15_000


def wake_at(record: Conversation, now: TimeMs, session_ms: int = 0) -> TimeMs | None:
    """Return when a record is due: one pure function of it, and of how long a session lasts.

    A tombstone is looked at once more, ``LATE_FLUSH_MS`` after the deletion.
    """
    if record.deleted_at is not None:
        due = record.deleted_at + LATE_FLUSH_MS
        return due if due > now else None
    execution = record.execution
    if execution is None:
        return earliest(now, record.lease, "idle", (), (), record.inbox, None)
    return earliest(
        now,
        record.lease,
        execution.status,
        execution.attempts,
        execution.pending,
        record.inbox,
        session_end(execution.status, execution.pending, record.last_activity, session_ms),
    )


def earliest(
    now: TimeMs,
    lease: Lease | None,
    status: str,
    attempts: tuple[Attempt, ...],
    pending: Iterable[Pending],
    inbox: tuple[InboxEntry, ...],
    session: TimeMs | None,
) -> TimeMs | None:
    """Return the least of deadline, lease end, retry time and ``session`` end.

    That is ``now`` where nobody is on the work. A session ends only where nothing else is awaited.
    """
    times = [p.deadline for p in pending if p.deadline is not None and p.decided is None]
    if lease is not None:
        times.append(lease.until)
    elif status == "running":
        times += [now if attempt.retry_at is None else attempt.retry_at for attempt in attempts] or [now]
    elif inbox:
        times.append(now)
    elif session is not None and not times:
        times.append(session)
    return min(times) if times else None


def session_end(
    status: str, pending: Iterable[Pending], last_activity: TimeMs, session_ms: int
) -> TimeMs | None:
    """Return when an execution that waits for its user is given up; None: it is not.

    What waits for somebody's decision waits for as long as that takes. (And what has a deadline of its own
    ends by that: ``earliest``.) The end is a full hour, so that a turn seldom moves it: an index holds it.

    Args:
        status: the execution's.
        pending: its requests.
        last_activity: when a person last did something in the conversation, ms.
        session_ms: how long an idle session lasts; 0: for ever.
    """
    if not session_ms or status not in AWAITS_USER:
        return None
    for request in pending:
        if request.decided is None and request.kind == "acceptance":
            return None
    return -(-(last_activity + session_ms) // HOUR_MS) * HOUR_MS
