"""What ``chat.send`` and ``chat.events`` yield: one frozen dataclass for each event type.

Events of the log have an ``offset``; ``data`` is what came over the wire, the other fields are its parts with
types. A type that this version does not know is an ``UnknownEvent``. Four more are no events of the log
and have no offset: ``MessageDelta``, ``TypingNotice``, ``SnapshotReplaced`` and ``SubscriptionEnded``.

``match`` reads well on them::

    match event:
        case events.MessageDelta(delta=piece):
            print(piece, end="")
        case events.MessageCompleted(message=message):
            print(message.text)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from .errors import ParleyError, Refused, error_from_wire
from .records import InboxItem, Message, Pending, Snapshot, items, mapping

__all__ = [
    "AcceptanceRequested",
    "ActionPerformed",
    "AnyEvent",
    "ClarificationRequested",
    "ConversationCreated",
    "ConversationReset",
    "Event",
    "ExecutionCancelled",
    "ExecutionCompleted",
    "ExecutionEvent",
    "ExecutionExpired",
    "ExecutionFailed",
    "ExecutionPaused",
    "ExecutionResumed",
    "ExecutionStarted",
    "ExecutionWaiting",
    "FlowCustom",
    "HandoffRequested",
    "InboxEvent",
    "InboxOpened",
    "InboxReady",
    "InboxSettled",
    "MessageCompleted",
    "MessageDelta",
    "MessageReceived",
    "MessageRetracted",
    "PendingExpired",
    "PendingResolved",
    "SlotsUpdated",
    "SnapshotReplaced",
    "StepCompleted",
    "StepEvent",
    "StepFailed",
    "StepRetrying",
    "StepSkipped",
    "StepStarted",
    "SubscriptionEnded",
    "TurnCompleted",
    "TurnFailed",
    "TypingNotice",
    "UnknownEvent",
    "VariablesUpdated",
    "parse_event",
]

Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of the log.

    Attributes:
        type: the event type on the wire.
        offset: its place in the conversation; None where an acknowledgement told the end of a turn whose
            events this client has not seen (they lie before a snapshot).
        time: ISO 8601; ``records.parse_time`` reads it.
        command_id: the idempotency key of the command that caused it, or None; then ``cause`` says what did.
    """

    wire_type: ClassVar[str] = ""

    conversation_id: str
    type: str
    offset: int | None
    time: str | None
    execution_id: str | None
    step_id: str | None
    command_id: str | None
    cause: str | None
    data: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event of a type that this version of the client does not know (or not in this shape)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCompleted(Event):
    """The turn of a command has ended well; the last event of ``chat.send``."""

    wire_type = "turn.completed"

    current_state: str
    messages: tuple[Message, ...]
    slots: Mapping[str, Json]
    variables: Mapping[str, Json]
    success: bool
    processing_time_ms: float | None
    ab_variant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFailed(Event):
    """The turn of a command has failed; the last event of ``chat.send`` then. ``error`` says why."""

    wire_type = "turn.failed"

    current_state: str
    messages: tuple[Message, ...]
    error: Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived(Event):
    """A person said something: the user or an agent."""

    wire_type = "message.received"

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCompleted(Event):
    """The flow said something; the whole text, also where pieces of it came before."""

    wire_type = "message.completed"

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRetracted(Event):
    """What was streamed under this id is void; it comes again under another one."""

    wire_type = "message.retracted"

    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsUpdated(Event):
    """These slots changed."""

    wire_type = "slots.updated"

    slots: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariablesUpdated(Event):
    """These variables changed."""

    wire_type = "variables.updated"

    variables: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClarificationRequested(Event):
    """The flow asks; answer with ``chat.answer(event.pending.pending_id, ...)``."""

    wire_type = "clarification.requested"

    pending: Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceRequested(Event):
    """The flow wants a decision: ``chat.accept`` or ``chat.reject``."""

    wire_type = "acceptance.requested"

    pending: Pending


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingResolved(Event):
    """An open request was answered."""

    wire_type = "pending.resolved"

    pending_id: str
    kind: str
    decided: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingExpired(Event):
    """An open request's deadline is over."""

    wire_type = "pending.expired"

    pending_id: str
    kind: str
    decided: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionEvent(Event):
    """What the ``execution.*`` events have in common."""

    status: str
    flow_id: str | None
    flow_version: int | None
    output: Json
    error: Mapping[str, Json] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionStarted(ExecutionEvent):
    """A flow has started."""

    wire_type = "execution.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionWaiting(ExecutionEvent):
    """The flow waits for somebody or something; ``status`` says for what."""

    wire_type = "execution.waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResumed(ExecutionEvent):
    """The flow goes on."""

    wire_type = "execution.resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionPaused(ExecutionEvent):
    """The flow is held; a person has the conversation."""

    wire_type = "execution.paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionCompleted(ExecutionEvent):
    """The flow is at its end."""

    wire_type = "execution.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFailed(ExecutionEvent):
    """The flow has failed."""

    wire_type = "execution.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionCancelled(ExecutionEvent):
    """The flow was cancelled."""

    wire_type = "execution.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionExpired(ExecutionEvent):
    """The flow's time was up."""

    wire_type = "execution.expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent(Event):
    """What the ``step.*`` events have in common; seen with the scope ``conversations:inspect`` only."""

    visit: int | None
    attempt: int | None
    error: Mapping[str, Json] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted(StepEvent):
    """A step has begun."""

    wire_type = "step.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted(StepEvent):
    """A step is done."""

    wire_type = "step.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed(StepEvent):
    """A step has failed."""

    wire_type = "step.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRetrying(StepEvent):
    """A step is tried again."""

    wire_type = "step.retrying"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSkipped(StepEvent):
    """A step was left out."""

    wire_type = "step.skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionPerformed(Event):
    """A side effect was done; seen with the scope ``conversations:inspect`` only."""

    wire_type = "action.performed"

    name: str
    effect: str
    duration_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffRequested(Event):
    """A person is asked to take over."""

    wire_type = "handoff.requested"

    to: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCreated(Event):
    """The first event of a conversation."""

    wire_type = "conversation.created"

    user_id: str | None
    channel: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationReset(Event):
    """The conversation begins afresh; what was said before is not shown any more."""

    wire_type = "conversation.reset"

    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowCustom(Event):
    """What the flow's ``emit`` step sends."""

    wire_type = "flow.custom"

    name: str
    payload: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDelta:
    """The next piece of a message that is being written; a hint. ``MessageCompleted`` holds the whole."""

    type: ClassVar[str] = "message.delta"

    conversation_id: str
    execution_id: str | None
    message_id: str
    index: int
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TypingNotice:
    """Somebody else in the conversation types, or has stopped."""

    type: ClassVar[str] = "typing"

    conversation_id: str
    user_id: str
    typing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReplaced:
    """Too much was missed to be replayed: ``snapshot`` replaces what was known.

    Comes when a watched conversation that exists is first seen, too.
    """

    type: ClassVar[str] = "snapshot"

    conversation_id: str
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionEnded:
    """The server ended the subscription (deleted, access lost); the last one of ``chat.events``."""

    type: ClassVar[str] = "unsubscribed"

    conversation_id: str
    error: ParleyError


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxOpened:
    """Something waits for a person; from ``parley.inbox_events``."""

    type: ClassVar[str] = "opened"

    item: InboxItem


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettled:
    """It waits no more: ``decided`` says how it was decided, where that is still known."""

    type: ClassVar[str] = "settled"

    item: InboxItem
    decided: Mapping[str, Json] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxReady:
    """What waited at the beginning has been told: so many ``items``."""

    type: ClassVar[str] = "ready"

    items: int


