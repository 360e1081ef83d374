"""The socket as an AsyncAPI 3 document: the frames of ``schema.py``, who sends which, and what answers it."""

import json
from typing import Any, Final

from protocol.frames import SUBPROTOCOL
from protocol.schema import schema

CHANNEL: Final = "socket"
UNANSWERED: Final = frozenset({"typing", "pong"})
DESCRIPTION: Final = (
    "One authenticated WebSocket: one JSON object a text frame. `hello` comes first and is answered by "
    "`welcome`; every other client frame with an `id` by exactly one `ack` or `error`. Clients ignore what "
    "they do not know."
)


def document(version: str) -> dict[str, Any]:
    """Return the document; the server is the application, so it receives what clients send."""
    wire = schema()
    client, server = _frames(wire["client_frames"]), _frames(wire["server_frames"])
    sends = sorted(set(server) - {"welcome", "ack", "error"})
    names = [*(_name("client", tag) for tag in client), *(_name("server", tag) for tag in server)]
    operations: dict[str, Any] = {}
    for tag in client:
        operations[f"receive.{tag}"] = _receive(tag)
    for tag in sends:
        operations[f"send.{tag}"] = {
            "action": "send", "channel": _channel(), "messages": [_message(_name("server", tag))],
        }  # fmt: skip
    made: dict[str, Any] = _with_components(
        {
            "asyncapi": "3.0.0",
            "info": {"title": f"Parley {SUBPROTOCOL}", "version": version, "description": DESCRIPTION},
            "defaultContentType": "application/json",
            "channels": {
                CHANNEL: {
                    "address": "/v1/ws",
                    "description": f"Subprotocol {SUBPROTOCOL}; the token comes in hello, never in the URL.",
                    "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
                    "bindings": {"ws": {"method": "GET"}},
                }
            },
            "operations": operations,
            "components": {
                "messages": {
                    **{_name("client", tag): _payload(tag, ref) for tag, ref in client.items()},
                    **{_name("server", tag): _payload(tag, ref) for tag, ref in server.items()},
                },
                "schemas": wire["$defs"],
            },
        }
    )
    return made


def render(version: str) -> str:
    """Return the document as text."""
    return json.dumps(document(version), indent=2, ensure_ascii=False) + "\n"


def _frames(union: dict[str, Any]) -> dict[str, str]:
    return dict(union["discriminator"]["mapping"])


def _name(side: str, tag: str) -> str:
    return f"{side}.{tag}"


def _channel() -> dict[str, str]:
    return {"$ref": f"#/channels/{CHANNEL}"}


def _message(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{CHANNEL}/messages/{name}"}


def _payload(tag: str, ref: str) -> dict[str, Any]:
    return {"name": tag, "payload": {"$ref": ref}}


def _receive(tag: str) -> dict[str, Any]:
    operation = {
        "action": "receive", "channel": _channel(), "messages": [_message(_name("client", tag))],
    }  # fmt: skip
    if tag not in UNANSWERED:
        answers = ["welcome" if tag == "hello" else "ack", "error"]
        operation["reply"] = {
            "channel": _channel(), "messages": [_message(_name("server", answer)) for answer in answers],
        }  # fmt: skip
    return operation


def _with_components(value: Any) -> Any:
    """Return ``value`` with its references to ``$defs`` turned to ``components/schemas``."""
    if isinstance(value, dict):
        return {
            key: _there(item) if key == "$ref" and isinstance(item, str) else _with_components(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_components(item) for item in value]
    return value


def _there(ref: str) -> str:
    return ref.replace("#/$defs/", "#/components/schemas/")
