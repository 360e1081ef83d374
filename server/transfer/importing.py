"""Reads an export into a store: all of the file with nothing written first, then its conversations.

A broken file therefore changes nothing. Each conversation comes whole or not at all, in a new epoch, by
which clients see that what they knew is to be replaced (rule 10 of the protocol). What exists is never
touched, so importing again adds nothing.
"""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError

from protocol.frames import ConversationId
from server.engine.catalog import SHARED
from server.transfer import lines
from storage.base import Store
from storage.codec import UnknownFormat, encode_json
from storage.models import (
    COMMIT_MAX_BYTES,
    ENDED,
    EVENT_MAX_BYTES,
    RECORD_MAX_BYTES,
    Conversation,
    EventBatch,
    FlowVersion,
    InboxEntry,
)
from storage.sizes import batch_bytes, event_bytes, record_bytes

_ID: Final[TypeAdapter[str]] = TypeAdapter(ConversationId)
_RECORD: Final = TypeAdapter(Conversation)
_BATCH: Final = TypeAdapter(EventBatch)
_VERSION: Final = TypeAdapter(FlowVersion)
Versions = dict[tuple[str, int], int]


class BrokenFile(Exception):  # noqa: N818
    """The file is no whole export. ``line`` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line


class Contents(NamedTuple):
    """What a sound file holds."""

    tenant_id: str
    masked: bool
    conversations: int


@dataclass(slots=True)
class Imported:
    """What an import has done."""

    imported: int = 0
    skipped: int = 0
    published: int = 0


class _Line(NamedTuple):
    number: int
    start: int
    kind: str
    document: Any


def _lines(file: BinaryIO) -> Iterator[_Line]:
    """Yield the lines from where the file stands, numbered from there."""
    number = 0
    while True:
        start = file.tell()
        raw = file.readline(lines.LINE_MAX_BYTES + 1)
        if not raw:
            return
        number += 1
        if len(raw) > lines.LINE_MAX_BYTES:
            raise BrokenFile(number, f"it is longer than {lines.LINE_MAX_BYTES:,} bytes")
        if not raw.endswith(b"\n"):
            raise BrokenFile(number, "the file is torn off here")
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise BrokenFile(number, "it is not JSON") from None
        if not isinstance(document, dict) or len(document) != 1:
            raise BrokenFile(number, "it is no object with one member")
        ((kind, inner),) = document.items()
        yield _Line(number, start, kind, inner)


# --- looking ------------------------------------------------------------------------------------------


def check(path: Path) -> Contents:
    """Read the whole file, in constant memory, and tell what it holds.

    Raises:
        BrokenFile: it is torn, changed, of a later release, or no export at all.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _Checker().whole(file)


