"""The event types of ``parley.v1``: what each says, and who may see it at least.

Events are the history of a conversation; folding them gives its state. Inside the server they are
plain mappings (``storage.models.Event``); the models here are what ``schema.json`` and the SDK types
are made from, and what tests hold the engine's events against. They are open: data may grow fields.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal

from protocol.records import ErrorBody, Json, Message, PendingRequest, ServerModel

Audience = Literal["owner", "agent", "full"]
"""The least audience that may see an event: what ``owner`` may see, ``agent`` and ``full`` may too.

One exception: ``slots.updated`` and the slots inside other data are the owner's and ``full``'s, never an
agent's (``server/delivery/audience.py`` is the filter).
"""


class EventType(StrEnum):
    """Every event type. A client hands one that it does not know to its ``unknown`` listener."""

    TURN_COMPLETED = "turn.completed"
    TURN_FAILED = "turn.failed"
    MESSAGE_RECEIVED = "message.received"
    MESSAGE_COMPLETED = "message.completed"
    MESSAGE_RETRACTED = "message.retracted"
    SLOTS_UPDATED = "slots.updated"
    VARIABLES_UPDATED = "variables.updated"
    CLARIFICATION_REQUESTED = "clarification.requested"
    ACCEPTANCE_REQUESTED = "acceptance.requested"
    PENDING_RESOLVED = "pending.resolved"
    PENDING_EXPIRED = "pending.expired"
    EXECUTION_STARTED = "execution.started"
    EXECUTION_WAITING = "execution.waiting"
    EXECUTION_RESUMED = "execution.resumed"
    EXECUTION_PAUSED = "execution.paused"
    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCELLED = "execution.cancelled"
    EXECUTION_EXPIRED = "execution.expired"
    STEP_STARTED = "step.started"
    STEP_COMPLETED = "step.completed"
    STEP_FAILED = "step.failed"
    STEP_RETRYING = "step.retrying"
    STEP_SKIPPED = "step.skipped"
    ACTION_PERFORMED = "action.performed"
    HANDOFF_REQUESTED = "handoff.requested"
    CONVERSATION_CREATED = "conversation.created"
    CONVERSATION_RESET = "conversation.reset"
    FLOW_CUSTOM = "flow.custom"


TURN_ENDS: Final = frozenset({EventType.TURN_COMPLETED, EventType.TURN_FAILED})
"""Every accepted command ends in exactly one of these."""


# --- data ---------------------------------------------------------------------------------------


class TurnResponse(ServerModel):
    """What the flow said in the turn."""

    messages: list[Message]


class ContextUpdates(ServerModel):
    """What the turn changed, by name; an agent sees no slots."""

    slots: dict[str, Json]
    variables: dict[str, Json]


class PerformedAction(ServerModel):
    """An effect that ran."""

    name: str
    effect: Literal["read", "idempotent", "write"]
    duration_ms: int


class TurnCompletedData(ServerModel):
    """A command's turn came to a wait or to the end. ``actions_performed`` is for ``full`` only."""

    conversation_id: str
    current_state: str
    response: TurnResponse
    context_updates: ContextUpdates
    actions_performed: list[PerformedAction]
    processing_time_ms: int
    success: bool
    ab_variant: str | None


class TurnFailedData(ServerModel):
    """A command's turn failed, or was cancelled; what was said until then is in ``response``."""

    conversation_id: str
    current_state: str
    response: TurnResponse
    error: ErrorBody


class MessageRetractedData(ServerModel):
    """A streamed message that a retry replaces by one with another id."""

    message_id: str


class SlotsUpdatedData(ServerModel):
    """Slots that changed, by name; null: cleared."""

    slots: dict[str, Json]


class VariablesUpdatedData(ServerModel):
    """Variables that changed, by name."""

    variables: dict[str, Json]


class PendingEndedData(ServerModel):
    """A pending request was decided, or nobody decided it in time."""

    pending_id: str
    kind: Literal["input", "clarification", "acceptance"]
    decided: dict[str, Json] | None


class ExecutionData(ServerModel):
    """An execution changed its status. ``error`` is ``{code, message, step_id, details}``."""

    status: str
    flow_id: str
    flow_version: int
    output: Json
    error: dict[str, Json] | None


class StepData(ServerModel):
    """One visit of a step; ``attempt`` counts from 1."""

    visit: int
    attempt: int
    error: dict[str, Json] | None


class HandoffRequestedData(ServerModel):
    """The flow hands the conversation to people."""

    to: str


class ConversationCreatedData(ServerModel):
    """The first command made the conversation; its user owns it."""

    user_id: str | None
    channel: str


class ConversationResetData(ServerModel):
    """Slots, variables and context were cleared; offsets go on."""

    reason: str


class FlowCustomData(ServerModel):
    """What an ``emit`` step sends."""

    name: str
    payload: Json


# --- tables -------------------------------------------------------------------------------------

_E = EventType
EVENT_DATA: Final[Mapping[EventType, type[ServerModel]]] = {
    _E.TURN_COMPLETED: TurnCompletedData,
    _E.TURN_FAILED: TurnFailedData,
    _E.MESSAGE_RECEIVED: Message,
    _E.MESSAGE_COMPLETED: Message,
    _E.MESSAGE_RETRACTED: MessageRetractedData,
    _E.SLOTS_UPDATED: SlotsUpdatedData,
    _E.VARIABLES_UPDATED: VariablesUpdatedData,
    _E.CLARIFICATION_REQUESTED: PendingRequest,
    _E.ACCEPTANCE_REQUESTED: PendingRequest,
    _E.PENDING_RESOLVED: PendingEndedData,
    _E.PENDING_EXPIRED: PendingEndedData,
    _E.EXECUTION_STARTED: ExecutionData,
    _E.EXECUTION_WAITING: ExecutionData,
    _E.EXECUTION_RESUMED: ExecutionData,
    _E.EXECUTION_PAUSED: ExecutionData,
    _E.EXECUTION_COMPLETED: ExecutionData,
    _E.EXECUTION_FAILED: ExecutionData,
    _E.EXECUTION_CANCELLED: ExecutionData,
    _E.EXECUTION_EXPIRED: ExecutionData,
    _E.STEP_STARTED: StepData,
    _E.STEP_COMPLETED: StepData,
    _E.STEP_FAILED: StepData,
    _E.STEP_RETRYING: StepData,
    _E.STEP_SKIPPED: StepData,
    _E.ACTION_PERFORMED: PerformedAction,
    _E.HANDOFF_REQUESTED: HandoffRequestedData,
    _E.CONVERSATION_CREATED: ConversationCreatedData,
    _E.CONVERSATION_RESET: ConversationResetData,
    _E.FLOW_CUSTOM: FlowCustomData,
}
"""The data of each event type."""

_FULL_ONLY: Final = frozenset(
    {
        # Inner workings, and variables unless the flow marks them ``expose`` (then: owner).
        _E.STEP_STARTED,
        _E.STEP_COMPLETED,
        _E.STEP_FAILED,
        _E.STEP_RETRYING,
        _E.STEP_SKIPPED,
        _E.ACTION_PERFORMED,
        _E.VARIABLES_UPDATED,
    }
)
DEFAULT_AUDIENCE: Final[Mapping[EventType, Audience]] = {
    event_type: "full" if event_type in _FULL_ONLY else "owner" for event_type in EventType
}
"""The least audience of an event where nothing about the single event says otherwise.

What says otherwise: an exposed variable (``owner``), and a pending request whose ``by`` does not name the
owner, with all that follows from it (``agent``).
"""
