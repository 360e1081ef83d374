"""When a conversation has to be looked at again, and who has it until then."""

from dataclasses import dataclass
from typing import Final

from storage.models import ENDED, LATE_FLUSH_MS, Conversation, Execution, InboxEntry, Lease, TimeMs

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
    return earliest(now, record.lease, record.execution, record.inbox, record.last_activity, session_ms)


def earliest(
    now: TimeMs,
    lease: Lease | None,
    execution: Execution | None,
    inbox: tuple[InboxEntry, ...],
    last_activity: TimeMs,
    session_ms: int,
) -> TimeMs | None:
    """Return the least of deadline, timer, lease end, retry time, running time's end and session's end.

    That is ``now`` where nobody is on the work.
    """
    times: list[TimeMs] = [] if execution is None else _timers(execution)
    if lease is not None:
        times.append(lease.until)
    elif execution is not None and execution.status == "running":
        times += [now if a.retry_at is None else a.retry_at for a in execution.attempts] or [now]
    elif inbox:
        times.append(now)
    elif execution is not None and not times:
        session = session_end(execution, last_activity, session_ms)
        if session is not None:
            times.append(session)
    return min(times) if times else None


def first_due(record: Conversation) -> TimeMs | None:
    """Return the least of deadline, timer and running time's end: what comes whoever runs an effect."""
    return min(_timers(record.execution), default=None) if record.execution is not None else None


def _timers(execution: Execution) -> list[TimeMs]:
    if execution.status in ENDED:
        return []
    times = [p.deadline for p in execution.pending if p.deadline is not None and p.decided is None]
    pause = execution.pause
    paused_until = pause.deadline if pause is not None and execution.status == "paused" else None
    times += [t for t in (execution.timer_at, execution.overdue_at, paused_until) if t is not None]
    return times


def session_end(execution: Execution, last_activity: TimeMs, session_ms: int) -> TimeMs | None:
    """Return when an execution that waits for its user is given up; None: it is not.

    What waits for somebody's decision waits for as long as that takes. (And what has a deadline of its own
    ends by that: ``earliest``.) The end is a full hour (of a session shorter than
    that: a multiple of it), so that a turn seldom moves it: an index holds it.

    Args:
        execution: what waits.
        last_activity: when a person last did something in the conversation, ms.
        session_ms: how long an idle session lasts; 0: for ever.
    """
    if not session_ms or execution.status not in AWAITS_USER:
        return None
    if any(frame.awaits is not None and frame.happened is None for frame in execution.frames):
        return None
    for request in execution.pending:
        if request.decided is None and (request.kind == "acceptance" or request.by is not None):
            return None
    step = min(HOUR_MS, session_ms)
    return -(-(last_activity + session_ms) // step) * step
