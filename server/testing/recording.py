"""Writes a chat down as a test, from its events, without what a slot marks as personal.

The values of slots with ``pii: true`` are replaced by stand-ins of their type wherever they are said. What
the user typed to fill such a slot is replaced as a whole where the value does not stand in it word for word.
"""

import datetime
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML

from server.engine.flow.model import Flow, Slot
from server.testing.words import Words

Event = Mapping[str, Any]

STAND_INS: Final[Mapping[str, Any]] = {
    "email": "masked@example.com",
    "phone": "+12025550123",
    "url": "https://example.com/masked",
    "number": 1,
    "integer": 1,
    "boolean": True,
    "date": "2030-01-08",
    "time": "10:00",
    "datetime": "2030-01-08T10:00:00.000Z",
    "list": ["masked"],
}
MASKED: Final = "masked"
_OWN_TIME: Final = frozenset({"deadline", "timer", "timeout", "session"})
_HEAD: Final = """\
# A recorded chat. Slots marked pii: true are masked by stand-ins; look through it before you keep it.
"""
_NO_INSIGHT: Final = """\
# Who recorded it may not see which actions ran: write stubs for them (actions: ...).
"""


@dataclass(slots=True)
class _Turn:
    """The events that one command brought about, or the passing of time."""

    command: str | None
    events: list[Event] = field(default_factory=list)


def record(
    name: str,
    events: Sequence[Event],
    flows: Sequence[Flow],
    *,
    owner: str | None = None,
    timezone: str | None = None,
    locale: str | None = None,
) -> dict[str, Any]:
    """Return a conversation as a test: ``name``, ``now``, ``actions`` and ``conversation``.

    Args:
        name: of the test.
        events: all of the conversation, oldest first, each as it comes over the wire: with ``type``,
            ``time`` (ISO 8601), ``step_id``, ``command_id``, ``cause`` and ``data``.
        flows: those that ran in it, for the slots that they mark and the places where actions save.
        owner: whose conversation it is, where the events do not begin with its beginning.
        timezone: the conversation's, where it is known.
        locale: likewise.
    """
    where = {"timezone": timezone, "locale": locale}
    return _Recording(events, flows, owner).test(name, {key: value for key, value in where.items() if value})


def as_yaml(tests: Sequence[Mapping[str, Any]], *, insight: bool) -> str:
    """Return recorded tests as a test file; without ``insight`` it says that stubs are missing."""
    out = io.StringIO()
    yaml = YAML()
    yaml.width = 100
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump({"tests": list(tests)}, out)
    return _HEAD + ("" if insight else _NO_INSIGHT) + out.getvalue()


def has_insight(events: Sequence[Event]) -> bool:
    """Tell whether whoever saw these events may see the inner workings."""
    return any(str(event["type"]).startswith("step.") for event in events)


