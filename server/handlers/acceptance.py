"""``acceptance``: accepts or rejects a pending acceptance request."""

from protocol.frames import Acceptance
from server.handlers.command import submit
from server.handlers.services import Caller, Services


async def handle(frame: Acceptance, caller: Caller, services: Services) -> bytes:
    """Return the ``ack``, or raise Refused."""
    return await submit(frame, caller, services)
