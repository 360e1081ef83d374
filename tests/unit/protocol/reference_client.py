"""The client rules of the protocol page as a plain model, to hold the client vectors against.

Written from protocol/vectors/README.md. It owns one conversation, ``c1``. It is no SDK: no time but
what a step says, no ids but counters.
"""

from dataclasses import dataclass, field
from typing import Any

from protocol.errors import may_reconnect
from protocol.frames import SERVER_FRAME

CONVERSATION = "c1"
SILENCE_MS = 35_000
Action = dict[str, Any]


@dataclass
class Outcome:
    """What one step led to."""

    cursor: list[Any] = field(default_factory=list)
    dispatched: list[int] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)


class ReferenceClient:
    """One conversation's client."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.epoch = given["epoch"]
        self.offset = given["cursor"]
        self.connected = given.get("connected", True)
        self.in_flight = given.get("in_flight")
        self.unsettled = list(given.get("accepted", []))
        self.queue = list(given.get("queued", []))
        self.resuming = False
        self.next_index: dict[str, int] = {}
        self.finished_messages: set[str] = set()
        self.out = Outcome()

    def step(self, step: dict[str, Any]) -> Outcome:
        self.out = Outcome()
        match step:
            case {"receive": frame}:
                self.receive(frame)
            case {"open": True}:
                self.do("hello", resume=None if self.epoch is None else [self.epoch, self.offset])
            case {"close": code}:
                self.closed(code)
            case {"send": key}:
                self.queue.append(key)
                self.send_next()
            case {"silence_ms": silence}:
                if silence > SILENCE_MS:
                    self.do("close")
                    self.closed(1006)
            case _:
                raise AssertionError(f"unknown input in {step}")
        self.out.cursor = [self.epoch, self.offset]
        return self.out

    def do(self, name: str, **fields: Any) -> None:
        self.out.actions.append({"do": name, **fields})

    # --- frames ----------------------------------------------------------------------------------

    def receive(self, frame: dict[str, Any]) -> None:
        if frame.get("conversation_id", CONVERSATION) != CONVERSATION and frame["type"] != "welcome":
            return
        match frame["type"]:
            case "events":
                self.events(frame)
            case "snapshot":
                self.snapshot(frame)
            case "message.delta":
                self.delta(frame)
            case "ping":
                self.do("pong")
                if frame["offsets"].get(CONVERSATION, 0) > self.offset:
                    self.resume()
            case "welcome":
                self.connected = True
                if self.in_flight:
                    self.do("command", key=self.in_flight)
                self.send_next()
            case "ack" | "error":
                self.answer(frame)
            case "unsubscribed":
                self.forget(frame["code"])
            case "auth.required":
                self.do("refresh_token")
            case "typing" | "disconnect":
                pass
            case unknown:
                assert "future" in unknown

    def events(self, frame: dict[str, Any]) -> None:
        first, last = frame["from"], frame["to"]
        if self.epoch is None and first == 1:
            self.epoch = frame["epoch"]
        if frame["epoch"] != self.epoch or first > self.offset + 1:
            self.resume()
            return
        seen, self.offset = self.offset, max(self.offset, last)
        for event in frame["events"]:
            if event["offset"] > seen:
                self.event(event)

    def event(self, event: dict[str, Any]) -> None:
        self.out.dispatched.append(event["offset"])
        data = event["data"]
        match event["type"]:
            case "turn.completed":
                self.settle(event["command_id"], "completed")
            case "turn.failed":
                self.settle(event["command_id"], "failed", code=data["error"]["code"])
            case "message.completed" | "message.retracted":
                self.finished_messages.add(data["message_id"])

    def snapshot(self, frame: dict[str, Any]) -> None:
        SERVER_FRAME.validate_python({**frame, "state": None})
        self.epoch, self.offset = frame["epoch"], frame["offset"]
        self.next_index = {partial["message_id"]: partial["next_index"] for partial in frame["partials"]}
        self.resuming = False
        self.do("snapshot")
        if self.epoch is None:
            self.forget("conversation_not_found")

    def delta(self, frame: dict[str, Any]) -> None:
        message_id = frame["message_id"]
        if message_id in self.finished_messages or frame["index"] != self.next_index.get(message_id, 0):
            return
        self.next_index[message_id] = frame["index"] + 1
        self.do("delta", message_id=message_id, text=frame["delta"])

    def resume(self) -> None:
        if not self.resuming:
            self.resuming = True
            self.do("resume", resume=[self.epoch, self.offset])

    # --- commands --------------------------------------------------------------------------------

    def send_next(self) -> None:
        if self.connected and self.in_flight is None and self.queue:
            self.in_flight = self.queue.pop(0)
            self.do("command", key=self.in_flight)

    def answer(self, frame: dict[str, Any]) -> None:
        if frame["id"] == "$resume":
            self.resuming = False
            if frame["type"] == "error":
                self.forget(frame["error"]["code"])
            return
        if self.in_flight is None or frame["id"] != f"$command:{self.in_flight}":
            return
        key = self.in_flight
        if frame["type"] == "error" and frame["error"]["temporary"]:
            self.do("retry", key=key, after_ms=frame["error"]["retry_after_ms"])
            return
        self.in_flight = None
        self.unsettled.append(key)
        if frame["type"] == "error":
            self.settle(key, "refused", code=frame["error"]["code"])
        elif frame["result"] is not None:
            failed = frame["status"] == "failed"
            code = {"code": frame["result"]["error"]["code"]} if failed else {}
            self.settle(key, frame["status"], **code)
        self.send_next()

    def settle(self, key: str | None, outcome: str, **fields: Any) -> None:
        if key == self.in_flight and key is not None:
            self.in_flight = None
        elif key in self.unsettled:
            self.unsettled.remove(key)
        else:
            return
        self.do("settle", key=key, outcome=outcome, **fields)

    # --- connection ------------------------------------------------------------------------------

    def closed(self, code: int) -> None:
        self.connected = self.resuming = False
        if code == 4005:
            self.epoch, self.offset = None, 0
        if code == 4002:
            self.do("refresh_token")
        self.do("reconnect" if may_reconnect(code) else "stop")

    def forget(self, code: str) -> None:
        self.epoch, self.offset, self.resuming = None, 0, False
        self.do("forget")
        waiting = [self.in_flight, *self.queue] if self.in_flight else list(self.queue)
        self.in_flight, self.queue = None, []
        for key in waiting:
            self.do("settle", key=key, outcome="refused", code=code)
