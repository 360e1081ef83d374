"""``state``: the state record, as far as the caller may see it."""

from protocol.frames import State
from server.delivery import frames
from server.delivery.snapshot import PAGE_BYTES, bounded_state
from server.handlers.reading import existing
from server.handlers.services import Caller, Services


async def handle(frame: State, caller: Caller, services: Services) -> bytes:
    """Return the ``ack`` with the state record, or raise Refused."""
    record, audience = await existing(services, caller.principal, frame.conversation_id)
    return frames.ack(
        frame.id,
        epoch=record.epoch,
        offset=record.offset,
        result=bounded_state(record, audience, PAGE_BYTES),
    )
