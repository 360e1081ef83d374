"""The floor in this stack: orjson, pydantic's discriminated union, one reply, nothing kept."""

import orjson
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.serve import arguments, serve
from protocol.frames import CLIENT_FRAME


async def echo(socket: WebSocket) -> None:
    """Answer each client frame with an ``ack`` that carries its content."""
    await socket.accept(subprotocol="parley.v1")
    try:
        while True:
            frame = CLIENT_FRAME.validate_python(orjson.loads(await socket.receive_text()))
            ack = {
                "type": "ack",
                "id": frame.id,
                "duplicate": False,
                "command_id": frame.idempotency_key,
                "status": "completed",
                "execution_id": None,
                "epoch": None,
                "offset": None,
                "result": {"text": frame.content.text},
            }
            await socket.send_text(orjson.dumps(ack).decode())
    except WebSocketDisconnect:
        return


if __name__ == "__main__":
    serve(Starlette(routes=[WebSocketRoute("/v1/ws", echo)]), arguments()[0])
