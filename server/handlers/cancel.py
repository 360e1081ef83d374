"""``cancel``: ends the current execution."""

from protocol.frames import Cancel
from server.handlers.command import submit
from server.handlers.services import Caller, Services


async def handle(frame: Cancel, caller: Caller, services: Services) -> bytes:
    """Return the ``ack``, or raise Refused."""
    return await submit(frame, caller, services)
