"""``unsubscribe``: stops watching. What is not watched is answered the same: nothing is left to do."""

from protocol.frames import Unsubscribe
from server.delivery import frames
from server.handlers.services import Caller, Services


async def handle(frame: Unsubscribe, caller: Caller, services: Services) -> bytes:
    """Return the ``ack``."""
    services.hub.unsubscribe(caller, frame.conversation_id)
    return frames.ack(frame.id)