class _Checker:
    def __init__(self) -> None:
        self.tenant_id = ""
        self.flows: set[tuple[str, int]] = set()
        self.record: Conversation | None = None
        self.offset = 0
        self.count = 0

    def whole(self, file: BinaryIO) -> Contents:
        found = _lines(file)
        masked = self._header(next(found, None))
        number = 1
        for line in found:
            number = line.number
            try:
                if self._is_end(line):
                    break
            except BrokenFile:
                raise
            except UnknownFormat:
                raise BrokenFile(number, "a newer Parley wrote it; import it with that one") from None
            except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
                raise BrokenFile(number, f"its {line.kind} is not as an export writes it") from None
        else:
            raise BrokenFile(number + 1, "the end is missing: the file was torn off")
        if (after := next(found, None)) is not None:
            raise BrokenFile(after.number, "something follows the end")
        return Contents(self.tenant_id, masked, self.count)

    def _header(self, line: _Line | None) -> bool:
        document = line.document if line is not None and line.kind == "parley_export" else None
        if not isinstance(document, dict) or not isinstance(document.get("tenant_id"), str):
            raise BrokenFile(1, "this is no file that `parley export` has written")
        if document.get("v") != lines.VERSION:
            raise BrokenFile(1, f"its version is {document.get('v')!r}, known is {lines.VERSION}")
        self.tenant_id = document["tenant_id"]
        return bool(document.get("masked"))

    def _is_end(self, line: _Line) -> bool:
        match line.kind:
            case "flow":
                self._closed(line)
                self._flow(line)
            case "conversation":
                self._closed(line)
                self._conversation(line)
            case "batch":
                self._batch(line)
            case "end":
                self._closed(line)
                if line.document["conversations"] != self.count:
                    raise BrokenFile(line.number, f"it counts other than the {self.count} that are here")
                return True
            case _:
                raise BrokenFile(line.number, f"nothing is known of {line.kind!r}")
        return False

    def _closed(self, line: _Line) -> None:
        """Refuse to go on while events of the conversation above are missing."""
        if self.record is not None and self.offset != self.record.offset:
            raise BrokenFile(
                line.number,
                f"conversation {self.record.conversation_id} ends at offset {self.offset}, and should at "
                f"{self.record.offset}",
            )

    def _flow(self, line: _Line) -> None:
        version = _version(line.document)
        _VERSION.validate_json(encode_json(asdict(version)), strict=True)
        if not (isinstance(line.document["name"], str) and isinstance(line.document["description"], str)):
            raise TypeError
        if sha256(version.source.encode()).hexdigest() != version.sha256:
            raise BrokenFile(line.number, "the source of the flow is not that of its checksum")
        self.flows.add((version.flow_id, version.version))

    def _conversation(self, line: _Line) -> None:
        record = lines.read_conversation(line.document, self.tenant_id)
        _RECORD.validate_json(encode_json(asdict(record)), strict=True)
        before = self.record.conversation_id if self.record is not None else ""
        try:
            fits = _ID.validate_python(record.conversation_id) == record.conversation_id
        except ValidationError:
            fits = False
        if not fits:
            raise BrokenFile(line.number, "it has no id that a conversation can have")
        if record.conversation_id <= before:
            raise BrokenFile(line.number, f"{record.conversation_id} comes again, or out of its order")
        if line.document["tenant_id"] != self.tenant_id:
            raise BrokenFile(line.number, "it is another tenant's")
        if record.lease is not None or record.deleted_at is not None or record.revision != 1:
            raise BrokenFile(line.number, "the conversation is not at rest")
        if not 0 <= record.reset_offset <= record.offset:
            raise BrokenFile(line.number, "its offsets contradict each other")
        if record_bytes(record) > RECORD_MAX_BYTES:
            raise BrokenFile(line.number, f"it has more than {RECORD_MAX_BYTES:,} bytes")
        ended = record.execution is None or record.execution.status in ENDED
        if not ended and (missing := lines.versions_of(record) - self.flows):
            flow_id, number = min(missing)
            raise BrokenFile(line.number, f"it runs version {number} of flow {flow_id}, which is not here")
        self.record, self.offset = record, 0
        self.count += 1

    def _batch(self, line: _Line) -> None:
        if self.record is None:
            raise BrokenFile(line.number, "it belongs to no conversation")
        batch = lines.read_batch(line.document, self.record.epoch)
        _BATCH.validate_json(encode_json(asdict(batch)), strict=True)
        if batch.first_offset != self.offset + 1:
            raise BrokenFile(
                line.number, f"it begins at offset {batch.first_offset}; {self.offset + 1} comes next"
            )
        offsets = [event.offset for event in batch.events]
        if not offsets or offsets != list(range(batch.first_offset, batch.last_offset + 1)):
            raise BrokenFile(line.number, "its events do not have the offsets that it says")
        for event in batch.events:
            if event_bytes(event) > EVENT_MAX_BYTES:
                raise BrokenFile(line.number, f"an event has more than {EVENT_MAX_BYTES:,} bytes")
        if batch_bytes(batch) > COMMIT_MAX_BYTES:
            raise BrokenFile(line.number, f"it has more than {COMMIT_MAX_BYTES:,} bytes")
        self.offset = batch.last_offset


