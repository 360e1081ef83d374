"""When a conversation has to be looked at again: one pure function of its record."""

from storage.models import LATE_FLUSH_MS, Conversation, TimeMs


def wake_at(record: Conversation, now: TimeMs) -> TimeMs | None:
    """Return the earliest of deadline, lease end, retry time and, with work but nobody on it, ``now``.

    A tombstone is looked at once more, ``LATE_FLUSH_MS`` after the deletion.
    """
    if record.deleted_at is not None:
        due = record.deleted_at + LATE_FLUSH_MS
        return due if due > now else None
    times = []
    execution = record.execution
    if execution is not None:
        times += [p.deadline for p in execution.pending if p.deadline is not None and p.decided is None]
    if record.lease is not None:
        times.append(record.lease.until)
        return min(times)
    if execution is not None and execution.status == "running":
        retries = [attempt.retry_at for attempt in execution.attempts]
        times += [retry if retry is not None else now for retry in retries] or [now]
    elif record.inbox:
        times.append(now)
    return min(times, default=None)
