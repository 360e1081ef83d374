"""How every peer is served: the same server, loop and settings as Parley's own."""

import sys
from pathlib import Path
from typing import Any

import uvicorn


def arguments() -> tuple[int, Path]:
    """Return the port to listen on and the directory to keep files in."""
    return int(sys.argv[1]), Path(sys.argv[2])


def serve(app: Any, port: int) -> None:
    """Serve an ASGI application on loopback until the process is told to stop."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        access_log=False,
        log_level="critical",
        backlog=4096,
    )
