"""What this client wrote out for itself is what the protocol's schema says."""

import json
from pathlib import Path
from typing import Any

import pytest
from parley_client import _wire, errors, events
from parley_client._session import _HANDLERS

SCHEMA = Path(__file__).resolve().parents[3] / "protocol" / "schema.json"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    if not SCHEMA.exists():
        pytest.skip("protocol/schema.json is in the repository only")
    found: dict[str, Any] = json.loads(SCHEMA.read_text())
    return found


def test_every_server_frame_has_a_handler(schema: dict[str, Any]) -> None:
    assert set(_HANDLERS) == set(schema["server_frames"]["discriminator"]["mapping"])


def test_every_event_type_has_a_class(schema: dict[str, Any]) -> None:
    types = set(schema["events"]["known"]["discriminator"]["mapping"])
    assert {kind for kind in types if isinstance(_event(kind), events.UnknownEvent)} == set()
    assert isinstance(_event("from.the.future"), events.UnknownEvent)


def test_every_field_of_every_event_is_a_typed_field(schema: dict[str, Any]) -> None:
    """But for the turn's, whose parts are flattened."""
    for kind, reference in schema["events"]["known"]["discriminator"]["mapping"].items():
        data = _resolve(schema, _resolve(schema, {"$ref": reference})["properties"]["data"])
        cls = type(_event(kind))
        names = set(cls.__dataclass_fields__)
        if kind.startswith("turn.") or names & {"message", "pending"}:
            continue
        assert set(data["properties"]) - names == set(), kind


def test_every_error_code_has_a_class_and_says_rightly_whether_it_is_temporary(
    schema: dict[str, Any],
) -> None:
    for code, spec in schema["error_codes"].items():
        error = errors.error_from_wire({"code": code, "message": "m"})
        assert type(error) is not errors.Refused, code
        assert type(error).default_code == code
        assert type(error).default_temporary == spec["temporary"], code


def test_the_ranges_of_close_codes_are_the_protocols(schema: dict[str, Any]) -> None:
    ranges = schema["close_code_ranges"]
    assert set(ranges["final"]) == _wire.FINAL_STANDARD_CLOSES
    low, high = ranges["do_not_reconnect"]
    assert [code for code in range(4000, 5000) if not _wire.may_reconnect(code)] == list(range(low, high + 1))
    assert ranges["any_other_reconnects"]


def test_the_subprotocol_is_the_protocols(schema: dict[str, Any]) -> None:
    assert schema["protocol"] == _wire.SUBPROTOCOL


def _event(kind: str) -> events.Event:
    data = {"message_id": "m", "pending_id": "p", "name": "n", "error": {}}
    return events.parse_event("c1", {"type": kind, "offset": 1, "data": data})


def _resolve(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    return part