InboxEvent: TypeAlias = InboxOpened | InboxSettled | InboxReady
AnyEvent: TypeAlias = Event | MessageDelta | TypingNotice | SnapshotReplaced | SubscriptionEnded

_Fields = Callable[[Mapping[str, Json]], dict[str, Any]]


def _messages(data: Mapping[str, Json]) -> tuple[Message, ...]:
    return tuple(Message.from_wire(each) for each in items(mapping(data.get("response")).get("messages")))


def _turn_completed(data: Mapping[str, Json]) -> dict[str, Any]:
    updates = mapping(data.get("context_updates"))
    return {
        "current_state": str(data.get("current_state") or "idle"),
        "messages": _messages(data),
        "slots": mapping(updates.get("slots")),
        "variables": mapping(updates.get("variables")),
        "success": bool(data.get("success", True)),
        "processing_time_ms": data.get("processing_time_ms"),
        "ab_variant": data.get("ab_variant"),
    }


def _turn_failed(data: Mapping[str, Json]) -> dict[str, Any]:
    return {
        "current_state": str(data.get("current_state") or "idle"),
        "messages": _messages(data),
        "error": error_from_wire(mapping(data.get("error"))),
    }


def _message(data: Mapping[str, Json]) -> dict[str, Any]:
    return {"message": Message.from_wire(data)}


