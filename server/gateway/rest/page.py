"""The chat page of ``dev``: ``/`` and what it needs below ``/page/``.

Its files are read once. A browser keeps them and asks each time whether they have changed (``ETag``), so
that a server of another version is never met with an old page.

Beside them ``/page/problems`` tells what is wrong with the flows in the folder, in the lines of the
terminal, to whoever sits at this machine. The page asks every two seconds: it is one person's, and a stream
would have to be bounded, counted and drained.
"""

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from importlib.resources import files
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.errors import ErrorCode, Refused
from server.gateway.rest.envelope import json_response
from server.gateway.rest.local import is_local
from server.gateway.rest.widget import is_known

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def page_routes(flow_errors: Callable[[], Sequence[str]]) -> list[Route]:
    """Return the routes, one a file: what is no file of the page does not exist.

    Args:
        flow_errors: what keeps flows of the folder from being used, a line each; empty where nothing does.
    """
    routes = [Route("/page/problems", _telling(flow_errors), methods=["GET"])]
    for file in files("server.page").iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            routes.append(Route(path, _serving(file.read_bytes(), kind), methods=["GET"]))
    return routes


def _serving(body: bytes, kind: str) -> _Handler:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "etag": etag,
        "cache-control": "no-cache",
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "cross-origin-resource-policy": "same-origin",
    }

    async def serve(request: Request) -> Response:
        if is_known(etag, request.headers.getlist("if-none-match")):
            return Response(None, 304, headers)
        return Response(body, 200, {**headers, "content-type": kind})

    return serve


def _telling(flow_errors: Callable[[], Sequence[str]]) -> _Handler:
    async def tell(request: Request) -> Response:
        if not is_local(request):
            raise Refused(ErrorCode.PERMISSION_DENIED, "Problems of flows are told on this machine only.")
        answer = json_response({"problems": list(flow_errors())})
        answer.headers["cross-origin-resource-policy"] = "same-origin"
        return answer

    return tell