def _version(document: Mapping[str, Any]) -> FlowVersion:
    return FlowVersion(
        SHARED,
        document["flow_id"],
        document["version"],
        document["sha256"],
        document["source"],
        document["source_name"],
        label=document["label"],
        published_by=document["published_by"],
        published_at=document["published_at"],
    )


# --- writing ------------------------------------------------------------------------------------------


async def taken(store: Store, path: Path, tenant_id: str) -> list[str]:
    """Return the first conversations of a sound file, up to 10, that the store has already."""
    found: list[str] = []
    with path.open("rb") as file:
        for line in _lines(file):
            if line.kind == "conversation" and len(found) < 10:
                id_ = line.document["conversation_id"]
                if await store.load(tenant_id, id_) is not None:
                    found.append(id_)
    return found


async def read_in(store: Store, path: Path, tenant_id: str) -> Imported:
    """Import what a sound file holds into ``tenant_id``; what the store has already is skipped.

    Raises:
        StorageError: the store fails; what was imported so far stays, and the rest can be imported again.
    """
    done = Imported()
    versions: Versions = {}
    with path.open("rb") as file:
        for line in _lines(file):
            if line.kind == "flow":
                await _publish(store, line.document, versions, done)
            elif line.kind == "conversation":
                record = lines.read_conversation(line.document, tenant_id, "e" + secrets.token_hex(10))
                log = _Log(path, line.start, record.epoch)
                if await store.restore(_moved(record, versions), log):
                    done.imported += 1
                else:
                    done.skipped += 1
    return done


class _Log:
    """The batches behind a conversation's line; read anew each time, so that none is kept."""

    def __init__(self, path: Path, start: int, epoch: str) -> None:
        self._path = path
        self._start = start
        self._epoch = epoch

    def __iter__(self) -> Iterator[EventBatch]:
        with self._path.open("rb") as file:
            file.seek(self._start)
            found = _lines(file)
            next(found)
            for line in found:
                if line.kind != "batch":
                    return
                yield lines.read_batch(line.document, self._epoch)


async def _publish(store: Store, document: Mapping[str, Any], versions: Versions, done: Imported) -> None:
    """Find the version with this source, or publish it; what is the default flow here stays so."""
    version = _version(document)
    key = (version.flow_id, version.version)
    number = 1
    while (known := await store.flow_version(SHARED, version.flow_id, number)) is not None:
        if known.sha256 == version.sha256:
            versions[key] = number
            return
        number += 1
    heads = {head.flow_id: head for head in await store.flows(SHARED)}
    head = heads.get(version.flow_id)
    published = await store.publish(
        version,
        name=head.name if head else document["name"],
        description=head.description if head else document["description"],
        is_default=head.is_default if head else False,
    )
    versions[key] = published.version
    done.published += 1


def _moved(record: Conversation, versions: Versions) -> Conversation:
    """Return the record with the numbers that its flows' versions have in this store."""
    execution = record.execution
    if execution is not None:
        execution = replace(
            execution,
            flow_version=versions.get((execution.flow_id, execution.flow_version), execution.flow_version),
            frames=tuple(
                replace(frame, version=versions.get((frame.flow_id, frame.version), frame.version))
                for frame in execution.frames
            ),
            subflows={id_: versions.get((id_, n), n) for id_, n in execution.subflows.items()},
        )
    return replace(record, execution=execution, inbox=tuple(_waiting(e, versions) for e in record.inbox))


def _waiting(entry: InboxEntry, versions: Versions) -> InboxEntry:
    command = entry.command
    wanted = (command.get("flow_id"), command.get("version"))
    if command.get("type") != "start" or wanted not in versions:
        return entry
    return replace(entry, command={**command, "version": versions[wanted]})
