"""schema.json is current, is JSON Schema, and says the same as the models and vectors."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from protocol import schema
from protocol.errors import ERRORS, CloseCode, ErrorCode, may_reconnect
from protocol.events import DEFAULT_AUDIENCE, EVENT_DATA, EventType
from protocol.frames import CLIENT_FRAME_TYPES
from tests.unit.protocol.wire import load

DOCUMENT: dict[str, Any] = json.loads(schema.SCHEMA_PATH.read_text(encoding="utf-8"))


@cache
def validator(pointer: str) -> Any:
    return jsonschema_rs.validator_for({**DOCUMENT, "$ref": pointer})


def is_valid(pointer: str, value: Any) -> bool:
    return bool(validator(pointer).is_valid(value))


def test_the_committed_file_is_current() -> None:
    assert schema.main(["--check"]) == 0, "run python -m protocol.schema"


def test_check_tells_a_stale_or_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "schema.json"
    assert schema.main(["--check"], path) == 1
    assert schema.main([], path) == 0
    assert schema.main(["--check"], path) == 0
    path.write_text(path.read_text(encoding="utf-8").replace('"hello"', '"hallo"'), encoding="utf-8")
    assert schema.main(["--check"], path) == 1
    assert "python -m protocol.schema" in capsys.readouterr().err


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--chek"]) == 2
    assert "--check" in capsys.readouterr().err


def test_it_is_json_schema() -> None:
    jsonschema_rs.meta.validate(DOCUMENT)


def test_every_reference_leads_somewhere() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/$defs/") in DOCUMENT["$defs"]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(DOCUMENT)


def test_all_client_frames_are_there_and_closed() -> None:
    mapping = DOCUMENT["client_frames"]["discriminator"]["mapping"]
    assert set(mapping) == CLIENT_FRAME_TYPES
    for ref in mapping.values():
        assert DOCUMENT["$defs"][ref.removeprefix("#/$defs/")]["additionalProperties"] is False


def test_all_server_frames_are_there_open_and_complete() -> None:
    mapping = DOCUMENT["server_frames"]["discriminator"]["mapping"]
    assert len(mapping) == 11
    for ref in mapping.values():
        definition = DOCUMENT["$defs"][ref.removeprefix("#/$defs/")]
        assert definition["additionalProperties"] is True
        assert set(definition["required"]) == set(definition["properties"])


@pytest.mark.parametrize("case", load("decoding.json", "client_frames"), ids=lambda case: str(case["name"]))
def test_the_schema_agrees_with_the_decoding_vectors(case: dict[str, Any]) -> None:
    if "frame" in case["expect"]:
        assert is_valid("#/client_frames", case["expect"]["frame"])
    elif "error" in case["expect"] and "json" in case and "type" in case["json"]:
        by_schema_too = case["expect"]["error"]["code"] == "unknown_type" or case["name"].startswith(
            "an unknown field"
        )
        assert not by_schema_too or not is_valid("#/client_frames", case["json"])


@pytest.mark.parametrize("case", load("decoding.json", "server_frames"), ids=lambda case: str(case["name"]))
def test_the_schema_agrees_with_the_server_frame_vectors(case: dict[str, Any]) -> None:
    assert is_valid("#/server_frames", case["json"]) is ("type" in case["expect"])


def test_the_client_vectors_receive_what_the_schema_allows() -> None:
    """A snapshot's state is shortened there; everything else is whole."""
    for case in load("client_cursor.json"):
        for step in case["steps"]:
            frame = step.get("receive")
            if frame is None or "future" in frame["type"]:
                continue
            if frame["type"] == "snapshot":
                frame = {**frame, "state": None}
            assert is_valid("#/server_frames", frame), (case["name"], frame)
            for event in frame.get("events", []):
                known = event["type"] in DOCUMENT["events"]["audience"]
                assert not known or is_valid("#/events/known", event), (case["name"], event)


def test_every_event_type_has_data_an_audience_and_an_entry() -> None:
    assert set(EVENT_DATA) == set(DEFAULT_AUDIENCE) == set(EventType)
    assert set(DOCUMENT["events"]["known"]["discriminator"]["mapping"]) == {
        event.value for event in EventType
    }
    assert DOCUMENT["events"]["audience"] == {event.value: DEFAULT_AUDIENCE[event] for event in EventType}


def test_an_event_of_the_future_is_an_unknown_event() -> None:
    event = {
        "type": "from.the.future", "offset": 1, "time": "2026-01-01T00:00:00.000Z", "execution_id": None,
        "step_id": None, "command_id": None, "cause": None, "data": {},
    }  # fmt: skip
    assert not is_valid("#/events/known", event)
    assert is_valid("#/events/unknown", event)


def test_error_and_close_codes_are_the_tables_of_the_code() -> None:
    assert DOCUMENT["error_codes"] == {
        code.value: {"http": ERRORS[code].http_status, "temporary": ERRORS[code].temporary}
        for code in ErrorCode
    }
    assert {int(code): entry["reconnect"] for code, entry in DOCUMENT["close_codes"].items()} == {
        code.value: may_reconnect(code) for code in CloseCode
    }
