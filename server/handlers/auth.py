"""``auth``: a fresh token for the same tenant and user; scopes that are gone end what needed them."""

from protocol.frames import Auth
from server.delivery import frames
from server.handlers.services import Caller, Services


async def handle(frame: Auth, caller: Caller, services: Services) -> bytes:
    """Return the ``ack``, or raise Refused; then the former token goes on to count."""
    before = caller.principal.scopes
    caller.renew(await services.credentials.principal(frame.token, caller.origin))
    if caller.principal.scopes != before:
        services.hub.reauthorise(caller)
    return frames.ack(frame.id)
