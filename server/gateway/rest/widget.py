"""The chat widget's files: ``/widget.js``, which any page may load, and the parts that it loads itself.

The launcher's address stays, so browsers ask again after some minutes (``ETag``). The parts, ``chat-HASH.js``
and ``words-HASH.js``, have the hash of their contents in their names and may be kept for ever. While versions
change, a launcher from a cache or from another instance may ask for a name that is not here: it gets the
present part, not to be kept, and the two understand each other (``clients/widget/src/host.ts``).
"""

import gzip
import hashlib
import json
from functools import cached_property
from importlib.resources import files
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

LAUNCHER_AGE_S: Final = 300
PART_AGE_S: Final = 365 * 24 * 3600
_HEADERS: Final = {
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "vary": "accept-encoding",
}


class _Script:
    """A script, compressed for the first browser and kept for all; its ``ETag`` differs with the encoding."""

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self.tag = hashlib.sha256(plain).hexdigest()[:32]

    @cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.plain, 9, mtime=0)

    def answer(self, request: Request, cache_control: str) -> Response:
        packed = _takes_gzip(request.headers)
        etag = f'"{self.tag}{"-gzip" if packed else ""}"'
        headers = {**_HEADERS, "etag": etag, "cache-control": cache_control}
        if is_known(etag, request.headers.getlist("if-none-match")):
            return Response(None, 304, headers)
        if packed:
            headers["content-encoding"] = "gzip"
        headers["content-type"] = "text/javascript; charset=utf-8"
        return Response(self.packed if packed else self.plain, 200, headers)


class WidgetRoutes:
    """The routes of this module. The files are read once."""

    def __init__(self) -> None:
        folder = files("server.widget")
        self._names: dict[str, str] = json.loads((folder / "files.json").read_text("utf-8"))["parts"]
        self._launcher = _Script((folder / "widget.js").read_bytes())
        self._parts = {part: _Script((folder / name).read_bytes()) for part, name in self._names.items()}

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/widget.js", self.launcher, methods=["GET"]),
            Route("/widget/{part}-{hash}.js", self.part, methods=["GET"]),
        ]

    async def launcher(self, request: Request) -> Response:
        """Answer with the script that a page names."""
        return self._launcher.answer(request, f"public, max-age={LAUNCHER_AGE_S}")

    async def part(self, request: Request) -> Response:
        """Answer with a part, by its own name or another version's."""
        part: str = request.path_params["part"]
        if part not in self._parts:
            raise HTTPException(404)
        kept = request.scope["path"] == f"/widget/{self._names[part]}"
        age = f"public, max-age={PART_AGE_S}, immutable" if kept else "no-cache"
        return self._parts[part].answer(request, age)


def is_known(etag: str, given: list[str]) -> bool:
    """Compare weakly, as RFC 9110, 13.1.2 wants it: a proxy that compressed the body says ``W/``."""
    tags = {tag.strip().removeprefix("W/") for line in given for tag in line.split(",")}
    return etag in tags or "*" in tags


def _takes_gzip(headers: Headers) -> bool:
    """Tell whether gzip is among the accepted encodings, and not with the weight 0 (RFC 9110, 12.5.3)."""
    for each in headers.get("accept-encoding", "").split(","):
        coding, _, weight = each.partition(";")
        if coding.strip().lower() in {"gzip", "x-gzip"}:
            return weight.replace(" ", "").lower() not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