def _pending(data: Mapping[str, Json]) -> dict[str, Any]:
    return {"pending": Pending.from_wire(data)}


def _decided(data: Mapping[str, Json]) -> dict[str, Any]:
    return {
        "pending_id": data["pending_id"],
        "kind": str(data.get("kind", "")),
        "decided": mapping(data.get("decided")),
    }


def _plain(*names: str) -> _Fields:
    return lambda data: {name: data.get(name) for name in names}


def _required(*names: str) -> _Fields:
    return lambda data: {name: data[name] for name in names}


_EXECUTION = _plain("status", "flow_id", "flow_version", "output", "error")
_STEP = _plain("visit", "attempt", "error")
_KINDS: dict[str, tuple[type[Event], _Fields]] = {
    cls.wire_type: (cls, fields)
    for cls, fields in (
        (TurnCompleted, _turn_completed),
        (TurnFailed, _turn_failed),
        (MessageReceived, _message),
        (MessageCompleted, _message),
        (MessageRetracted, _required("message_id")),
        (SlotsUpdated, lambda data: {"slots": mapping(data.get("slots"))}),
        (VariablesUpdated, lambda data: {"variables": mapping(data.get("variables"))}),
        (ClarificationRequested, _pending),
        (AcceptanceRequested, _pending),
        (PendingResolved, _decided),
        (PendingExpired, _decided),
        (ExecutionStarted, _EXECUTION),
        (ExecutionWaiting, _EXECUTION),
        (ExecutionResumed, _EXECUTION),
        (ExecutionPaused, _EXECUTION),
        (ExecutionCompleted, _EXECUTION),
        (ExecutionFailed, _EXECUTION),
        (ExecutionCancelled, _EXECUTION),
        (ExecutionExpired, _EXECUTION),
        (StepStarted, _STEP),
        (StepCompleted, _STEP),
        (StepFailed, _STEP),
        (StepRetrying, _STEP),
        (StepSkipped, _STEP),
        (ActionPerformed, _plain("name", "effect", "duration_ms")),
        (HandoffRequested, _plain("to")),
        (ConversationCreated, _plain("user_id", "channel")),
        (ConversationReset, _plain("reason")),
        (FlowCustom, _plain("name", "payload")),
    )
}


def parse_event(conversation_id: str, raw: Mapping[str, Json]) -> Event:
    """Make the typed event of a record of an ``events`` frame; never fails, see ``UnknownEvent``."""
    data = mapping(raw.get("data"))
    kind = str(raw.get("type", ""))
    cls, fields = _KINDS.get(kind, (UnknownEvent, _plain()))
    try:
        parts = fields(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        cls, parts = UnknownEvent, {}
    return cls(
        conversation_id=conversation_id,
        type=kind,
        offset=raw.get("offset"),
        time=raw.get("time"),
        execution_id=raw.get("execution_id"),
        step_id=raw.get("step_id"),
        command_id=raw.get("command_id"),
        cause=raw.get("cause"),
        data=data,
        **parts,
    )