class _Recording:
    def __init__(self, events: Sequence[Event], flows: Sequence[Flow], owner: str | None) -> None:
        self.events = list(events)
        self.flows = flows
        self.private = {s.name: s for flow in flows for s in flow.slots.values() if s.pii}
        self.mask = _Mask(self.private, self.events)
        self.owner = owner or next(
            (e["data"]["user_id"] for e in self.events if e["type"] == "conversation.created"), None
        )
        self.people: dict[str, str] = {}
        self.waited_ms = 0

    def test(self, name: str, where: Mapping[str, str]) -> dict[str, Any]:
        lines = [line for turn in self._turns() for line in self._lines(turn)]
        test: dict[str, Any] = {"name": name}
        if self.events:
            test["now"] = self.events[0]["time"]
        test |= where
        if self.people:
            test["users"] = {name: {"role": "operator"} for name in self.people.values()}
        stubs = self._stubs()
        if stubs:
            test["actions"] = stubs
        return {**test, "conversation": lines}

    # --- turns ------------------------------------------------------------------------------------

    def _turns(self) -> Iterator[_Turn]:
        """Yield the events in groups: those of a command together, whatever came between them."""
        turns: list[_Turn] = []
        by_command: dict[str, _Turn] = {}
        for event in self.events:
            command = event["command_id"]
            if command is not None and event["cause"] not in _OWN_TIME:
                turn = by_command.get(command)
                if turn is None:
                    turn = by_command[command] = _Turn(command)
                    turns.append(turn)
            else:
                if not turns or turns[-1].command is not None:
                    turns.append(_Turn(None))
                turn = turns[-1]
            turn.events.append(event)
        yield from turns

    def _lines(self, turn: _Turn) -> Iterator[dict[str, Any]]:
        doing = self._waited(turn) if turn.command is None else self._done(turn)
        if doing is not None:
            yield {**doing, **self._brought(turn)}

    def _waited(self, turn: _Turn) -> dict[str, Any] | None:
        """Return the wait that lets as much time pass since the beginning; what was due then is due."""
        passed_ms = _ms(turn.events[-1]["time"]) - _ms(self.events[0]["time"]) - self.waited_ms
        seconds = max(0, -(-passed_ms // 1000))
        self.waited_ms += seconds * 1000
        return {"wait": f"{seconds}s"} if seconds else None

    def _done(self, turn: _Turn) -> dict[str, Any] | None:
        first = {event["type"]: event for event in reversed(turn.events)}
        if (said := first.get("message.received")) is not None:
            return self._message(said, turn)
        if (reset := first.get("conversation.reset")) is not None:
            return {"reset": reset["data"].get("reason")}
        if (decided := first.get("pending.resolved")) is not None:
            return self._decision(decided["data"])
        if "execution.cancelled" in first:
            return {"cancel": None}
        return None

    def _message(self, event: Event, turn: _Turn) -> dict[str, Any]:
        data = event["data"]
        said = self._by(data.get("user_id"))
        if data.get("text") is None:
            return {"press": self.mask.text(data.get("payload") or ""), **said}
        text = self.mask.said(data["text"], event, turn.events)
        payload = {"payload": self.mask.text(data["payload"])} if data.get("payload") else {}
        return {"user": text, **payload, **said}

    def _decision(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        decided = data.get("decided") or {}
        said = self._by(decided.get("by"))
        if data["kind"] == "clarification":
            return {"answer": self.mask.value(decided.get("answers") or {}), **said}
        if data["kind"] != "acceptance":
            return None
        kind = "accept" if decided.get("accepted") else "reject"
        edits = {
            name: self.mask.slot(name.removeprefix("slots."), value)
            for name, value in (decided.get("edits") or {}).items()
        }
        comment = decided.get("comment")
        return {
            kind: self.mask.text(comment) if comment else None,
            **said,
            **({"edits": edits} if edits else {}),
        }

    def _by(self, user_id: str | None) -> dict[str, str]:
        """Say who it was; names are made up, since ids may be somebody's address."""
        if user_id is None or user_id == self.owner:
            return {}
        return {"as": self.people.setdefault(user_id, f"person_{len(self.people) + 1}")}

    # --- what came of it --------------------------------------------------------------------------

    def _brought(self, turn: _Turn) -> dict[str, Any]:
        found: dict[str, Any] = {}
        replies = [e["data"] for e in turn.events if e["type"] == "message.completed"]
        texts = [self.mask.text(reply["text"] or "") for reply in replies]
        found["reply"] = texts[0] if len(texts) == 1 else texts
        if replies and replies[-1].get("buttons"):
            found["buttons"] = [self.mask.text(button["title"]) for button in replies[-1]["buttons"]]
        slots: dict[str, Any] = {}
        for event in turn.events:
            if event["type"] == "slots.updated":
                slots |= event["data"].get("slots") or {}
            elif event["type"] == "turn.failed":
                found["fails"] = event["data"]["error"]["code"]
            elif str(event["type"]).startswith("execution.") and event["data"].get("status"):
                found["status"] = event["data"]["status"]
                if event["type"] == "execution.completed" and event["data"].get("output") is not None:
                    found["output"] = _exactly(self.mask.value(event["data"]["output"]))
        if slots:
            found["slots"] = {name: _exactly(self.mask.slot(name, value)) for name, value in slots.items()}
        if found.get("status") == "running" or any(e["type"] == "conversation.reset" for e in turn.events):
            found.pop("status", None)
        return found

    # --- actions ----------------------------------------------------------------------------------

    def _stubs(self) -> dict[str, list[dict[str, Any]]]:
        stubs: dict[str, list[dict[str, Any]]] = {}
        for place, event in enumerate(self.events):
            if event["type"] == "action.performed":
                stub = self._stub(event, self.events[place + 1 :])
                stubs.setdefault(event["data"]["name"], []).append(stub)
        return {name: self._shorter(found) for name, found in stubs.items()}

    def _shorter(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave out equal stubs at the end: the last one answers all that follow."""
        while len(found) > 1 and found[-1] == found[-2]:
            found.pop()
        return found

    def _stub(self, event: Event, later: Sequence[Event]) -> dict[str, Any]:
        """Return the result as it was saved; the log does not have it otherwise."""
        name, step_id = event["data"]["name"], event["step_id"]
        if event["data"].get("success") is False:
            return {"fails": _reason(step_id, later)}
        path = self._saves_to(name, step_id)
        for other in later:
            if path is None or other["type"] in ("action.performed", "step.completed", "step.failed"):
                break
            values = other["data"].get(path[0]) or {} if other["type"] == f"{path[0]}.updated" else {}
            if path[1] in values:
                value = values[path[1]]
                return {
                    "returns": self.mask.slot(path[1], value)
                    if path[0] == "slots"
                    else self.mask.value(value)
                }
        return {"returns": None}

    def _saves_to(self, action: str, step_id: str | None) -> tuple[str, ...] | None:
        for flow in self.flows:
            step = flow.step(step_id) if step_id is not None and step_id in flow.index else None
            asked = getattr(getattr(step, "on_unknown", None), "reconcile", None)
            if step is not None and action in (getattr(step, "name", None), asked):
                return step.common.save
        return None


def _reason(step_id: str | None, later: Sequence[Event]) -> str:
    for event in later:
        if event["step_id"] == step_id and event["type"] in ("step.failed", "step.retrying"):
            details = (event["data"].get("error") or {}).get("details") or {}
            return str(details.get("reason") or "error")
    return "error"


def _exactly(value: Any) -> Any:
    return {"equals": value} if isinstance(value, Mapping | list) else value


def _ms(time: str) -> int:
    return round(datetime.datetime.fromisoformat(time).timestamp() * 1000)


class _Mask:
    """Replaces what is personal. A value that a private slot had anywhere in the chat is so everywhere."""

    def __init__(self, private: Mapping[str, Slot], events: Sequence[Event]) -> None:
        self.private = private
        self.words = Words(MASKED)
        self.asked: dict[int, str | None] = {}
        open_slot: str | None = None
        for event in events:
            self.asked[id(event)] = open_slot
            if event["type"] == "slots.updated":
                for name, value in (event["data"].get("slots") or {}).items():
                    self._learn(name, value)
            if event["type"] == "pending.resolved":
                for name, value in ((event["data"].get("decided") or {}).get("edits") or {}).items():
                    self._learn(name.removeprefix("slots."), value)
            if event["type"] == "execution.waiting":
                questions = [q["id"] for p in event["data"].get("pending") or [] for q in p["questions"]]
                open_slot = next((name for name in questions if name in private), None)

    def _learn(self, name: str, value: Any) -> None:
        if name not in self.private or value is None:
            return
        stand_in = self.stand_in(name)
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str):
                self.words.add(word, stand_in if isinstance(stand_in, str) else MASKED)
            elif isinstance(word, int | float) and not isinstance(word, bool):
                self.words.add(str(word), str(stand_in))

    def stand_in(self, name: str) -> Any:
        """Return what stands for a private slot's value: one of its type."""
        slot = self.private[name]
        return slot.options[0] if slot.options else STAND_INS.get(slot.type, MASKED)

    def slot(self, name: str, value: Any) -> Any:
        """Return a slot's value as it may be written down."""
        return self.stand_in(name) if name in self.private and value is not None else self.value(value)

    def text(self, text: str) -> str:
        """Return a text without any private value."""
        return self.words.replace(text)

    def value(self, value: Any) -> Any:
        """Return any JSON without any private value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self.words:
            return 1
        return value

    def said(self, text: str, event: Event, turn: Sequence[Event]) -> str:
        """Return what somebody said; all of it is replaced where its words for a private value differ."""
        filled = [
            name
            for other in turn
            if other["type"] == "slots.updated"
            for name, value in (other["data"].get("slots") or {}).items()
            if name in self.private and value is not None
        ]
        masked = self.text(text)
        for name in filled:
            if str(self.stand_in(name)).lower() not in masked.lower():
                return str(self.stand_in(name))
        if self.asked[id(event)] is not None and not filled:
            return MASKED  # a failed try to fill a private slot is as private
        return masked
