"""Records to JSON bytes and back: the stored form, shared by the adapters that write bytes.

A record's document is a JSON object with the field names of ``models.py`` and ``"v"``, the format's
version; what repeats (the idempotency ring, events) is written as rows, which take a third of the time
and two thirds of the size of objects. A later format adds its own reader beside ``_READERS[1]``, or beside
the two of ``decode_events``; what is stored is never rewritten just to be read.

Nothing here is on the wire: what a client sees is made by the server's views.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from storage.base import StoreTooNew
from storage.models import (
    Attempt,
    Conversation,
    Event,
    EventBatch,
    Execution,
    Frame,
    InboxEntry,
    Json,
    Lease,
    OpenTurn,
    Pause,
    Pending,
    Question,
)
from storage.ring import ring_from_json, ring_to_json

FORMAT: Final = 1
EVENTS_FORMAT: Final = 2
_SHORT_ROW: Final = 4


class UnknownFormat(StoreTooNew):
    """A document has a format version that this release cannot read."""


def encode_json(value: Json) -> bytes:
    """Return ``value`` as JSON bytes. Raises TypeError for what is not JSON."""
    return orjson.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Turn read-only mappings into what orjson knows."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


# -- records ---------------------------------------------------------------------------------------


def encode_record(record: Conversation) -> bytes:
    """Return the record's document. Raises TypeError where a value in it is not JSON."""
    return encode_json(record_to_json(record))


def decode_record(document: bytes) -> Conversation:
    """Return the record of a document. Raises UnknownFormat."""
    return record_from_json(orjson.loads(document))


def record_to_json(record: Conversation) -> dict[str, Json]:
    """Return the record's document as a JSON object (nested values are shared, not copied)."""
    lease, execution, turn = record.lease, record.execution, record.turn
    return {
        "v": FORMAT,
        "tenant_id": record.tenant_id,
        "conversation_id": record.conversation_id,
        "user_id": record.user_id,
        "epoch": record.epoch,
        "offset": record.offset,
        "revision": record.revision,
        "fence": record.fence,
        "lease": None if lease is None else (lease.owner, lease.until),
        "commit_id": record.commit_id,
        "status": record.status,
        "project_id": record.project_id,
        "channel": record.channel,
        "locale": record.locale,
        "timezone": record.timezone,
        "slots": record.slots,
        "variables": record.variables,
        "execution": None if execution is None else execution_to_json(execution),
        "turn": None if turn is None else _turn_to_json(turn),
        "inbox": [inbox_entry_to_json(entry) for entry in record.inbox],
        "recent": ring_to_json(record.recent),
        "ring_full": record.ring_full,
        "reset_offset": record.reset_offset,
        "wake_at": record.wake_at,
        "expires_at": record.expires_at,
        "deleted_at": record.deleted_at,
        "created_at": record.created_at,
        "last_activity": record.last_activity,
        "message_count": record.message_count,
    }


def record_from_json(document: Mapping[str, Json]) -> Conversation:
    """Return the record of a parsed document. Raises UnknownFormat."""
    read = _READERS.get(document.get("v"))
    if read is None:
        raise UnknownFormat(f"record format {document.get('v')!r} is unknown; newest known is {FORMAT}")
    return read(document)


def _record_from_v1(d: Mapping[str, Json]) -> Conversation:
    lease, execution, turn = d["lease"], d["execution"], d["turn"]
    return Conversation(
        tenant_id=d["tenant_id"],
        conversation_id=d["conversation_id"],
        user_id=d["user_id"],
        epoch=d["epoch"],
        offset=d["offset"],
        revision=d["revision"],
        fence=d["fence"],
        lease=None if lease is None else Lease(*lease),
        commit_id=d["commit_id"],
        status=d["status"],
        project_id=d["project_id"],
        channel=d["channel"],
        locale=d["locale"],
        timezone=d["timezone"],
        slots=d["slots"],
        variables=d["variables"],
        execution=None if execution is None else execution_from_json(execution),
        turn=None if turn is None else _turn_from_json(turn),
        inbox=tuple(inbox_entry_from_json(entry) for entry in d["inbox"]),
        recent=ring_from_json(d["recent"]),
        ring_full=d["ring_full"],
        reset_offset=d["reset_offset"],
        wake_at=d["wake_at"],
        expires_at=d["expires_at"],
        deleted_at=d["deleted_at"],
        created_at=d["created_at"],
        last_activity=d["last_activity"],
        message_count=d["message_count"],
    )


