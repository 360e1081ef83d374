"""python-socketio on several processes, as its documentation shows it: a Redis manager and a room."""

import os
from typing import Any

import socketio  # type: ignore[import-untyped]  # it ships no types

from bench.peers.serve import arguments, serve

ROOM = "bench"

server = socketio.AsyncServer(
    async_mode="asgi",
    cors_allowed_origins="*",
    client_manager=socketio.AsyncRedisManager(os.environ["BENCH_REDIS_URL"]),
)


@server.event  # type: ignore[untyped-decorator]  # the same
async def connect(sid: str, _environ: dict[str, Any], auth: dict[str, Any] | None = None) -> None:
    """Put everybody but the speaker into the room."""
    if not auth:
        await server.enter_room(sid, ROOM)


@server.event  # type: ignore[untyped-decorator]  # the same
async def process(_sid: str, data: dict[str, Any]) -> bool:
    """Tell the room what came, at whatever instance it is."""
    await server.emit("message", data, room=ROOM)
    return True


if __name__ == "__main__":
    serve(socketio.ASGIApp(server), arguments()[0])
