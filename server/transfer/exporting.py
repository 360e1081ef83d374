"""Writes conversations of a store down, batch by batch, in constant memory."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from server.engine.catalog import SHARED
from server.transfer import lines
from server.transfer.masking import Mask, masking
from storage.base import Store
from storage.models import Conversation, EventBatch

PAGE: int = 500


class NoSuchConversation(Exception):  # noqa: N818
    """A conversation that was asked for is not there."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export: of one tenant, some conversations or all, perhaps of one user, perhaps masked."""

    tenant_id: str
    conversations: Sequence[str] = ()
    user_id: str | None = None
    mask_pii: bool = False


async def export(store: Store, wanted: Wanted) -> AsyncIterator[bytes]:
    """Yield the lines of an export: each conversation as it is when its turn comes.

    Raises:
        NoSuchConversation: one that was named is not there, or one was deleted while its log was read.
        MaskUnknown: it should be masked, and a flow no longer tells what is personal.
        StorageError: the store fails.
    """
    private = await masking(store) if wanted.mask_pii else None
    yield lines.header(wanted.tenant_id, masked=wanted.mask_pii)
    written: set[tuple[str, int]] = set()
    count = 0
    async for record in _records(store, wanted):
        for key in sorted(lines.versions_of(record) - written):
            written.add(key)
            if (line := await _flow(store, *key)) is not None:
                yield line
        mask = await _learned(store, record, private) if private else None
        yield lines.conversation_line(mask.record(record) if mask else record)
        async for batch in _log(store, record):
            yield lines.batch_line(mask.batch(batch) if mask else batch)
        count += 1
    yield lines.end(count)


async def _records(store: Store, wanted: Wanted) -> AsyncIterator[Conversation]:
    """Yield the records, at rest and in the order of their ids."""
    async for id_ in _ids(store, wanted):
        record = await store.load(wanted.tenant_id, id_)
        if record is None or record.deleted_at is not None:
            if wanted.conversations:
                raise NoSuchConversation(id_)
            continue  # deleted since its id was read
        if wanted.user_id is None or record.user_id == wanted.user_id:
            yield lines.at_rest(record)


async def _ids(store: Store, wanted: Wanted) -> AsyncIterator[str]:
    if wanted.conversations:
        for id_ in sorted(set(wanted.conversations)):
            yield id_
        return
    after = ""
    while page := await store.conversation_ids(wanted.tenant_id, after=after, limit=PAGE):
        for id_ in page:
            yield id_
        after = page[-1]


async def _log(store: Store, record: Conversation) -> AsyncIterator[EventBatch]:
    """Yield the batches up to where the record is: a server may go on meanwhile, over MongoDB."""
    place = (record.tenant_id, record.conversation_id, record.epoch)
    offset = 0
    while offset < record.offset:
        batches = await store.events(*place, offset)
        if not batches:
            raise NoSuchConversation(record.conversation_id)  # deleted while its log was read
        for batch in batches:
            if batch.last_offset <= record.offset:
                yield batch
        offset = batches[-1].last_offset


async def _learned(store: Store, record: Conversation, private: Mask) -> Mask:
    """Return what is personal in one conversation: its log is read once for that alone."""
    mask = private.of(record)
    async for batch in _log(store, record):
        mask.learn(batch)
    return mask


async def _flow(store: Store, flow_id: str, number: int) -> bytes | None:
    """Return the line of a version; None where the store never had it, as with flows made in a program."""
    version = await store.flow_version(SHARED, flow_id, number)
    if version is None:
        return None
    heads = {head.flow_id: head for head in await store.flows(SHARED)}
    head = heads.get(flow_id)
    return lines.flow_line(version, head.name if head else flow_id, head.description if head else "")