_READERS: Final[Mapping[Json, Callable[[Mapping[str, Json]], Conversation]]] = {1: _record_from_v1}


def inbox_entry_to_json(entry: InboxEntry) -> dict[str, Json]:
    """Return an inbox entry as a JSON object."""
    document = {
        "key": entry.key,
        "body_hash": entry.body_hash,
        "command": entry.command,
        "principal": entry.principal,
        "received_at": entry.received_at,
        "void": entry.void,
    }
    if entry.correlation_id is not None or entry.request_id is not None:
        document |= {"correlation_id": entry.correlation_id, "request_id": entry.request_id}
    return document


def inbox_entry_from_json(d: Mapping[str, Json]) -> InboxEntry:
    """Return the inbox entry of a JSON object."""
    return InboxEntry(**d)


def execution_to_json(e: Execution) -> dict[str, Json]:
    """Return an execution as a JSON object."""
    document: dict[str, Json] = {
        "execution_id": e.execution_id,
        "flow_id": e.flow_id,
        "flow_version": e.flow_version,
        "status": e.status,
        "user_id": e.user_id,
        "project_id": e.project_id,
        "variant": e.variant,
        "input": e.input,
        "output": e.output,
        "error": e.error,
        "current_step_id": e.current_step_id,
        "completed_steps": e.completed_steps,
        "frames": [_frame_to_row(frame) for frame in e.frames],
        "attempts": [_attempt_to_json(attempt) for attempt in e.attempts],
        "pending": [_pending_to_json(pending) for pending in e.pending],
        "command_id": e.command_id,
        "correlation_id": e.correlation_id,
        "request_id": e.request_id,
        "exposed": e.exposed,
        "running_ms": e.running_ms,
        "started_at": e.started_at,
        "updated_at": e.updated_at,
        "completed_at": e.completed_at,
    }
    if e.timeout_ms is not None:
        document["timeout_ms"] = e.timeout_ms
    if e.subflows:
        document["subflows"] = e.subflows
    if e.pause is not None:
        p = e.pause
        document["pause"] = (p.then, p.since, p.by, p.reason, p.deadline, p.wanted)
    return document


def _frame_to_row(f: Frame) -> tuple[Json, ...]:
    """Return a frame as a row; what only a waiting frame has is left out elsewhere."""
    row = (f.frame, f.parent, f.flow_id, f.version, f.step_id, f.variables, f.visits, f.tries)
    if f.timer_at is None and f.awaits is None and f.happened is None:
        return row
    return (*row, f.timer_at, f.awaits, f.happened)


def execution_from_json(d: Mapping[str, Json]) -> Execution:
    """Return the execution of a JSON object. Raises KeyError, TypeError where it is none."""
    return Execution(
        execution_id=d["execution_id"],
        flow_id=d["flow_id"],
        flow_version=d["flow_version"],
        status=d["status"],
        user_id=d["user_id"],
        project_id=d["project_id"],
        variant=d["variant"],
        input=d["input"],
        output=d["output"],
        error=d["error"],
        current_step_id=d["current_step_id"],
        completed_steps=tuple(d["completed_steps"]),
        frames=tuple(Frame(*row) for row in d["frames"]),
        attempts=tuple(_attempt_from_json(attempt) for attempt in d["attempts"]),
        pending=tuple(_pending_from_json(pending) for pending in d["pending"]),
        command_id=d["command_id"],
        correlation_id=d["correlation_id"],
        request_id=d["request_id"],
        exposed=tuple(d["exposed"]),
        running_ms=d["running_ms"],
        started_at=d["started_at"],
        updated_at=d["updated_at"],
        completed_at=d["completed_at"],
        timeout_ms=d.get("timeout_ms"),
        subflows=d.get("subflows") or {},
        pause=Pause(*d["pause"]) if d.get("pause") is not None else None,
    )


def _attempt_to_json(a: Attempt) -> dict[str, Json]:
    return {
        "frame": a.frame,
        "step_id": a.step_id,
        "visit": a.visit,
        "key": a.key,
        "message_id": a.message_id,
        "number": a.number,
        "started_at": a.started_at,
        "name": a.name,
        "effect": a.effect,
        "arguments": a.arguments,
        "retry_at": a.retry_at,
        "reconciling": a.reconciling,
    }


def _attempt_from_json(d: Mapping[str, Json]) -> Attempt:
    return Attempt(**d)


