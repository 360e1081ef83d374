"""``/v1/conversations``: say something, hear the answer, read what there is, follow it, delete it."""

import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Route

from protocol.codec import MAX_NUMBER
from protocol.errors import ErrorCode, Refused
from server.engine.types import Accepted, Command
from server.gateway.rest.api import Api, Asked, arguments
from server.gateway.rest.bodies import Body, ContextBody, NewConversationBody, ProcessBody, ResetBody
from server.gateway.rest.envelope import exchange_of, json_response
from server.gateway.rest.event_stream import ConversationStream, read_place
from server.gateway.rest.filters import FILTERS, STATUSES, read_filter
from server.gateway.rest.pages import PAGE_PARAMETERS, cursor_of, read_cursor, read_limit
from server.gateway.rest.preferences import DEFAULT_WAIT_S, wait_s
from server.gateway.rest.streams import Streams
from server.gateway.rest.turn_stream import TurnStream
from server.handlers import conversations
from server.handlers.ids import new_conversation_id
from storage.listing import ListPlace

LIST: Final = "/v1/conversations"
ONE: Final = f"{LIST}/{{conversation_id}}"
_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")


class ConversationRoutes:
    """The routes of this module.

    Args:
        api: makes the routes.
        streams: the event streams of this instance.
    """

    def __init__(self, api: Api, streams: Streams) -> None:
        self._api = api
        self._services = api.services
        self._streams = streams

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = self._api.route
        return [
            route(LIST, GET=self.list_, POST=self.create),
            route(ONE, GET=self.show, DELETE=self.delete),
            route(f"{ONE}/process", POST=self.process),
            route(f"{ONE}/state", GET=self.state),
            route(f"{ONE}/reset", POST=self.reset),
            route(f"{ONE}/context", GET=self.context, PATCH=self.amend),
            route(f"{ONE}/history", GET=self.history),
            route(f"{ONE}/events", GET=self.events),
        ]

    async def create(self, asked: Asked) -> Response:
        """Make a conversation id: 201 ``{conversation_id}``. With a key it is the same one again."""
        await asked.body(NewConversationBody)
        conversation_id = new_conversation_id(asked.principal, asked.origin().key)
        place = {"location": f"{LIST}/{conversation_id}"}
        return json_response({"conversation_id": conversation_id}, 201, place)

    async def list_(self, asked: Asked) -> Response:
        """List conversations, the most lately active first: ``{conversations, cursor, total}``."""
        query = asked.query(FILTERS | PAGE_PARAMETERS | {"count"})
        place, limit = read_cursor(query), read_limit(query)
        views, behind, total = await conversations.list_conversations(
            self._services,
            asked.principal,
            read_filter(query, STATUSES),
            after=None if place is None else ListPlace(*place),
            limit=limit,
            count=_flag(query, "count"),
        )
        return json_response({"conversations": views, "cursor": cursor_of(behind), "total": total})

    async def show(self, asked: Asked) -> Response:
        """Show where a conversation stands, and who is connected to it."""
        asked.query(frozenset())
        id_ = conversation_id_of(asked)
        return json_response(await conversations.show_conversation(self._services, asked.principal, id_))

    async def process(self, asked: Asked) -> Response:
        """Say something: 200 with the turn's data, 202 with a receipt where it takes longer, or a stream."""
        command = await self._command(asked, "process", ProcessBody)
        if asked.wants_events:
            return TurnStream(self._services, self._streams, asked.principal, command)
        seconds, applied = wait_s(asked.request.headers.getlist("prefer"))
        if applied is not None:
            exchange_of(asked.request).headers.append((b"preference-applied", applied.encode()))
        accepted = await conversations.settled(self._services, command, asked.principal, seconds)
        receipt = conversations.receipt(accepted, command, asked.principal)
        if receipt.ended and receipt.result is not None and applied != "respond-async":
            return json_response(receipt.result)
        return json_response(receipt.to_wire(), 202)

    async def reset(self, asked: Asked) -> Response:
        """Cancel what runs and clear the context: a receipt."""
        command = await self._command(asked, "reset", ResetBody)
        accepted = await conversations.settled(self._services, command, asked.principal, DEFAULT_WAIT_S)
        return self._receipt(asked, command, accepted)

    async def state(self, asked: Asked) -> Response:
        """Show the state record."""
        asked.query(frozenset())
        id_ = conversation_id_of(asked)
        return json_response(await conversations.show_state(self._services, asked.principal, id_))

    async def context(self, asked: Asked) -> Response:
        """Show slots and variables."""
        asked.query(frozenset())
        id_ = conversation_id_of(asked)
        return json_response(await conversations.show_context(self._services, asked.principal, id_))

    async def amend(self, asked: Asked) -> Response:
        """Set slots and variables: a receipt."""
        asked.query(frozenset())
        id_ = conversation_id_of(asked)
        body = arguments(await asked.body(ContextBody))
        command = conversations.amendment(asked.principal, id_, body, asked.origin())
        accepted = await conversations.settled(self._services, command, asked.principal, DEFAULT_WAIT_S)
        return self._receipt(asked, command, accepted)

    async def history(self, asked: Asked) -> Response:
        """Show messages, the newest before ``before``, oldest first: ``{messages, before}``."""
        query = asked.query(frozenset({"limit", "before"}))
        page = await conversations.history(
            self._services,
            asked.principal,
            conversation_id_of(asked),
            before=_offset(query, "before"),
            limit=read_limit(query),
        )
        return json_response(page.to_wire())

    async def events(self, asked: Asked) -> Response:
        """Follow a conversation: a stream of its events."""
        asked.query(frozenset())
        id_ = conversation_id_of(asked)
        resume = read_place(asked.request.headers.get("last-event-id"))
        if asked.request.method == "HEAD":
            return Response(None, 200, {"content-type": "text/event-stream"})
        return ConversationStream(self._services, self._streams, asked.principal, id_, resume)

    async def delete(self, asked: Asked) -> Response:
        """Delete a conversation with all that was said in it: 204."""
        asked.query(frozenset())
        await conversations.delete(self._services, asked.principal, conversation_id_of(asked))
        return Response(None, 204)

    async def _command(self, asked: Asked, kind: str, model: type[Body]) -> Command:
        asked.query(frozenset())
        conversation_id = conversation_id_of(asked)
        body: dict[str, Any] = (await asked.body(model)).model_dump(exclude_unset=True)
        return conversations.command(
            self._services, asked.principal, kind, conversation_id, body, asked.origin()
        )

    @staticmethod
    def _receipt(asked: Asked, command: Command, accepted: Accepted) -> Response:
        receipt = conversations.receipt(accepted, command, asked.principal)
        return json_response(receipt.to_wire(), 200 if receipt.ended else 202)


def conversation_id_of(asked: Asked) -> str:
    """Return the conversation id of the address. Raises Refused where there can be none of that name."""
    conversation_id = asked.path("conversation_id")
    if _ID.fullmatch(conversation_id) is None:
        raise Refused(
            ErrorCode.BAD_REQUEST,
            "conversation_id must be 1 to 64 characters out of A-Z a-z 0-9 . _ ~ -.",
            field="conversation_id",
        )
    return conversation_id


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise Refused(ErrorCode.BAD_REQUEST, f"{name} must be true or false.", field=name)
    return text == "true"


def _offset(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_NUMBER):
        raise Refused(ErrorCode.BAD_REQUEST, f"{name} must be an offset, 0 or more.", field=name)
    return int(text)
