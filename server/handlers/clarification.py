"""``clarification``: answers the questions of a pending clarification request."""

from protocol.frames import Clarification
from server.handlers.command import submit
from server.handlers.services import Caller, Services


async def handle(frame: Clarification, caller: Caller, services: Services) -> bytes:
    """Return the ``ack``, or raise Refused."""
    return await submit(frame, caller, services)
