"""The frames of ``parley.v1``: one discriminated union for each direction.

Client frames are closed (an unknown field is an error that names it) and strict (no coercion);
server frames are built as plain dictionaries on the hot path, and their models here are what
``schema.json`` and the SDK types are made from.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from protocol.records import ErrorBody, Json, Message, PendingRequest, ServerModel, StateRecord, Time

SUBPROTOCOL: Final = "parley.v1"

# A frame's id is echoed as it came, so it is not trimmed: a client finds its reply by comparing it.
FrameId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
ConversationId = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9._~-]{1,64}$")]
TenantId = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9_-]{1,100}$")]
FlowId = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[a-z0-9_-]{1,64}$")]
# Printable: no control characters, line separators or bidi marks (they let one id look like another).
UserId = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        pattern=r"^[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]{1,128}$",
    ),
]
# Printable ASCII. No space at either end: REST carries the key in a header, where HTTP would trim it.
IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e][\x20-\x7e]{6,126}[\x21-\x7e]$")]
EntityId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
ShortText = Annotated[str, StringConstraints(max_length=1000)]

Channel = Literal["web", "whatsapp", "messenger", "slack", "teams", "voice", "sms", "api"]
OnBusy = Literal["enqueue", "reject", "interrupt"]
CommandStatus = Literal["completed", "failed", "running", "queued"]


class _ClientModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# --- client -> server ---------------------------------------------------------------------------


class Resume(_ClientModel):
    """Where the client stands: everything up to and including ``offset`` of ``epoch`` was seen."""

    epoch: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None
    offset: Annotated[int, Field(ge=0)]


class ClientInfo(_ClientModel):
    """Which SDK speaks; for logs and metrics only."""

    name: Annotated[str, StringConstraints(max_length=64)]
    version: Annotated[str, StringConstraints(max_length=64)]


class Hello(_ClientModel):
    """The first frame: who am I, which conversation, where do I stand. Also authenticates."""

    type: Literal["hello"]
    id: FrameId
    token: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    conversation_id: ConversationId | None = None
    resume: Resume | None = None
    client: ClientInfo | None = None
    locale: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,35}$")] | None = None
    timezone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] | None = None


class Auth(_ClientModel):
    """Replaces the connection's token by a fresh one of the same tenant and user."""

    type: Literal["auth"]
    id: FrameId
    token: Annotated[str, StringConstraints(min_length=1, max_length=16_384)]


class Subscribe(_ClientModel):
    """Starts to watch a conversation, by its id or by one of its executions."""

    type: Literal["subscribe"]
    id: FrameId
    conversation_id: ConversationId | None = None
    execution_id: EntityId | None = None
    resume: Resume | None = None


class Unsubscribe(_ClientModel):
    """Stops watching a conversation."""

    type: Literal["unsubscribe"]
    id: FrameId
    conversation_id: ConversationId


class Content(_ClientModel):
    """What a person said (``text``) or pressed (``payload``); at least one of the two."""

    type: Literal["text", "button", "form"]
    text: str | None = None
    payload: Annotated[str, StringConstraints(max_length=2000)] | None = None
    metadata: dict[str, Json] = Field(default_factory=dict)


class Process(_ClientModel):
    """Says something in a conversation; creates the conversation if it does not exist."""

    type: Literal["process"]
    id: FrameId
    conversation_id: ConversationId
    idempotency_key: IdempotencyKey | None = None
    content: Content
    channel: Channel = "web"
    flow_id: FlowId | None = None
    user_id: UserId | None = None
    tenant_id: TenantId | None = None
    on_busy: OnBusy = "enqueue"
    processing_hints: dict[str, Json] = Field(default_factory=dict)


class State(_ClientModel):
    """Asks for the state record."""

    type: Literal["state"]
    id: FrameId
    conversation_id: ConversationId


class Reset(_ClientModel):
    """Cancels what runs and clears slots, variables and context."""

    type: Literal["reset"]
    id: FrameId
    conversation_id: ConversationId
    idempotency_key: IdempotencyKey | None = None
    reason: ShortText = "manual_reset"


class Acceptance(_ClientModel):
    """Accepts or rejects a pending acceptance request."""

    type: Literal["acceptance"]
    id: FrameId
    conversation_id: ConversationId
    idempotency_key: IdempotencyKey | None = None
    pending_id: EntityId
    accepted: bool
    comment: ShortText | None = None
    edits: dict[str, Json] = Field(default_factory=dict)
    digest: Annotated[str, StringConstraints(max_length=128)] | None = None
    user_id: UserId | None = None


class Clarification(_ClientModel):
    """Answers the questions of a pending clarification request, by question id."""

    type: Literal["clarification"]
    id: FrameId
    conversation_id: ConversationId
    idempotency_key: IdempotencyKey | None = None
    pending_id: EntityId
    answers: dict[str, Json]
    user_id: UserId | None = None


class Cancel(_ClientModel):
    """Cancels the current execution; ``execution_id``, if given, must be it."""

    type: Literal["cancel"]
    id: FrameId
    conversation_id: ConversationId
    idempotency_key: IdempotencyKey | None = None
    execution_id: EntityId | None = None
    reason: ShortText | None = None


