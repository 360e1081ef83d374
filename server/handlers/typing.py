"""``typing``: a hint to the others who watch; it has no answer and counts only from a watcher."""

from protocol.frames import Typing
from server.handlers.services import Caller, Services


async def handle(frame: Typing, caller: Caller, services: Services) -> None:
    """Pass the hint on."""
    services.hub.typing(caller, frame.conversation_id, frame.typing)
