"""The golden vectors of the protocol, run against this client's state machine."""

import json
from pathlib import Path
from typing import Any

import pytest
from parley_client import _wire
from parley_client._outputs import (
    Close,
    Complaint,
    Delta,
    Detached,
    Dispatch,
    NeedToken,
    Offline,
    Output,
    Refusal,
    Replace,
    Retry,
    Send,
    Settled,
)
from parley_client._session import Session

ROOT = Path(__file__).resolve().parents[3]
VECTORS = ROOT / "protocol" / "vectors"
CHAT = "c1"


def cases(name: str) -> list[Any]:
    path = VECTORS / name
    if not path.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"{path} is in the repository only"))]
    found = json.loads(path.read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in found]


class Client:
    """Drives a session through a case, and says what it did in the vectors' words."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.session = Session()
        self.now = 1_000_000
        self.sent: dict[str, str] = {}
        self.dispatched: list[int] = []
        self.actions: list[dict[str, Any]] = []
        self._prepare(given)

    def _prepare(self, given: dict[str, Any]) -> None:
        """Bring the session to the given state through its public surface alone."""
        epoch, cursor = given["epoch"], given["cursor"]
        resume = None if epoch is None else (epoch, cursor)
        self.perform(self.session.watch(CHAT, self.now, resume=resume))
        accepted, in_flight = given.get("accepted", []), given.get("in_flight")
        waiting = [key for key in (in_flight, *given.get("queued", [])) if key is not None]
        if given.get("connected", True) or accepted or in_flight:
            self._connect()
            for key in accepted:
                self.say(key)
                self.receive(_ack(f"$command:{key}", key))
            for key in waiting:
                self.say(key)
            if not given.get("connected", True):
                self.perform(self.session.closed(1006, "", self.now))
        else:
            for key in waiting:
                self.say(key)
        self.dispatched, self.actions = [], []

    def _connect(self) -> None:
        self.perform(self.session.opened("token", self.now))
        epoch, offset = self.session.cursor(CHAT)
        self.receive(_welcome(epoch, offset))

    def say(self, key: str) -> None:
        frame = {
            "type": "process",
            "conversation_id": CHAT,
            "idempotency_key": key,
            "content": {"type": "text", "text": "hi"},
        }
        self.perform(self.session.submit(frame, self.now))

    def receive(self, frame: dict[str, Any]) -> None:
        text = json.dumps(frame)
        for name, frame_id in self.sent.items():
            text = text.replace(json.dumps(name), json.dumps(frame_id))
        self.perform(self.session.receive(text, self.now))

    def step(self, step: dict[str, Any]) -> None:
        self.dispatched, self.actions = [], []
        inputs = step.keys() & {"receive", "open", "close", "send", "silence_ms"}
        assert len(inputs) == 1, f"unknown input in {step}"
        match inputs.pop():
            case "receive":
                self.receive(step["receive"])
            case "open":
                self.perform(self.session.opened("token", self.now))
            case "close":
                self.perform(self.session.closed(step["close"], "", self.now))
            case "send":
                self.say(step["send"])
            case "silence_ms":
                self.now += step["silence_ms"]
                self.perform(self.session.tick(self.now))

    def perform(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self._note_sent(json.loads(output.text))
                case Dispatch():
                    assert output.conversation_id == CHAT
                    self.dispatched += [event["offset"] for event in output.events]
                case Settled():
                    self.did("settle", key=output.key, **_outcome(output))
                case Refusal():
                    self.did("settle", key=output.key, outcome="refused", code=output.error["code"])
                case Retry():
                    self.did("retry", key=output.key, after_ms=output.after_ms)
                case Replace():
                    self.did("snapshot")
                case Delta():
                    self.did("delta", message_id=output.frame["message_id"], text=output.frame["delta"])
                case Detached():
                    self.did("forget" if output.forget else "detach")
                case NeedToken():
                    self.did("refresh_token")
                case Close():
                    self.did("close")
                    self.perform(self.session.closed(output.code, output.reason, self.now))
                case Offline():
                    if output.fresh_token:
                        self.did("refresh_token")
                    self.did("reconnect" if output.reconnect else "stop")
                case Complaint() | _:
                    pass

    def _note_sent(self, frame: dict[str, Any]) -> None:
        kind, resume = frame["type"], frame.get("resume")
        cursor = None if resume is None else [resume["epoch"], resume["offset"]]
        match kind:
            case "hello":
                assert frame["conversation_id"] == CHAT
                self.sent["$hello"] = frame["id"]
                self.did("hello", resume=cursor)
            case "subscribe":
                self.sent["$resume"] = frame["id"]
                self.did("resume", resume=cursor)
            case "process":
                self.sent[f"$command:{frame['idempotency_key']}"] = frame["id"]
                self.did("command", key=frame["idempotency_key"])
            case _:
                self.did(kind)

    def did(self, name: str, **more: Any) -> None:
        self.actions.append({"do": name, **more})


def _outcome(settled: Settled) -> dict[str, Any]:
    if settled.completed:
        return {"outcome": "completed"}
    return {"outcome": "failed", "code": settled.data["error"]["code"]}


def _welcome(epoch: str | None, offset: int) -> dict[str, Any]:
    limits = {"max_frame_bytes": 65536, "frames_per_second": 20}
    head = {"type": "welcome", "id": "$hello", "conversation_id": CHAT, "ping_interval": 25, "limits": limits}
    return {**head, "epoch": epoch, "offset": offset, "recovered": True}


def _ack(frame_id: str, key: str) -> dict[str, Any]:
    return {"type": "ack", "id": frame_id, "duplicate": False, "command_id": key, "status": "running",
            "execution_id": "x1", "epoch": "e1", "offset": 1, "result": None}  # fmt: skip


def _by_name(actions: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for action in actions:
        grouped.setdefault(action["do"], []).append(action)
    return grouped


@pytest.mark.parametrize("case", cases("client_cursor.json"))
def test_the_client_does_what_the_vector_says(case: dict[str, Any]) -> None:
    client = Client(case["given"])
    for number, step in enumerate(case["steps"]):
        client.step(step)
        where, expect = f"step {number}: {case['why']}", step["expect"]
        assert client.dispatched == expect.get("dispatched", []), where
        assert _by_name(client.actions) == _by_name(expect.get("actions", [])), where
        assert list(client.session.cursor(CHAT)) == expect["cursor"], where


@pytest.mark.parametrize("case", cases("close_codes.json"))
def test_a_close_code_is_followed_as_its_range_says(case: dict[str, Any]) -> None:
    client = Client({"epoch": "e1", "cursor": 5})
    outputs = client.session.closed(case["code"], "", client.now)
    offline = outputs[0]
    assert isinstance(offline, Offline)
    assert offline.reconnect is case["reconnect"] is _wire.may_reconnect(case["code"])
    assert offline.fresh_token is (case["then"] == "refresh_token")
    dropped = client.session.cursor(CHAT) == (None, 0)
    assert dropped is (case["then"] == "drop_cursor")


@pytest.mark.parametrize("name", ["decoding.json"])
def test_server_frames_are_accepted_or_ignored_as_the_vectors_say(name: str) -> None:
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"{path} is in the repository only")
    for case in json.loads(path.read_text())["server_frames"]:
        client = Client({"epoch": "e1", "cursor": 5})
        text = case.get("text", json.dumps(case.get("json")))
        client.perform(client.session.receive(text, client.now))
        assert client.session.online, case["name"]
