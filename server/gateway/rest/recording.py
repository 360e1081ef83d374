"""``GET /v1/conversations/{id}/recording``, in development only: a conversation as a test of its flow."""

from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from server.engine.catalog import Catalog
from server.gateway.rest.api import Api, Asked
from server.gateway.rest.conversations import ONE, conversation_id_of
from server.gateway.rest.operations import YAML
from server.handlers.recording import recorded

PATH: Final = f"{ONE}/recording"


class RecordingRoutes:
    """The route of this module.

    Args:
        api: makes the route.
        catalog: has the flows, which say what is personal.
    """

    def __init__(self, api: Api, catalog: Catalog) -> None:
        self._api = api
        self._catalog = catalog

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [self._api.route(PATH, GET=self.recording)]

    async def recording(self, asked: Asked) -> Response:
        """Write a conversation down: 200 with a test file."""
        asked.query(frozenset())
        text = await recorded(self._api.services, self._catalog, asked.principal, conversation_id_of(asked))
        saved_as = {"content-disposition": 'attachment; filename="recorded.yaml"'}
        return Response(text, 200, saved_as, YAML)
