"""Somebody's site: pages of another origin than the server's, with a policy as strict as can be."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self' {server}; connect-src {server} {socket}; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types {types}"
)
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>A shop</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<script type="module" src="{server}/widget.js"></script></head>
<body><main><h1>A shop</h1><p><a href="/other">Other things</a></p></main>{tag}</body>
</html>
"""


class Site:
    """Serves pages on a free port of this machine until the block ends.

    Whatever it serves is under a strict policy with Trusted Types.

    Args:
        server: the address of a Parley server.
        types: which policies of Trusted Types a page may make.
    """

    def __init__(self, server: str = "", types: str = "'none'") -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = server
        self._types = types
        self._files: dict[str, tuple[str, bytes]] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def page(self, name: str, tag: str) -> str:
        """Put a page with this tag at ``/NAME``; returns its address. Its script is the server's of then."""
        return self.file(name, PAGE.replace("{tag}", tag).encode(), KINDS[".html"])

    def file(self, name: str, body: bytes, kind: str) -> str:
        """Put a file at ``/NAME``; returns its address."""
        self._files[f"/{name}"] = (kind, body)
        return f"{self.url}/{name}"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        kind, body = self._files.get(request.path.partition("?")[0], ("text/plain", b""))
        if kind.startswith("text/html"):
            body = body.replace(b"{server}", self.server.encode())
        headers: Mapping[str, str] = {
            "content-type": kind,
            "content-length": str(len(body)),
            "content-security-policy": POLICY.format(
                server=self.server, socket=self.server.replace("http", "ws"), types=self._types
            ),
            "cache-control": "no-store",
        }
        request.send_response(200)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def friend(self) -> str:
        """Return the host of the server, which its pages ask."""
        return urlsplit(self.server).netloc

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
