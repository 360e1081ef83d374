"""``history``: older messages, oldest first; after the last reset, but for who may inspect."""

from protocol.frames import History
from server.delivery import frames
from server.delivery.snapshot import messages_page
from server.handlers.reading import existing
from server.handlers.services import Caller, Services


async def handle(frame: History, caller: Caller, services: Services) -> bytes:
    """Return the ``ack`` with a page of messages, or raise Refused."""
    record, audience = await existing(services, caller.principal, frame.conversation_id)
    page = await messages_page(services.store, record, audience, before=frame.before, limit=frame.limit)
    return frames.ack(frame.id, epoch=record.epoch, offset=record.offset, result=page.to_wire())
