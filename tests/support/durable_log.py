"""What a conversation's log says, read from the store and understood without the server's help.

Filter, fold and wire form are written a second time here, from the design and not from the product's
code: a checker that used the server's own filter would agree with each of its mistakes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from storage.base import Store
from storage.models import Audience, Conversation, Event, EventBatch

TURN_ENDS: Final = frozenset({"turn.completed", "turn.failed"})
MESSAGES: Final = frozenset({"message.received", "message.completed"})
STATE_FIELDS: Final = (
    "conversation_id", "user_id", "channel", "created_at", "epoch", "offset", "status", "current_state",
    "flow_id", "flow_version", "slots", "variables", "pending", "completed_steps", "message_count",
)  # fmt: skip
"""What the fold of the events knows of the state record (``locale`` and ``last_activity`` it does not)."""

_SEES: Final[Mapping[Audience, frozenset[Audience]]] = {
    "owner": frozenset({"owner"}),
    "agent": frozenset({"owner", "agent"}),
    "full": frozenset({"owner", "agent", "full"}),
}
_ENDED: Final = frozenset({"completed", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Log:
    """One conversation: its record, and every batch of its epoch."""

    record: Conversation
    batches: tuple[EventBatch, ...]
    events: tuple[Event, ...] = field(init=False)
    by_key: Mapping[str, EventBatch] = field(init=False)
    """The batch that accepted each command."""
    turns: Mapping[str, Sequence[int]] = field(init=False)
    """Where in ``events`` those of each command are."""
    steps: Mapping[tuple[str | None, str | None], Sequence[Event]] = field(init=False)
    """The events of each (execution, step)."""

    def __post_init__(self) -> None:
        turns, steps = defaultdict[str, list[int]](list), defaultdict[Any, list[Event]](list)
        events = tuple(event for batch in self.batches for event in batch.events)
        for place, event in enumerate(events):
            steps[event.execution_id, event.step_id].append(event)
            if event.command_id is not None:
                turns[event.command_id].append(place)
        object.__setattr__(self, "events", events)
        object.__setattr__(self, "by_key", {b.key: b for b in self.batches if b.key is not None})
        object.__setattr__(self, "turns", dict(turns))
        object.__setattr__(self, "steps", dict(steps))

    @property
    def conversation_id(self) -> str:
        return self.record.conversation_id

    @property
    def epoch(self) -> str:
        return self.record.epoch

    @property
    def offset(self) -> int:
        return self.record.offset

    @classmethod
    async def read(cls, store: Store, tenant_id: str, conversation_id: str) -> Self | None:
        """Read record and log, page by page; None where there is no such conversation."""
        record = await store.load(tenant_id, conversation_id)
        if record is None:
            return None
        batches: list[EventBatch] = []
        while True:
            after = batches[-1].last_offset if batches else 0
            page = await store.events(tenant_id, conversation_id, record.epoch, after)
            if not page:
                return cls(record, tuple(batches))
            batches.extend(page)

    def turn_end(self, key: str) -> Event | None:
        """Return the first event that ends the turn of this command."""
        mine = (self.events[place] for place in self.turns.get(key, ()))
        return next((event for event in mine if event.type in TURN_ENDS), None)

    def shown(self, audience: Audience) -> dict[int, dict[str, Any]]:
        """Return every event that ``audience`` may see as it looks on the wire, by offset."""
        return {e.offset: wire_event(e, audience) for e in self.events if visible(e, audience)}

    def states(self, audience: Audience) -> Iterator[dict[str, Any]]:
        """Yield the state, as ``audience`` may see it, after each commit."""
        fold = Fold(self.conversation_id, self.epoch)
        for batch in self.batches:
            for event in batch.events:
                fold.take(event)
            yield fold.state(audience)


def visible(event: Event, audience: Audience) -> bool:
    """Slots are the owner's and the inspector's, never an agent's."""
    if event.type == "slots.updated" and audience == "agent":
        return False
    return event.audience in _SEES[audience]


