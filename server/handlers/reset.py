"""``reset``: cancels what runs and clears slots, variables and context."""

from protocol.frames import Reset
from server.handlers.command import submit
from server.handlers.services import Caller, Services


async def handle(frame: Reset, caller: Caller, services: Services) -> bytes:
    """Return the ``ack``, or raise Refused."""
    return await submit(frame, caller, services)
