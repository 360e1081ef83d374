"""Records and batches as documents, and back.

What is asked for stands beside the record as fields; the record itself is ``body``, the bytes that
``codec.py`` writes, so that no name in a slot or variable ever is a field's name (``$where``, ``a.b``).
``docs/decisions/0033-mongodb-documents.md`` says why, with figures.

The document of a conversation carries ``unflushed``: the log's documents of commits that may not be in the
log yet. That is this adapter's private matter.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple

from bson.int64 import Int64

from storage.base import Commit, KeyRecord
from storage.codec import decode_events, decode_record, encode_events
from storage.listing import Listing, Wait, is_same, listing_of, says_it_all, waits_of
from storage.models import Conversation, EventBatch, Lease, TimeMs
from storage.mongo import accepted
from storage.rules import digest, execution_of, stored_batch

Document = dict[str, Any]
FLUSH_MS: Final = 60_000
"""How coarse ``flush_at`` is: within a minute its index entry stays where it is."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017


class Known(NamedTuple):
    """What stands beside a record at one revision: all that the next commit has to know of it."""

    revision: int
    fence: int
    unflushed: tuple[Document, ...] = ()
    execution_id: str | None = None
    execution_from: int = 0
    listing: Listing | None = None
    waits: tuple[Wait, ...] = ()
    accepted: int | None = 0
    epoch: str = ""


NOTHING: Final = Known(0, 0)
"""What is known of a conversation that does not exist."""


def without(known: Known, commit_ids: Collection[str]) -> Known:
    """Return what is known, without the entries of these commits, which are in the log."""
    if not commit_ids:
        return known
    left = tuple([entry for entry in known.unflushed if entry["commit_id"] not in commit_ids])
    return known if len(left) == len(known.unflushed) else known._replace(unflushed=left)


def text(value: object) -> str:
    """Return ``value``, which goes into a filter as it is. Raises TypeError for all but text.

    That is what makes injection impossible: an operator is a mapping, and no mapping gets this far.
    """
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} where a text belongs")
    return value


