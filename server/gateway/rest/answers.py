"""What REST answers, as models: the OpenAPI document and its tests are made of them.

Answers are built as plain dictionaries; nothing here runs while a request is served.
"""

from typing import Literal

from protocol.frames import CommandStatus
from protocol.records import ErrorBody, Json, PendingRequest, ServerModel, Time


class ErrorAnswer(ServerModel):
    """What is refused: the error object of the wire, and the request's id."""

    error: ErrorBody
    request_id: str | None


class Check(ServerModel):
    """One dependency of the server; ``latency_ms`` is null where it is not measured."""

    status: Literal["ok", "down"]
    latency_ms: float | None
    reason: str | None


class Alive(ServerModel):
    """The process runs (``ok``) or is still starting."""

    status: Literal["ok", "starting"]


class Ready(ServerModel):
    """``status`` is ``ok``, ``degraded`` (the bus is away), or why no new connections are taken."""

    status: Literal["ok", "degraded", "draining", "starting", "store_unavailable"]
    checks: dict[str, Check]


class HealthAnswer(ServerModel):
    """One line for monitoring pages."""

    status: Literal["ok", "degraded", "down"]
    service: str
    version: str
    environment: str


class StatusAnswer(ServerModel):
    """What this server is and what it takes."""

    service: str
    version: str
    protocols: list[str]
    features: dict[str, Json]
    limits: dict[str, int]


class VisitorAnswer(ServerModel):
    """A visitor's token; ``expires_in`` is in seconds."""

    token: str
    user_id: str
    expires_in: int


class KeyAnswer(ServerModel):
    """An API key, without its text."""

    key_id: str
    tenant_id: str
    prefix: Literal["pk_", "sk_"]
    name: str
    description: str
    user_id: str | None
    role: str
    scopes: list[str]
    tier: str
    rate_limit_per_minute: int | None
    origins: list[str]
    expires_at: Time | None
    is_active: bool
    created_by: str | None
    created_at: Time
    last_used_at: Time | None


class KeyMade(KeyAnswer):
    """An API key and, in ``key``, its text, which is shown this once."""

    key: str


class KeysAnswer(ServerModel):
    """A page of API keys; ``cursor`` is null at the end."""

    keys: list[KeyAnswer]
    cursor: str | None


class ConversationMade(ServerModel):
    """A conversation id."""

    conversation_id: str


class ConversationSummary(ServerModel):
    """Where a conversation stands; nothing of what was said in it."""

    conversation_id: str
    user_id: str | None
    project_id: str | None
    status: str
    current_state: str
    flow_id: str | None
    flow_version: int | None
    execution_id: str | None
    channel: str
    message_count: int
    created_at: Time
    last_activity: Time
    epoch: str
    offset: int


class PresentUser(ServerModel):
    """Somebody who is connected to a conversation, on how many sockets and streams of all instances."""

    user_id: str
    connections: int


class ConversationAnswer(ConversationSummary):
    """Where a conversation stands. ``presence`` tells those who help who is there; it is null for owners."""

    presence: list[PresentUser] | None


class ConversationsAnswer(ServerModel):
    """A page of conversations; ``cursor`` is null at the end, ``total`` where it was not asked for."""

    conversations: list[ConversationSummary]
    cursor: str | None
    total: int | None


class ReceiptAnswer(ServerModel):
    """A command was durably accepted. ``result`` is the data of its ``turn.*`` event once that has ended."""

    duplicate: bool
    command_id: str
    status: CommandStatus
    conversation_id: str
    execution_id: str | None
    epoch: str
    offset: int
    result: dict[str, Json] | None


class ContextAnswer(ServerModel):
    """Slots and variables, as far as the viewer may see them."""

    conversation_id: str
    slots: dict[str, Json]
    variables: dict[str, Json]
    epoch: str
    offset: int


class StartedAnswer(ServerModel):
    """A flow was started; ``execution_id`` is null where the start waits its turn."""

    execution_id: str | None
    conversation_id: str
    correlation_id: str


class PauseView(ServerModel):
    """Why an execution is paused, since and until when."""

    by: str | None
    reason: str | None
    since: Time
    deadline: Time | None


class ExecutionAnswer(ServerModel):
    """One run of a flow; ``frames`` and ``attempts`` are added for who may inspect."""

    execution_id: str
    conversation_id: str
    project_id: str | None
    user_id: str | None
    flow_id: str
    flow_version: int
    variant: str | None
    status: str
    input: Json
    output: Json
    error: dict[str, Json] | None
    current_step_id: str | None
    completed_steps: list[str]
    pending: list[PendingRequest]
    pending_acceptance: PendingRequest | None
    pending_clarification: PendingRequest | None
    timer_at: Time | None
    awaits: str | None
    pause: PauseView | None
    command_id: str | None
    correlation_id: str | None
    request_id: str | None
    started_at: Time
    updated_at: Time
    completed_at: Time | None


class ExecutionsAnswer(ServerModel):
    """A page of executions; ``cursor`` is null at the end."""

    executions: list[ExecutionAnswer]
    cursor: str | None


class InboxItem(ServerModel):
    """Something that waits for people; ``pending`` is null for a hand-off."""

    kind: Literal["acceptance", "clarification", "handoff"]
    wait_id: str
    since: Time
    conversation_id: str
    execution_id: str
    flow_id: str
    flow_version: int
    project_id: str | None
    user_id: str | None
    step_id: str | None
    pending: PendingRequest | None


class InboxAnswer(ServerModel):
    """A page of what waits; ``cursor`` is null at the end."""

    items: list[InboxItem]
    cursor: str | None


class TurnPiece(ServerModel):
    """One message of a streamed turn; the last one is ``done``."""

    chunk: str
    done: bool
    metadata: dict[str, Json]
    error: ErrorBody | None
