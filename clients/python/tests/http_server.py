"""A small HTTP server on a real socket that answers what a test tells it to, and keeps what it was asked."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

Json = Any


class Asked(NamedTuple):
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json


class Reply(NamedTuple):
    """What is answered; ``body`` as JSON unless it is bytes; status 0 cuts the connection instead."""

    status: int
    body: Json
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class HttpServer:
    """Use it as ``with HttpServer() as server``; replies come in the order in which they were given."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.replies: list[Reply | Callable[[Asked], Reply]] = []

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer._answer(self)

            do_GET = do_POST = answer  # noqa: N815 - names of the standard library

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        body = json.loads(handler.rfile.read(length)) if length else None
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers, body)
        self.asked.append(asked)
        reply = self.replies.pop(0)
        status, content, more = reply(asked) if callable(reply) else reply
        if status == 0:
            handler.close_connection = True
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **more}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
