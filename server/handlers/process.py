"""``process``: says something in a conversation, and makes it if it does not exist."""

from protocol.frames import Process
from server.handlers.command import submit
from server.handlers.services import Caller, Services


async def handle(frame: Process, caller: Caller, services: Services) -> bytes:
    """Return the ``ack``, or raise Refused."""
    return await submit(frame, caller, services)
