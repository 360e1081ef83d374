"""What a client knows of one conversation: the server's snapshot with the later events folded in."""

from collections.abc import Mapping
from typing import Any, Final

from .records import Message, Pending, Snapshot, State, items, mapping

Json = Any

MAX_MESSAGES: Final = 1000
"""Older ones are dropped; ``before`` moves, so that ``history`` goes on where this ends."""

_ENDED: Final = frozenset({"completed", "failed", "cancelled", "expired"})


class Mirror:
    """Folds snapshots and events, without I/O. Typed records are made when somebody looks."""

    def __init__(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self.clear()

    def clear(self) -> None:
        """Know nothing."""
        self._epoch: str | None = None
        self._offset = 0
        self._state: dict[str, Json] | None = None
        self._messages: dict[str, Mapping[str, Json]] = {}
        self._pending: dict[str, Mapping[str, Json]] = {}
        self._before: int | None = None
        self._typed: tuple[Message, ...] | None = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """The newest messages, oldest first."""
        if self._typed is None:
            self._typed = tuple(Message.from_wire(raw) for raw in self._messages.values())
        return self._typed

    @property
    def pending(self) -> tuple[Pending, ...]:
        """The open requests to a person, oldest first."""
        return tuple(Pending.from_wire(raw) for raw in self._pending.values())

    def snapshot(self, partials: Mapping[str, str]) -> Snapshot:
        """Return all that is known, as typed records."""
        state = None
        if self._state is not None:
            record = {**self._state, "epoch": self._epoch, "offset": self._offset}
            state = State.from_wire({**record, "pending": list(self._pending.values())})
        return Snapshot(
            conversation_id=self.conversation_id,
            epoch=self._epoch,
            offset=self._offset,
            state=state,
            messages=self.messages,
            before=self._before,
            pending=self.pending,
            partials=dict(partials),
        )

    def replace(self, frame: Mapping[str, Json]) -> None:
        """Take a ``snapshot`` frame."""
        self.clear()
        self._epoch, self._offset = frame.get("epoch"), frame.get("offset") or 0
        state = frame.get("state")
        self._state = dict(state) if isinstance(state, dict) else None
        self._before = frame.get("before")
        for raw in items(frame.get("messages")):
            self._add_message(raw)
        for raw in items(frame.get("pending")):
            self._pending[str(raw.get("pending_id"))] = raw

    def apply(self, epoch: str, to: int, events: list[Mapping[str, Json]]) -> None:
        """Fold the events of an ``events`` frame, which the session has found to be next."""
        self._epoch, self._offset = epoch, to
        for event in events:
            self._fold(event)

    def _fold(self, event: Mapping[str, Json]) -> None:
        kind, data = str(event.get("type", "")), mapping(event.get("data"))
        if self._state is None:
            self._state = {"conversation_id": self.conversation_id, "created_at": event.get("time")}
        state = self._state
        state["last_activity"] = event.get("time")
        if kind in ("message.received", "message.completed"):
            state["message_count"] = (state.get("message_count") or 0) + 1
            self._add_message(data)
        elif kind in ("turn.completed", "turn.failed"):
            state["current_state"] = data.get("current_state")
        elif kind == "slots.updated":
            state["slots"] = _merged(state.get("slots"), data.get("slots"))
        elif kind == "variables.updated":
            state["variables"] = _merged(state.get("variables"), data.get("variables"))
        elif kind.startswith("execution."):
            self._fold_execution(state, event, data)
        elif kind in ("clarification.requested", "acceptance.requested"):
            self._pending[str(data.get("pending_id"))] = data
        elif kind in ("pending.resolved", "pending.expired"):
            self._pending.pop(str(data.get("pending_id")), None)
        elif kind == "conversation.created":
            state.update(user_id=data.get("user_id"), channel=data.get("channel"))
        elif kind == "conversation.reset":
            self._reset(state)
        elif kind == "message.retracted":
            self._messages.pop(str(data.get("message_id")), None)
            self._typed = None

    def _fold_execution(
        self, state: dict[str, Json], event: Mapping[str, Json], data: Mapping[str, Json]
    ) -> None:
        status = str(data.get("status"))
        flow = {name: data.get(name) for name in ("flow_id", "flow_version")}
        if event.get("type") == "execution.started":
            state.update(variables={}, completed_steps=[])
        elif any(state.get(name) != value for name, value in flow.items()):
            state["variables"] = {}  # it went over to another flow
        state.update(flow, status=status)
        if status.startswith("waiting_") and event.get("step_id"):
            state["current_state"] = event["step_id"]  # no turn may end here: a timer's run
        if status in _ENDED:
            state["current_state"] = "idle"
            self._pending.clear()
            return
        # a question that a message answers ends without an event; what the flow waits for now is told
        self._pending = {name: raw for name, raw in self._pending.items() if raw.get("kind") != "input"}
        for raw in items(data.get("pending")):
            self._pending[str(raw.get("pending_id"))] = raw

    def _reset(self, state: dict[str, Json]) -> None:
        state.update(slots={}, variables={}, status="idle", current_state="idle", completed_steps=[])
        state.update(flow_id=None, flow_version=None)
        self._pending.clear()
        self._messages.clear()
        self._before = None  # history begins after a reset
        self._typed = None

    def _add_message(self, raw: Mapping[str, Json]) -> None:
        self._messages[str(raw.get("message_id"))] = raw
        self._typed = None
        if len(self._messages) > MAX_MESSAGES:
            del self._messages[next(iter(self._messages))]
            oldest = next(iter(self._messages.values()))
            self._before = oldest.get("offset", self._before)


def _merged(old: Json, new: Json) -> dict[str, Json]:
    """Return ``old`` with what ``new`` names; a null clears."""
    merged = {**mapping(old), **mapping(new)}
    return {name: value for name, value in merged.items() if value is not None}