def wire_event(event: Event, audience: Audience) -> dict[str, Any]:
    """Return a visible event as it looks on the wire."""
    data = dict(event.data)
    if event.type in TURN_ENDS and audience != "full":
        if "actions_performed" in data:
            data["actions_performed"] = []
        if audience == "agent" and "context_updates" in data:
            data["context_updates"] = {**data["context_updates"], "slots": {}}
    return {
        "type": event.type,
        "offset": event.offset,
        "time": wire_time(event.time),
        "execution_id": event.execution_id,
        "step_id": event.step_id,
        "command_id": event.command_id,
        "cause": event.cause,
        "data": data,
    }


def wire_time(ms: int) -> str:
    """Return milliseconds since the epoch as ISO 8601."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


class Fold:
    """The events are deltas: taking them one after the other gives the state ("Folding the events gives
    the state at any offset")."""

    def __init__(self, conversation_id: str, epoch: str) -> None:
        self._head: dict[str, Any] = {
            "conversation_id": conversation_id,
            "user_id": None,
            "channel": None,
            "created_at": None,
            "epoch": epoch,
            "offset": 0,
            "message_count": 0,
        }
        self._slots: dict[str, Any] = {}
        self._clear()

    def _clear(self) -> None:
        self._status, self._step = "idle", "idle"
        self._flow: tuple[str | None, int | None] = (None, None)
        self._variables: dict[str, Any] = {}
        self._exposed: set[str] = set()
        self._pending: list[Any] = []
        self._completed: list[str] = []

    def take(self, event: Event) -> None:
        """Take the next event."""
        self._head["offset"] = event.offset
        kind, data = event.type, event.data
        if kind in MESSAGES:
            self._head["message_count"] += 1
        if kind == "message.received" and self._status == "waiting_input" and data["role"] == "user":
            self._pending = self._requests()
        elif kind in ("acceptance.requested", "clarification.requested"):
            known = [request["pending_id"] for request in self._pending]
            if data["pending_id"] in known:  # a vote, or an answer, was counted
                self._pending[known.index(data["pending_id"])] = data
            else:
                self._pending.append(data)
        elif kind in ("pending.resolved", "pending.expired"):
            self._pending = [p for p in self._pending if p["pending_id"] != data["pending_id"]]
        elif kind == "conversation.created":
            self._head.update(
                user_id=data["user_id"], channel=data["channel"], created_at=wire_time(event.time)
            )
        elif kind == "conversation.reset":
            self._slots = {}
            self._clear()
        elif kind == "slots.updated":
            self._slots = _updated(self._slots, data["slots"])
        elif kind == "variables.updated":
            self._variables = {**self._variables, **data["variables"]}
            if event.audience == "owner":
                self._exposed |= set(data["variables"])
        elif kind.startswith("execution."):
            self._take_execution(event)
        elif kind in ("step.started", "step.skipped"):
            self._status, self._step = "running", str(event.step_id)
        elif kind == "step.completed" and event.step_id not in self._completed:
            self._completed.append(str(event.step_id))

    def _take_execution(self, event: Event) -> None:
        if event.type == "execution.started":
            self._clear()
        flow = (event.data["flow_id"], event.data["flow_version"])
        if flow != self._flow:  # it begins, or it went over to another flow: its variables begin anew
            self._flow, self._variables, self._exposed = flow, {}, set()
        self._status = event.data["status"]
        self._step = event.step_id or self._step
        self._pending = [*self._requests(), *event.data.get("pending", ())]

    def _requests(self) -> list[Any]:
        """Requests to people stay open beside what a form asks."""
        return [request for request in self._pending if request["kind"] != "input"]

    def state(self, audience: Audience) -> dict[str, Any]:
        """Return the state record's fields that events tell (``STATE_FIELDS``)."""
        names = self._variables if audience == "full" else self._exposed
        return {
            **self._head,
            "status": self._status,
            "current_state": "idle" if self._status in _ENDED else self._step,
            "flow_id": self._flow[0],
            "flow_version": self._flow[1],
            "slots": {} if audience == "agent" else dict(self._slots),
            "variables": {name: self._variables[name] for name in names},
            "pending": list(self._pending),
            "completed_steps": list(self._completed),
        }


def _updated(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Null clears a slot."""
    merged = {**old, **changes}
    return {name: value for name, value in merged.items() if value is not None}
