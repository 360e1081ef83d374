"""uvicorn and nothing else: a plain ASGI function that accepts a socket and waits for its end."""

from collections.abc import Awaitable, Callable
from typing import Any

from bench.peers.serve import arguments, serve


async def accept(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Accept and hold; answer HTTP with nothing, so that the start can be seen."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "parley.v1"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


if __name__ == "__main__":
    serve(accept, arguments()[0])
