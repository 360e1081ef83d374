"""The golden vectors hold: against the server's codec and session, and among themselves."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from protocol.codec import CodecLimits, decode
from protocol.errors import ErrorCode, InvalidFrame, Refused, may_reconnect
from protocol.frames import SERVER_FRAME, ServerFrame
from protocol.session import Action, Close, Handle, Reply, SendPing, Session, SessionLimits, error_frame
from tests.unit.protocol.reference_client import ReferenceClient
from tests.unit.protocol.wire import load, wire_input

Case = dict[str, Any]


def named(file_name: str, section: str = "cases") -> Any:
    return [pytest.param(case, id=case["name"]) for case in load(file_name, section)]


def test_there_are_vectors_enough() -> None:
    counts = {
        "decoding": len(load("decoding.json", "client_frames")) + len(load("decoding.json", "server_frames")),
        "session": len(load("session.json")),
        "client": len(load("client_cursor.json")),
        "closes": len(load("close_codes.json")),
    }
    assert sum(counts.values()) >= 150
    assert min(counts.values()) >= 30


@pytest.mark.parametrize("case", named("decoding.json", "client_frames"))
def test_client_frame_is_decoded_as_its_vector_says(case: Case) -> None:
    data = wire_input(case)
    assert data is not None
    limits = CodecLimits(**case.get("limits", {}))
    expect = case["expect"]
    if "error" not in expect:
        frame = decode(data, limits)
        assert expect.get("accepted") or frame.model_dump() == expect["frame"]
        return
    with pytest.raises(InvalidFrame) as caught:
        decode(data, limits)
    error, wanted = caught.value, expect["error"]
    assert (error.code.value, error.field, error.frame_id) == (wanted["code"], wanted["field"], wanted["id"])
    assert wanted.get("suggests", "") in (error.suggestion or "")


@pytest.mark.parametrize("case", named("decoding.json", "server_frames"))
def test_server_frame_vector_matches_the_models(case: Case) -> None:
    known = {option.model_fields["type"].default for option in _server_models()}
    frame = case["json"]
    if "ignored" in case["expect"]:
        assert frame["type"] not in known
    else:
        assert SERVER_FRAME.validate_python(frame).type == case["expect"]["type"]


def _server_models() -> Iterator[Any]:
    yield from get_args(get_args(ServerFrame)[0])


@pytest.mark.parametrize("case", named("close_codes.json"))
def test_close_code_reconnects_as_its_vector_says(case: Case) -> None:
    assert may_reconnect(case["code"]) is case["reconnect"]


@pytest.mark.parametrize("case", named("client_cursor.json"))
def test_client_vector_is_what_the_rules_say(case: Case) -> None:
    """The server has no client; a small model of the rules shows that the vectors agree with each other."""
    client = ReferenceClient(case["given"])
    for number, step in enumerate(case["steps"]):
        outcome = client.step(step)
        expect = step["expect"]
        assert outcome.cursor == expect["cursor"], number
        assert outcome.dispatched == expect.get("dispatched", []), number
        assert by_name(outcome.actions) == by_name(expect.get("actions", [])), number


def by_name(actions: list[Case]) -> list[Case]:
    return sorted(actions, key=lambda action: str(action["do"]))


@pytest.mark.parametrize("case", named("session.json"))
def test_session_does_what_its_vector_says(case: Case) -> None:
    limits = case.get("limits", {})
    codec = {name: limits[name] for name in ("max_frame_bytes", "message_max_chars") if name in limits}
    rest = {name: value for name, value in limits.items() if name not in codec}
    session = Session(SessionLimits(codec=CodecLimits(**codec), **rest), 0)
    for step in case["steps"]:
        actions = perform(session, step)
        expected = [item for item in step["out"] for _ in range(item.get("times", 1))]
        assert len(actions) == len(expected), (step["at_ms"], actions)
        for action, wanted in zip(actions, expected, strict=True):
            assert_action(action, wanted)


def perform(session: Session, step: Case) -> list[Action]:
    now = step["at_ms"]
    data = wire_input(step)
    if data is not None:
        return [action for _ in range(step.get("times", 1)) for action in session.receive_text(data, now)]
    if "binary" in step:
        return session.receive_binary(now)
    if "tick" in step:
        return session.tick(now)
    if "answered" in step:
        session.answered(step["answered"])
        return []
    if "refused" in step:
        return session.hello_refused(Refused(ErrorCode(step["refused"]), "refused"))
    report = step.get("welcomed") or step["renewed"]
    identity = (report["tenant_id"], report["user_id"])
    if "welcomed" in step:
        return session.authenticated(identity, report["expires_at_ms"], now)
    try:
        session.renewed(identity, report["expires_at_ms"])
    except Refused as error:
        return [Reply(error_frame("a", error))]
    return []


def assert_action(action: Action, wanted: Case) -> None:
    match action:
        case Handle(frame):
            assert {"handle": frame.type, "id": getattr(frame, "id", None)} == {
                key: wanted.get(key) for key in ("handle", "id")
            }
        case Reply({"type": "error"} as frame):
            body = {**frame["error"], "id": frame["id"]}
            assert {key: body[key] for key in wanted["error"]} == wanted["error"]
        case Reply(frame):
            assert {frame["type"]: frame["expires_in"]} == wanted
        case SendPing():
            assert wanted == {"ping": True}
        case Close(code, reason):
            assert wanted == {"close": code}
            assert 0 < len(reason.encode()) <= 123
