"""``/v1/flows/{id}/start`` and ``/v1/executions``: runs of flows, and what can be done to them."""

from starlette.responses import Response
from starlette.routing import Route

from server.gateway.rest.api import Api, Asked, Endpoint, arguments
from server.gateway.rest.bodies import (
    AcceptanceBody,
    Body,
    CancelBody,
    ClarificationBody,
    PauseBody,
    ResumeBody,
    RetryBody,
    SignalBody,
    StartBody,
)
from server.gateway.rest.envelope import json_response
from server.gateway.rest.filters import EXECUTION_STATUSES, FILTERS, read_filter
from server.gateway.rest.pages import PAGE_PARAMETERS, cursor_of, read_cursor, read_limit
from server.handlers import executions
from server.handlers.executions import Decision, Receipt
from storage.listing import ListPlace


class ExecutionRoutes:
    """The routes of this module."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._services = api.services

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = self._api.route
        one = "/v1/executions/{execution_id}"
        return [
            route("/v1/flows/{flow_id}/start", POST=self.start),
            route("/v1/executions", GET=self.list_),
            route(one, GET=self.show),
            route(f"{one}/acceptance", POST=self._decision("acceptance", AcceptanceBody)),
            route(f"{one}/clarification", POST=self._decision("clarification", ClarificationBody)),
            route(f"{one}/pause", POST=self._command("pause", PauseBody)),
            route(f"{one}/resume", POST=self._command("resume", ResumeBody)),
            route(f"{one}/cancel", POST=self._command("cancel", CancelBody)),
            route(f"{one}/retry", POST=self._command("retry", RetryBody)),
            route(f"{one}/signal", POST=self._command("signal", SignalBody)),
        ]

    async def start(self, asked: Asked) -> Response:
        """Start a flow: 202 ``{execution_id, conversation_id, correlation_id}``."""
        body = await asked.body(StartBody)
        started = await executions.start_flow(
            self._services, asked.principal, asked.path("flow_id"), arguments(body), asked.origin()
        )
        return json_response(
            {
                "execution_id": started.execution_id,
                "conversation_id": started.conversation_id,
                "correlation_id": started.correlation_id,
            },
            202,
        )

    async def list_(self, asked: Asked) -> Response:
        """List current executions, the most lately active first: ``{executions, cursor}``."""
        query = asked.query(FILTERS | PAGE_PARAMETERS)
        wanted = read_filter(query, EXECUTION_STATUSES)
        place, limit = read_cursor(query), read_limit(query)
        after = None if place is None else ListPlace(*place)
        views, behind = await executions.list_executions(
            self._services, asked.principal, wanted, after=after, limit=limit
        )
        return json_response({"executions": views, "cursor": cursor_of(behind)})

    async def show(self, asked: Asked) -> Response:
        """Show one execution."""
        asked.query(frozenset())
        return json_response(
            await executions.show_execution(self._services, asked.principal, asked.path("execution_id"))
        )

    def _decision(self, kind: Decision, model: type[Body]) -> Endpoint:
        async def decide(asked: Asked) -> Response:
            body = arguments(await asked.body(model))
            return _receipt(
                await executions.decide_execution(
                    self._services, asked.principal, kind, asked.path("execution_id"), body, asked.origin()
                )
            )

        return decide

    def _command(self, kind: str, model: type[Body]) -> Endpoint:
        async def command(asked: Asked) -> Response:
            body = arguments(await asked.body(model))
            return _receipt(
                await executions.command_execution(
                    self._services, asked.principal, kind, asked.path("execution_id"), body, asked.origin()
                )
            )

        return command


def _receipt(receipt: Receipt) -> Response:
    """Answer 200 where the turn has ended, 202 where it goes on or waits."""
    return json_response(receipt.to_wire(), 200 if receipt.ended else 202)
