"""What this client knows of the wire besides its state machine: names, limits, close codes, JSON.

Written out here instead of imported from the server: this package is installed without it. A test
compares these values with the repository's ``protocol/schema.json`` and golden vectors.
"""

import json
import math
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from .errors import InvalidFrame

SUBPROTOCOL: Final = "parley.v1"
CLIENT_NAME: Final = "parley-python"
VERSION: Final = "0.1.0"

PING_INTERVAL_S: Final = 25
"""Until ``welcome`` says otherwise."""
SILENCE_GRACE_S: Final = 10
GREETING_S: Final = 10
MAX_FRAME_BYTES: Final = 65_536
MAX_SERVER_FRAME_BYTES: Final = 1024 * 1024
"""The server keeps to 512 KiB; twice that, so that a bound moved there does not break this client."""
MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**53

CLOSE_NORMAL: Final = 1000
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_ABNORMAL: Final = 1006
CLOSE_SHUTDOWN: Final = 4001
CLOSE_TOKEN_EXPIRED: Final = 4002
CLOSE_NO_PONG: Final = 4004
CLOSE_STATE_LOST: Final = 4005
FINAL_STANDARD_CLOSES: Final = frozenset({1000, 1002, 1003, 1007, 1008, 1009})

TURN_EVENTS: Final = frozenset({"turn.completed", "turn.failed"})


def may_reconnect(close_code: int) -> bool:
    """Tell whether to reconnect after ``close_code``: the range is the policy (close codes)."""
    if 4500 <= close_code <= 4999:
        return False
    return close_code not in FINAL_STANDARD_CLOSES


def socket_url(url: str) -> str:
    """Return the WebSocket URL of a server given as ``http(s)://`` or ``ws(s)://``, with or without the path.

    Raises:
        ValueError: another scheme, no host, or credentials, query or fragment in it: tokens never
            travel in URLs, which land in logs.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at only when it is asked for
    except ValueError:
        raise ValueError(f"the URL must look like http://host:port, not {url!r}") from None
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError(f"the URL must look like http://host:port, not {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL must hold no credentials, query or fragment; give the token as `token`")
    path = parts.path.rstrip("/")
    if not path.endswith("/v1/ws"):
        path += "/v1/ws"
    return urlunsplit((scheme, parts.netloc, path, "", ""))


def rest_url(socket: str) -> str:
    """Return the address of the REST side, ``http(s)://.../v1``, beside a ``socket_url``."""
    return ("http" + socket.removeprefix("ws")).removesuffix("/ws")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode(frame: dict[str, Any]) -> str:
    """Return the JSON text of a frame.

    Raises:
        InvalidFrame: NaN, Infinity, a lone surrogate, or what JSON does not have.
    """
    try:
        text = _ENCODER.encode(frame)
        text.encode()
    except UnicodeEncodeError:
        raise InvalidFrame("text holds a lone surrogate, which UTF-8 cannot carry") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidFrame(f"this cannot be written as JSON: {error}") from None
    return text


def check_json(value: Any, field: str, depth: int) -> None:
    """Refuse here what the server would refuse as a whole frame, which it could not even answer by id.

    Args:
        value: what the caller wants to send.
        field: its dotted path, for the message.
        depth: how deep in the frame it stands (the frame itself is 1).

    Raises:
        InvalidFrame: deeper than 32, or a number that not every JSON reader keeps.
    """
    if isinstance(value, dict | list | tuple):
        if depth > MAX_DEPTH:
            raise InvalidFrame(f"{field} is nested deeper than {MAX_DEPTH} levels", field=field)
        for item in value.values() if isinstance(value, dict) else value:
            check_json(item, field, depth + 1)
    elif isinstance(value, int | float) and not (abs(value) <= MAX_INTEGER and math.isfinite(value)):
        raise InvalidFrame(f"{field} holds a number beyond ±2**53; send it as text", field=field)


def without_token(text: str) -> str:
    """Return a frame's text with its token struck out, for logs and recorders."""
    frame = json.loads(text)
    return _ENCODER.encode({**frame, "token": "***"} if "token" in frame else frame)
