"""``GET /v1/inbox``: what waits for people, as a page, or by ``Accept: text/event-stream`` as it changes."""

from collections.abc import Callable
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Route

from protocol.errors import Refused
from server.auth.principal import Principal
from server.dispatch import refusal_of
from server.gateway.rest.api import Api, Asked
from server.gateway.rest.envelope import Receive, Scope, Send, exchange_of, json_response
from server.gateway.rest.pages import PAGE_PARAMETERS, cursor_of, read_cursor, read_limit
from server.gateway.rest.sse import HEARTBEAT, EventStream, StreamEnded, event_bytes
from server.gateway.rest.streams import enter
from server.handlers.inbox import inbox_item, inbox_page, settled_item, waiting
from server.handlers.services import Services
from server.limits.connections import ConnectionCounter
from storage.base import StoreUnavailable
from storage.listing import Waiting, WaitPlace

LOOK_S: Final = 8.0
"""The store is looked at this often even where nobody says that something changed; also the heartbeat."""
REST_S: Final = 0.2
"""Two looks of one client are at least this far apart, however much happens."""
WATCHED_ITEMS: Final = 500
"""A stream tells of the oldest ones; those behind them come as room is made."""


class InboxRoutes:
    """The route of this module.

    Args:
        api: makes the route.
        counter: the caps on connections, which streams count to.
    """

    def __init__(self, api: Api, counter: ConnectionCounter) -> None:
        self._api = api
        self._services = api.services
        self._counter = counter

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [self._api.route("/v1/inbox", GET=self.show)]

    async def show(self, asked: Asked) -> Response:
        """Answer ``{items, cursor}``, the oldest first, or a stream of ``opened`` and ``settled`` events."""
        query = asked.query(PAGE_PARAMETERS)
        if asked.wants_events:
            request_id = exchange_of(asked.request).request_id
            return InboxStream(self._services, self._counter, asked.principal, request_id)
        place, limit = read_cursor(query), read_limit(query)
        after = None if place is None else WaitPlace(*place)
        items, behind = await inbox_page(self._services, asked.principal, after=after, limit=limit)
        return json_response({"items": items, "cursor": cursor_of(behind)})


class InboxStream(Response):
    """Tells one client what waits, what comes and what is settled, until it leaves or its token ends.

    Events: ``opened`` (an item), ``settled`` (``{kind, wait_id, conversation_id, decided}``), and ``ready``
    once, behind what waited at the beginning. Comments keep the connection alive.
    """

    def __init__(
        self, services: Services, counter: ConnectionCounter, principal: Principal, request_id: str
    ) -> None:
        self._services = services
        self._counter = counter
        self.principal = principal
        self._request_id = request_id
        self._wake: Callable[[], None] = lambda: None
        self._revoked = False
        self._told: dict[str, Waiting] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream (ASGI)."""
        identity = enter(self._counter, self.principal)
        stream = EventStream(scope, receive, send)
        self._wake = stream.wake
        self._services.credentials.keys.hold(self)
        try:
            async with self._services.hub.watch_inbox(self.principal.tenant_id, stream.wake):
                await self._run(stream)
        except StreamEnded:
            return
        finally:
            self._services.credentials.keys.release(self)
            self._counter.close(identity)

    def key_ended(self, _why: Refused) -> None:
        """End: the key behind the credential does not let it be any more."""
        self._revoked = True
        self._wake()

    async def _run(self, stream: EventStream) -> None:
        await stream.begin()
        looked = await self._look(stream)
        if looked:
            await stream.tell(event_bytes("ready", {"items": len(self._told)}))
        while self._goes_on():
            await stream.wait(LOOK_S, rest=REST_S)
            if not self._goes_on():
                break
            if await self._look(stream) and not looked:
                looked = True
                await stream.tell(event_bytes("ready", {"items": len(self._told)}))
            await stream.tell(HEARTBEAT)
        await stream.end()

    def _goes_on(self) -> bool:
        expires_at = self.principal.expires_at
        if self._revoked:
            return False
        if expires_at is not None and expires_at <= self._services.wall_s():
            return False
        return not self._services.hub.inboxes.closed

    async def _look(self, stream: EventStream) -> bool:
        """Tell what has changed since the last look; False where the store cannot say."""
        try:
            found = await waiting(self._services, self.principal, after=None, limit=WATCHED_ITEMS)
            now = {item.place.wait_id: item for item in found}
            for item in found:
                if item.place.wait_id not in self._told:
                    view = await inbox_item(self._services, self.principal, item)
                    if view is not None:
                        self._told[item.place.wait_id] = item
                        await stream.tell(event_bytes("opened", view))
            for wait_id in [known for known in self._told if known not in now]:
                item = self._told.pop(wait_id)
                settled: Any = await settled_item(self._services, self.principal, item)
                await stream.tell(event_bytes("settled", settled))
        except StoreUnavailable as error:
            refusal_of(error, request_id=self._request_id)
            return False
        return True
