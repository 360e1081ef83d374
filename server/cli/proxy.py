"""What stands between clients and a server, looked at from a client's side: ``parley doctor --url URL``."""

import asyncio
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from ssl import SSLError
from typing import Final

from protocol.frames import SUBPROTOCOL
from server.cli.target import Target, Unanswered
from storage.inspection import Finding, clocks, is_local

ANSWER_S: Final = 5.0
DATE_EXACT_TO_S: Final = 2.0
"""The header has whole seconds, and servers make it anew once a second."""
_UPGRADE_FIX: Final = (
    "Have the proxy pass Upgrade and Connection on, over HTTP/1.1, as deploy/nginx/nginx.conf does."
)


def findings(target: Target) -> Iterator[Finding]:
    """Yield what is found; where nobody answers, nothing else can be looked at."""
    try:
        reply = target.get("/livez", timeout_s=ANSWER_S)
    except Unanswered as error:
        yield _unanswered(error)
        return
    if reply.status != 200:
        fix = "Start the server, or correct what the proxy passes requests to."
        yield Finding("problem", "url", f"/livez answers {reply.status}", fix)
        return
    yield Finding("ok", "url", "/livez answers")
    yield _encryption(target)
    yield _metrics(target)
    if date := reply.headers.get("date"):
        told_s = parsedate_to_datetime(date).timestamp()
        yield clocks("url clock", told_s, time.time(), exact_to_s=DATE_EXACT_TO_S)
    yield asyncio.run(_upgrade(target))


def _unanswered(error: Unanswered) -> Finding:
    if isinstance(error.__cause__, SSLError):
        fix = "Give the proxy a certificate for this name, of a CA that clients trust, and its whole chain."
        return Finding("problem", "url", f"its TLS is not accepted ({error})", fix)
    return Finding("problem", "url", f"nobody answers ({error})", "Start server and proxy, or correct --url.")


def _encryption(target: Target) -> Finding:
    if target.is_secure or is_local(target.host):
        return Finding("ok", "url encryption", "TLS" if target.is_secure else "on this machine")
    fix = "Have the proxy end TLS, and give clients https:// and wss:// only."
    return Finding("warning", "url encryption", "others can read tokens and messages on the way", fix)


def _metrics(target: Target) -> Finding:
    try:
        published = target.get("/metrics", timeout_s=ANSWER_S).status == 200
    except Unanswered:
        published = False
    if published and not is_local(target.host):
        fix = "Have the proxy answer 404 there; Prometheus asks each instance itself."
        return Finding("warning", "url metrics", "everybody can read /metrics", fix)
    return Finding("ok", "url metrics", "on this machine" if published else "not published")


async def _upgrade(target: Target) -> Finding:
    """Open a socket and say nothing: a proxy that does not pass the upgrade on shows at the handshake."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus, WebSocketException

    try:
        async with connect(
            target.socket,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            open_timeout=ANSWER_S,
            close_timeout=ANSWER_S,
        ) as socket:
            agreed = socket.subprotocol == SUBPROTOCOL
    except InvalidStatus as error:
        told = f"a socket is refused with status {error.response.status_code}"
        return Finding("problem", "url upgrade", told, _UPGRADE_FIX)
    except (OSError, TimeoutError, WebSocketException) as error:
        return Finding("problem", "url upgrade", f"a socket cannot be opened ({error})", _UPGRADE_FIX)
    if not agreed:
        fix = "Have the proxy pass Sec-WebSocket-Protocol on, both ways."
        return Finding("problem", "url upgrade", f"the socket does not speak {SUBPROTOCOL}", fix)
    return Finding("ok", "url upgrade", f"a socket opens and speaks {SUBPROTOCOL}")