def _pending_to_json(p: Pending) -> dict[str, Json]:
    document: dict[str, Json] = {
        "pending_id": p.pending_id,
        "kind": p.kind,
        "step_id": p.step_id,
        "title": p.title,
        "prompt": p.prompt,
        "questions": [(q.id, q.text, q.type, q.options, q.required) for q in p.questions],
        "editable": p.editable,
        "by": p.by,
        "votes": p.votes,
        "digest": p.digest,
        "deadline": p.deadline,
        "created_at": p.created_at,
        "decided": p.decided,
    }
    # Forms ask in every turn: what their questions do not have stays out of the record.
    if p.frame:
        document["frame"] = p.frame
    if p.answers:
        document["answers"] = p.answers
    if p.binding is not None:
        document["binding"], document["bound_to"] = p.binding, p.bound_to
    return document


def _pending_from_json(d: Mapping[str, Json]) -> Pending:
    return Pending(
        pending_id=d["pending_id"],
        kind=d["kind"],
        step_id=d["step_id"],
        title=d["title"],
        prompt=d["prompt"],
        questions=tuple(
            Question(id_, text, type_, tuple(options), required)
            for id_, text, type_, options, required in d["questions"]
        ),
        editable=tuple(d["editable"]),
        by=d["by"],
        votes=tuple(d["votes"]),
        digest=d["digest"],
        deadline=d["deadline"],
        created_at=d["created_at"],
        decided=d["decided"],
        frame=d.get("frame", 0),
        answers=d.get("answers") or {},
        binding=d.get("binding"),
        bound_to=d.get("bound_to"),
    )


def _turn_to_json(t: OpenTurn) -> dict[str, Json]:
    return {
        "command_id": t.command_id,
        "cause": t.cause,
        "started_at": t.started_at,
        "messages": t.messages,
        "slots": t.slots,
        "variables": t.variables,
        "actions": t.actions,
        "steps": t.steps,
    }


def _turn_from_json(d: Mapping[str, Json]) -> OpenTurn:
    return OpenTurn(
        command_id=d["command_id"],
        cause=d["cause"],
        started_at=d["started_at"],
        messages=tuple(d["messages"]),
        slots=d["slots"],
        variables=d["variables"],
        actions=tuple(d["actions"]),
        steps=d["steps"],
    )


# -- events ----------------------------------------------------------------------------------------


def event_to_row(event: Event) -> tuple[Json, ...]:
    """Return an event as a row, in the order of its fields."""
    return (
        event.offset,
        event.time,
        event.type,
        event.execution_id,
        event.step_id,
        event.command_id,
        event.cause,
        event.data,
        event.audience,
    )


def encode_events(batch: EventBatch) -> bytes:
    """Return the batch's events as JSON bytes. Raises TypeError where a value is not JSON.

    ``[2, first_offset, time, execution_id, command_id, cause, row, ...]``: what the events of a commit nearly
    always have in common stands once, before rows of type, step, data and (unless it is the owner) audience.
    An event that has it otherwise is a whole row. This is a third less than rows throughout, which is what
    format 1 was.
    """
    events = batch.events
    if not events:
        return b"[]"
    last = events[-1]
    time, execution_id, command_id, cause = last.time, last.execution_id, last.command_id, last.cause
    rows: list[Json] = [EVENTS_FORMAT, batch.first_offset, time, execution_id, command_id, cause]
    for offset, e in enumerate(events, batch.first_offset):
        if (
            e.execution_id != execution_id
            or e.command_id != command_id
            or e.time != time
            or e.cause != cause
            or e.offset != offset
        ):
            rows.append(event_to_row(e))
        elif e.audience == "owner":
            rows.append((e.type, e.step_id, e.data))
        else:
            rows.append((e.type, e.step_id, e.data, e.audience))
    return encode_json(rows)


def decode_events(data: bytes) -> tuple[Event, ...]:
    """Return the events of ``encode_events``, in whatever format. Raises UnknownFormat."""
    rows = orjson.loads(data)
    if not rows or type(rows[0]) is list:
        return tuple([Event(*row) for row in rows])
    if rows[0] != EVENTS_FORMAT:
        raise UnknownFormat(f"event format {rows[0]!r} is unknown; newest known is {EVENTS_FORMAT}")
    _, first, time, execution_id, command_id, cause, *rows = rows
    return tuple(
        [
            Event(*row)
            if len(row) > _SHORT_ROW
            else Event(offset, time, row[0], execution_id, row[1], command_id, cause, *row[2:])
            for offset, row in enumerate(rows, first)
        ]
    )