class History(_ClientModel):
    """Asks for older messages: oldest first, ``before`` exclusive."""

    type: Literal["history"]
    id: FrameId
    conversation_id: ConversationId
    before: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50


class Typing(_ClientModel):
    """Tells the others that this person is typing; a hint, without an answer."""

    type: Literal["typing"]
    conversation_id: ConversationId
    typing: bool


class Pong(_ClientModel):
    """Answers ``ping``."""

    type: Literal["pong"]


ClientFrame = Annotated[
    Hello
    | Auth
    | Subscribe
    | Unsubscribe
    | Process
    | State
    | Reset
    | Acceptance
    | Clarification
    | Cancel
    | History
    | Typing
    | Pong,
    Field(discriminator="type"),
]
Command = Process | Reset | Acceptance | Clarification | Cancel
"""Frames that change a conversation: identified by their idempotency key, ended by one ``turn.*``."""

CLIENT_FRAME: TypeAdapter[Any] = TypeAdapter(ClientFrame)
CLIENT_FRAME_TYPES: Final = frozenset(
    {
        "hello",
        "auth",
        "subscribe",
        "unsubscribe",
        "process",
        "state",
        "reset",
        "acceptance",
        "clarification",
        "cancel",
        "history",
        "typing",
        "pong",
    }
)
COMMAND_TYPES: Final = frozenset({"process", "reset", "acceptance", "clarification", "cancel"})


# --- server -> client ---------------------------------------------------------------------------


class PrincipalInfo(ServerModel):
    """Who the server takes the client for."""

    user_id: str
    tenant_id: str
    role: str
    scopes: list[str]
    tier: str


class ConnectionLimits(ServerModel):
    """What this connection may send."""

    max_frame_bytes: int
    frames_per_second: int


class Welcome(ServerModel):
    """Answers ``hello``. ``recovered`` says whether replay (true) or a snapshot (false) follows."""

    type: Literal["welcome"] = "welcome"
    id: str
    connection_id: str
    protocol: Literal["parley.v1"] = "parley.v1"
    conversation_id: str | None
    epoch: str | None
    offset: int
    recovered: bool
    principal: PrincipalInfo
    ping_interval: int
    token_expires_in: int | None
    limits: ConnectionLimits


class Ack(ServerModel):
    """The command is durably accepted, or the request is answered."""

    type: Literal["ack"] = "ack"
    id: str
    duplicate: bool
    command_id: str | None
    status: CommandStatus
    execution_id: str | None
    epoch: str | None
    offset: int | None
    result: Json


class ErrorFrame(ServerModel):
    """One frame is refused; ``id`` is null where the frame could not be parsed."""

    type: Literal["error"] = "error"
    id: str | None
    error: ErrorBody


class EventRecord(ServerModel):
    """One event as it stands in the log; ``data`` depends on ``type`` (see ``events.py``)."""

    type: str
    offset: int
    time: Time
    execution_id: str | None
    step_id: str | None
    command_id: str | None
    cause: str | None
    data: dict[str, Json]


class Events(ServerModel):
    """One or more whole consecutive commits: offsets ``from`` to ``to``, both included."""

    type: Literal["events"] = "events"
    conversation_id: str
    epoch: str
    from_: int = Field(alias="from")
    to: int
    events: list[EventRecord]


class MessageDelta(ServerModel):
    """A piece of a message that is being written; a hint without an offset."""

    type: Literal["message.delta"] = "message.delta"
    conversation_id: str
    execution_id: str
    message_id: str
    index: int
    delta: str


class Partial(ServerModel):
    """What has been streamed so far of a message that is not complete."""

    message_id: str
    text: str
    next_index: int


class Snapshot(ServerModel):
    """Replaces all that the client knew of the conversation."""

    type: Literal["snapshot"] = "snapshot"
    conversation_id: str
    epoch: str | None
    offset: int
    state: StateRecord | None
    messages: list[Message]
    before: int | None
    pending: list[PendingRequest]
    partials: list[Partial]


class Unsubscribed(ServerModel):
    """The server ended a subscription."""

    type: Literal["unsubscribed"] = "unsubscribed"
    conversation_id: str
    code: str


class Ping(ServerModel):
    """Are you there? ``offsets``: the last ``to`` sent for each watched conversation."""

    type: Literal["ping"] = "ping"
    offsets: dict[str, int]


class AuthRequired(ServerModel):
    """The token expires in that many seconds; send ``auth`` with a fresh one."""

    type: Literal["auth.required"] = "auth.required"
    expires_in: int


class TypingNotice(ServerModel):
    """Somebody else in the conversation is typing."""

    type: Literal["typing"] = "typing"
    conversation_id: str
    user_id: str
    typing: bool


class Disconnect(ServerModel):
    """The server is about to close the connection with ``code``."""

    type: Literal["disconnect"] = "disconnect"
    code: int
    reason: str
    reconnect: bool
    reconnect_within_ms: int | None


ServerFrame = Annotated[
    Welcome
    | Ack
    | ErrorFrame
    | Events
    | MessageDelta
    | Snapshot
    | Unsubscribed
    | Ping
    | AuthRequired
    | TypingNotice
    | Disconnect,
    Field(discriminator="type"),
]
SERVER_FRAME: TypeAdapter[Any] = TypeAdapter(ServerFrame)
