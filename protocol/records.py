"""The records that frames, events and REST carry: message, pending request, state.

What the store keeps is a typed record of its own (``storage/models.py``); these are the same things as
they stand on the wire. All are open: a client ignores fields that it does not know.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Json = Any
"""A JSON value: null, bool, number, string, list or object."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""ISO 8601, UTC, with milliseconds: ``2026-01-01T00:00:00.000Z``."""


class ServerModel(BaseModel):
    """Base of everything the server sends: open, every field always written out."""

    model_config = ConfigDict(extra="allow", json_schema_serialization_defaults_required=True)


class ErrorBody(ServerModel):
    """The error object of the wire, of REST and of ``turn.failed``."""

    code: str
    message: str
    temporary: bool
    retry_after_ms: int | None
    field: str | None
    details: dict[str, Json] | None
    suggestion: str | None
    docs: str


class Button(ServerModel):
    """A choice offered with a message; pressing it sends ``content.payload``."""

    title: str
    payload: str


class Message(ServerModel):
    """One message of a conversation. ``offset`` is that of the event that brought it."""

    message_id: str
    role: Literal["user", "assistant", "agent", "system"]
    type: Literal["text", "buttons", "card", "form", "error"]
    text: str | None
    payload: Json
    buttons: list[Button]
    metadata: dict[str, Json]
    user_id: str | None
    time: Time
    offset: int


class PendingQuestion(ServerModel):
    """One question of a pending request."""

    id: str
    text: str
    type: str
    options: list[str]
    required: bool


class PendingRequest(ServerModel):
    """An open question of an execution. ``by`` null: the conversation's owner decides.

    ``answers`` are those given so far, by question id; ``votes`` those of an acceptance that takes several.
    """

    pending_id: str
    kind: Literal["input", "clarification", "acceptance"]
    step_id: str
    title: str | None
    prompt: str | None
    questions: list[PendingQuestion]
    editable: list[str]
    by: dict[str, Json] | None
    answers: dict[str, Json]
    votes: list[dict[str, Json]]
    digest: str | None
    deadline: Time | None
    created_at: Time
    decided: dict[str, Json] | None


class StateRecord(ServerModel):
    """Where a conversation stands. ``status`` is the execution's, ``idle`` without one.

    ``slots`` is empty for the ``agent`` audience; ``truncated`` occurs in snapshots, where values that did
    not fit were left out.
    """

    conversation_id: str
    current_state: str
    status: Literal[
        "idle",
        "pending",
        "running",
        "waiting_input",
        "waiting_clarification",
        "waiting_acceptance",
        "waiting_timer",
        "waiting_event",
        "paused",
        "completed",
        "failed",
        "cancelled",
        "expired",
    ]
    flow_id: str | None
    flow_version: int | None
    user_id: str | None
    channel: str
    locale: str | None
    slots: dict[str, Json]
    variables: dict[str, Json]
    pending: list[PendingRequest]
    completed_steps: list[str]
    created_at: Time
    last_activity: Time
    message_count: int
    epoch: str
    offset: int


class SubscribeResult(ServerModel):
    """``ack.result`` of ``subscribe``."""

    conversation_id: str
    epoch: str | None
    offset: int
    recovered: bool


class HistoryResult(ServerModel):
    """``ack.result`` of ``history``: oldest first; ``before`` null at the start of the conversation."""

    messages: list[Message]
    before: int | None