def number(value: object) -> int:
    """Return ``value``, which goes into a filter as it is. Raises TypeError for all but integers."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} where an integer belongs")
    return int(value)


def plain(document: Mapping[str, Any]) -> Document:
    """Return a document with the integers that the driver has its own type for as integers."""
    return {name: int(v) if type(v) is Int64 else v for name, v in document.items()}


def place(tenant_id: str, conversation_id: str) -> Document:
    """Return the filter of one conversation."""
    return {"tenant_id": text(tenant_id), "conversation_id": text(conversation_id)}


def places(keys: Sequence[tuple[str, str]]) -> Document:
    """Return the filter of many conversations."""
    by_tenant: dict[str, list[str]] = {}
    for tenant_id, conversation_id in keys:
        by_tenant.setdefault(text(tenant_id), []).append(text(conversation_id))
    arms = [{"tenant_id": tenant, "conversation_id": {"$in": ids}} for tenant, ids in by_tenant.items()]
    return arms[0] if len(arms) == 1 else {"$or": arms}


def date_of(ms: TimeMs) -> datetime:
    """Return a time as the type that a TTL index asks for."""
    return _EPOCH + timedelta(milliseconds=ms)


# -- conversations ----------------------------------------------------------------------------------


def next_known(commit: Commit, known: Known, entry: Document | None) -> Known:
    """Return what is to stand beside the record after ``commit``."""
    record = commit.record
    if says_it_all(record, known.listing, known.waits):
        listing, waits = known.listing, known.waits
    else:
        listing, waits = listing_of(record), waits_of(record)
        if is_same(listing, known.listing):
            listing = known.listing
    execution_id = execution_of(record)
    started = entry is not None and "starts" in entry
    carried, accepts = ((), None) if record.deleted_at is not None else (known.unflushed, known.accepted)
    key = None if entry is None else _command_key(entry)
    if accepts is not None and key is not None:
        accepts = accepted.with_key(accepts, key)
    return Known(
        record.revision,
        record.fence,
        carried if entry is None else (*carried, entry),
        execution_id,
        entry["first_offset"] if started and entry is not None else known.execution_from,
        listing,
        waits,
        accepts,
        record.epoch,
    )


def conversation_document(record: Conversation, body: bytes, beside: Known, now: TimeMs) -> Document:
    """Return the whole document; ``body`` is the encoded record."""
    document: Document = {
        "tenant_id": record.tenant_id,
        "conversation_id": record.conversation_id,
        "revision": record.revision,
        "fence": record.fence,
        "commit_id": record.commit_id,
        "epoch": record.epoch,
        "offset": record.offset,
        "body": body,
    }
    if beside.listing is not None:
        document |= beside.listing._asdict()
    if beside.execution_id is not None:
        document["execution_id"] = beside.execution_id
        document["execution_from"] = beside.execution_from
    if record.lease is not None:
        document["lease_owner"], document["lease_until"] = record.lease.owner, record.lease.until
    if record.wake_at is not None:
        document["wake_at"] = record.wake_at
    if beside.accepted is not None:
        document["accepted"] = accepted.to_bytes(beside.accepted)
    if beside.waits:
        document["waits"] = [list(wait) for wait in beside.waits]
    if beside.unflushed:
        document["unflushed"] = list(beside.unflushed)
        document["flush_at"] = (now // FLUSH_MS + 1) * FLUSH_MS
    if record.deleted_at is not None:
        document["deleted_at"] = record.deleted_at
        if record.expires_at is not None:
            document["expires_at"] = date_of(record.expires_at)
    return document


def record_of(document: Mapping[str, Any]) -> Conversation:
    """Return the record of a document; the fields beside the body are the newer ones."""
    record = decode_record(document["body"])
    owner, wake_at = document.get("lease_owner"), document.get("wake_at")
    lease = None if owner is None else Lease(owner, int(document["lease_until"]))
    if record.lease == lease and record.wake_at == wake_at:
        return record
    return replace(record, lease=lease, wake_at=None if wake_at is None else int(wake_at))


def known_of(document: Mapping[str, Any]) -> Known:
    """Return what stands beside the record of a document."""
    listing = None
    if "status" in document:
        status, flow_id, user_id, project_id, active_at = (document[name] for name in Listing._fields)
        listing = Listing(status, flow_id, user_id, project_id, int(active_at))
    return Known(
        document["revision"],
        document["fence"],
        tuple(document.get("unflushed", ())),
        document.get("execution_id"),
        document.get("execution_from", 0),
        listing,
        waits_in(document),
        accepted.from_bytes(document["accepted"]) if "accepted" in document else None,
        document["epoch"],
    )


def waits_in(document: Mapping[str, Any]) -> tuple[Wait, ...]:
    """Return what of a document waits for people."""
    return tuple(Wait(id_, int(since), kind, tuple(by)) for id_, since, kind, by in document.get("waits", ()))


# -- the log ----------------------------------------------------------------------------------------


def entry_of(commit: Commit, known: Known) -> Document | None:
    """Return what a commit puts into the log, without whose it is; None if nothing.

    ``starts`` says that the execution begins here, which ``executions`` has to be told. A commit without
    events that begins one has an entry without ``events``.
    """
    batch, execution_id = stored_batch(commit), execution_of(commit.record)
    starts = execution_id is not None and execution_id != known.execution_id
    if batch is None and not starts:
        return None
    if batch is None:
        record = commit.record
        batch = EventBatch(record.epoch, record.offset, record.offset, record.commit_id, None, None, ())
    return batch_entry(batch, execution_id, starts=starts)


def batch_entry(batch: EventBatch, execution_id: str | None, *, starts: bool) -> Document:
    """Return the log's document of a batch, without whose it is.

    ``key`` is a number where the batch accepts no command: the unique index over keys holds texts only,
    and a server that heeds no partial index still finds no two alike.
    """
    entry: Document = {
        "epoch": batch.epoch,
        "first_offset": batch.first_offset,
        "last_offset": batch.last_offset,
        "commit_id": batch.commit_id,
        "key": batch.first_offset if batch.key is None else batch.key,
        "body_hash": batch.body_hash,
        "execution_id": execution_id,
    }
    if batch.events:
        entry["messages"], entry["ended"] = digest(batch)
        entry["events"] = encode_events(batch)
    if starts:
        entry["starts"] = True
    return entry


def entry_bytes(entry: Document) -> int:
    """Return the size of an entry: that of its events."""
    return len(entry.get("events", b""))


def batch_of(entry: Mapping[str, Any]) -> EventBatch:
    """Return the batch of an entry or of a document of the log."""
    return EventBatch(
        entry["epoch"],
        entry["first_offset"],
        entry["last_offset"],
        entry["commit_id"],
        _command_key(entry),
        entry["body_hash"],
        decode_events(entry["events"]),
    )


def key_record_of(entry: Mapping[str, Any]) -> KeyRecord:
    """Return what an entry that accepted a command says of its key."""
    return KeyRecord(
        entry["key"],
        entry["body_hash"],
        entry["epoch"],
        entry["first_offset"],
        entry["last_offset"],
        entry["execution_id"],
    )


def _command_key(entry: Mapping[str, Any]) -> str | None:
    key = entry["key"]
    return key if isinstance(key, str) else None
