"""python-socketio as its documentation shows it: an event handler whose return value acknowledges."""

from typing import Any

import socketio  # type: ignore[import-untyped]  # it ships no types

from bench.peers.serve import arguments, serve

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


@server.event  # type: ignore[untyped-decorator]  # the same
async def process(_sid: str, data: dict[str, Any]) -> dict[str, Any]:
    """Acknowledge with what came."""
    return data


if __name__ == "__main__":
    serve(socketio.ASGIApp(server), arguments()[0])
