"""The file of exported conversations: JSON Lines, one object with one member a line, UTF-8.

| line | holds |
|---|---|
| ``{"parley_export": {"v", "tenant_id", "masked"}}`` | the first line |
| ``{"flow": {"flow_id", "version", "sha256", "source", "source_name", "label", "name", ...}}`` | a flow's \
version, before the first conversation that needs it |
| ``{"conversation": {...}}`` | a record in its stored form (``storage.codec``), at rest |
| ``{"batch": [first_offset, last_offset, commit_id, key, body_hash, events]}`` | one commit's events of the \
conversation above, in order |
| ``{"end": {"conversations"}}`` | the last line, so that a torn file shows |

Conversations come in the order of their ids, each once. "At rest" means without what belongs to the
process that held it: no lease, fence 0, revision 1, and what runs due at once. So an effect that was running
is, where the file is imported, one whose owner has died.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import orjson

from server.engine.schedule import wake_at
from storage.codec import decode_events, encode_json, event_to_row, record_from_json, record_to_json
from storage.models import COMMIT_MAX_BYTES, RECORD_MAX_BYTES, Conversation, EventBatch, FlowVersion

VERSION: Final = 1
LINE_MAX_BYTES: Final = 2 * max(RECORD_MAX_BYTES, COMMIT_MAX_BYTES)
"""No line is longer: a record has at most 1 MiB, a commit 256 KiB, the source of a flow 1 MiB."""
CONVERSATION: Final = b'{"conversation":'
"""How the line of a conversation begins."""


def header(tenant_id: str, *, masked: bool) -> bytes:
    """Return the first line."""
    return _line("parley_export", {"v": VERSION, "tenant_id": tenant_id, "masked": masked})


def end(conversations: int) -> bytes:
    """Return the last line."""
    return _line("end", {"conversations": conversations})


def flow_line(version: FlowVersion, name: str, description: str) -> bytes:
    """Return the line of a flow's version; whom it belongs to and where its file lay stay out."""
    document = asdict(version) | {"name": name, "description": description}
    document["source_name"] = Path(version.source_name).name
    del document["tenant_id"]
    return _line("flow", document)


def conversation_line(record: Conversation) -> bytes:
    """Return the line of a record that is at rest."""
    return _line("conversation", record_to_json(record))


def batch_line(batch: EventBatch) -> bytes:
    """Return the line of a batch; its epoch is its conversation's."""
    rows = [event_to_row(event) for event in batch.events]
    return _line(
        "batch",
        (batch.first_offset, batch.last_offset, batch.commit_id, batch.key, batch.body_hash, rows),
    )


def _line(kind: str, document: Any) -> bytes:
    return encode_json({kind: document}) + b"\n"


def at_rest(record: Conversation) -> Conversation:
    """Return a record without what belongs to the process that held it; see the module."""
    free = replace(record, lease=None, fence=0, revision=1)
    return replace(free, wake_at=wake_at(free, free.last_activity)) if free.busy else free


def read_conversation(document: Mapping[str, Any], tenant_id: str, epoch: str | None = None) -> Conversation:
    """Return the record of a line, in ``tenant_id`` and, if one is given, in another epoch."""
    record = replace(record_from_json(document), tenant_id=tenant_id)
    return record if epoch is None else replace(record, epoch=epoch)


def read_batch(row: Sequence[Any], epoch: str) -> EventBatch:
    """Return the batch of a line."""
    first, last, commit_id, key, body_hash, events = row
    return EventBatch(epoch, first, last, commit_id, key, body_hash, decode_events(orjson.dumps(events)))


def versions_of(record: Conversation) -> set[tuple[str, int]]:
    """Return the (flow_id, version) that a conversation needs in order to go on."""
    execution = record.execution
    wanted = {
        (entry.command["flow_id"], entry.command["version"])
        for entry in record.inbox
        if entry.command.get("type") == "start" and entry.command.get("version") is not None
    }
    if execution is not None:
        wanted.update((frame.flow_id, frame.version) for frame in execution.frames)
        wanted.update(execution.subflows.items())
    return wanted
