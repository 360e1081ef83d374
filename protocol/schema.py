"""Writes ``schema.json``: the wire as JSON Schema, from which SDK types are generated.

``python -m protocol.schema`` writes the file, ``--check`` exits 1 when it is out of date.

One document; every model stands once in ``$defs``. The sections::

    client_frames   what a client may send: closed, validated (unknown fields are refused)
    server_frames   what the server sends: open, every field always present
    events          one entry an event type; ``events.unknown`` is what any other looks like
    results         ``ack.result`` by the frame it answers
    error_codes     code -> {http, temporary}
    close_codes     code -> {name, reconnect}; ``close_code_ranges`` is the policy for all others
"""

import json
import sys
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from protocol.errors import ERRORS, FINAL_STANDARD_CLOSES, CloseCode, may_reconnect
from protocol.events import DEFAULT_AUDIENCE, EVENT_DATA, EventType, TurnCompletedData, TurnFailedData
from protocol.frames import SUBPROTOCOL, ClientFrame, EventRecord, ServerFrame
from protocol.records import HistoryResult, StateRecord, SubscribeResult

SCHEMA_PATH: Final = Path(__file__).with_name("schema.json")

_MODES: Final[dict[str, JsonSchemaMode]] = {"in": "validation", "out": "serialization"}
_COMMANDS: Final = ("process", "reset", "acceptance", "clarification", "cancel")


class _Untitled(GenerateJsonSchema):
    """Leaves titles off fields: type generators would make a named type of every one of them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> dict[str, Any]:
    """Return the whole document."""
    client = _members(ClientFrame)
    server = _members(ServerFrame)
    events = {event_type: _event_model(event_type) for event_type in EventType}
    results = (SubscribeResult, HistoryResult, StateRecord, TurnCompletedData, TurnFailedData)
    outgoing: list[type[BaseModel]] = [*server, EventRecord, *events.values(), *results]
    refs, definitions = models_json_schema(
        [(model, _MODES["in"]) for model in client] + [(model, _MODES["out"]) for model in outgoing],
        ref_template="#/$defs/{model}",
        schema_generator=_Untitled,
    )

    def ref(model: type[BaseModel], direction: str = "out") -> dict[str, Any]:
        return refs[(model, _MODES[direction])]

    turn_data = {"anyOf": [ref(TurnCompletedData), ref(TurnFailedData), {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Wire protocol {SUBPROTOCOL}",
        "description": "Written by `python -m protocol.schema`; do not edit.",
        "protocol": SUBPROTOCOL,
        "client_frames": _union({_tag(model): ref(model, "in") for model in client}),
        "server_frames": _union({_tag(model): ref(model) for model in server}),
        "events": {
            "known": _union({event_type.value: ref(model) for event_type, model in events.items()}),
            "unknown": ref(EventRecord),
            "audience": {event_type.value: DEFAULT_AUDIENCE[event_type] for event_type in EventType},
        },
        "results": {
            "subscribe": ref(SubscribeResult),
            "history": ref(HistoryResult),
            "state": ref(StateRecord),
            **dict.fromkeys(_COMMANDS, turn_data),
        },
        "error_codes": {
            code.value: {"http": spec.http_status, "temporary": spec.temporary}
            for code, spec in ERRORS.items()
        },
        "close_codes": {
            str(code.value): {"name": code.name.lower(), "reconnect": may_reconnect(code)}
            for code in CloseCode
        },
        "close_code_ranges": {
            "final": sorted(FINAL_STANDARD_CLOSES),
            "reconnect": [4000, 4499],
            "do_not_reconnect": [4500, 4999],
            "any_other_reconnects": True,
        },
        "$defs": definitions["$defs"],
    }


def render() -> str:
    """Return the document as it stands in the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str], path: Path = SCHEMA_PATH) -> int:
    """Write ``path``, or with ``--check`` compare it; return the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m protocol.schema [--check]", file=sys.stderr)  # noqa: T201
        return 2
    current = render()
    if not arguments:
        path.write_text(current, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == current:
        return 0
    print("protocol/schema.json is out of date: run python -m protocol.schema", file=sys.stderr)  # noqa: T201
    return 1


def _members(union: Any) -> tuple[type[BaseModel], ...]:
    members: tuple[type[BaseModel], ...] = get_args(get_args(union)[0])
    return members


def _tag(model: type[BaseModel]) -> str:
    tag: str = get_args(model.model_fields["type"].annotation)[0]
    return tag


def _union(members: dict[str, dict[str, Any]]) -> dict[str, Any]:
    mapping = {tag: ref["$ref"] for tag, ref in members.items()}
    return {
        "oneOf": list(members.values()),
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }


def _event_model(event_type: EventType) -> type[BaseModel]:
    """Return the event record narrowed to one type and its data."""
    narrowed: dict[str, Any] = {
        "type": (Literal[event_type.value], ...),
        "data": (EVENT_DATA[event_type], ...),
    }
    name = "".join(word.capitalize() for word in event_type.value.split(".")) + "Event"
    doc = f"The event ``{event_type.value}``."
    model: type[BaseModel] = create_model(name, __base__=EventRecord, __doc__=doc, **narrowed)
    return model


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
