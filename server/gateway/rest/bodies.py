"""The bodies of REST requests: closed (an unknown field is refused by name) and strict (no coercion)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from protocol.frames import (
    Channel,
    Content,
    ConversationId,
    EntityId,
    FlowId,
    IdempotencyKey,
    OnBusy,
    ShortText,
    TenantId,
    UserId,
)
from protocol.records import Json

LONGEST_PAUSE_MS = 366 * 24 * 3600 * 1000

RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
ProjectId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
KeyName = Annotated[str, StringConstraints(strip_whitespace=True, max_length=255, pattern=ONE_LINE)]
"""One line, without anything that a terminal would obey."""
Digest = Annotated[str, StringConstraints(max_length=128)]

Origins = Annotated[list[Annotated[str, StringConstraints(max_length=300)]], Field(max_length=100)]
Tier = Literal["free", "basic", "standard", "premium", "enterprise"]


class Body(BaseModel):
    """Base of them all."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class VisitorBody(Body):
    """With a ``token``, also one that has expired, it is renewed for the same visitor.

    ``key`` is the page's publishable key; it may stand in the header ``X-API-Key`` instead.
    """

    key: str | None = None
    token: str | None = None


class NewKeyBody(Body):
    """Makes an API key: a publishable one (``pk_``) for pages, or a secret one (``sk_``) for servers.

    A publishable key needs ``origins``, makes visitors of its ``tier`` and at most ``rate_limit_per_minute``
    of them (the tier's rate where left out). ``user_id``, ``role`` and ``scopes`` are for secret keys.
    """

    publishable: bool
    name: KeyName | None = None
    description: Annotated[str, StringConstraints(max_length=500)] = ""
    origins: Origins = Field(default_factory=list)
    tier: Tier = "standard"
    rate_limit_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    expires_at: Annotated[str, StringConstraints(max_length=40)] | None = None
    user_id: UserId | None = None
    role: Literal["user", "visitor", "operator", "service", "admin"] = "service"
    scopes: Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(max_length=32)] = Field(
        default_factory=list
    )


class KeyChangeBody(Body):
    """Adds origins to a key and takes others away."""

    add_origins: Origins = Field(default_factory=list)
    remove_origins: Origins = Field(default_factory=list)


class RotateKeyBody(Body):
    """Gives a key a new text; the former one works no more."""


class NewConversationBody(Body):
    """Makes a conversation id. Nothing is stored: the conversation begins with its first message."""


class ProcessBody(Body):
    """Says something in a conversation; the fields of the frame ``process``.

    The idempotency key may stand here or in the header ``Idempotency-Key``.
    """

    content: Content
    channel: Channel = "web"
    flow_id: FlowId | None = None
    user_id: UserId | None = None
    tenant_id: TenantId | None = None
    on_busy: OnBusy = "enqueue"
    processing_hints: dict[str, Json] = Field(default_factory=dict)
    idempotency_key: IdempotencyKey | None = None


class ResetBody(Body):
    """Cancels what runs and clears slots, variables and context."""

    reason: ShortText = "manual_reset"
    idempotency_key: IdempotencyKey | None = None


class ContextBody(Body):
    """Sets slots and variables of the flow that runs, by name; ``null`` clears a slot."""

    slots: dict[str, Json] = Field(default_factory=dict)
    variables: dict[str, Json] = Field(default_factory=dict)


class StartBody(Body):
    """Starts a flow, in a conversation of its own or in one that exists.

    ``initial_context`` has values for slots and variables by name, and ``input`` where the field of that name
    is not used. Without ``user_id`` the run is nobody's where the caller has ``conversations:write``, else
    the caller's.
    """

    initial_context: dict[str, Json] = Field(default_factory=dict)
    input: Json = None
    version: Annotated[int, Field(ge=1)] | None = None
    conversation_id: ConversationId | None = None
    user_id: UserId | None = None
    tenant_id: TenantId | None = None
    project_id: ProjectId | None = None
    channel: Channel = "api"
    on_busy: OnBusy = "reject"
    correlation_id: RequestId | None = None
    request_id: RequestId | None = None


class AcceptanceBody(Body):
    """Accepts or rejects; ``pending_id`` may be left out where exactly one acceptance is open.

    ``user_id`` names whom the decision is made for; somebody else takes ``users:act``.
    """

    pending_id: EntityId | None = None
    accepted: bool
    comment: ShortText | None = None
    edits: dict[str, Json] = Field(default_factory=dict)
    digest: Digest | None = None
    user_id: UserId | None = None


class ClarificationBody(Body):
    """Answers by question id; ``pending_id`` may be left out where exactly one clarification is open.

    ``user_id`` names whom the answers are given for; somebody else takes ``users:act``.
    """

    pending_id: EntityId | None = None
    answers: dict[str, Json]
    user_id: UserId | None = None


class PauseBody(Body):
    """Holds an execution until it is resumed, or for ``deadline_ms`` milliseconds."""

    reason: ShortText | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=LONGEST_PAUSE_MS)] | None = None


class ResumeBody(Body):
    """Lets a paused execution go on."""

    comment: ShortText | None = None


class CancelBody(Body):
    """Ends an execution."""

    reason: ShortText | None = None


class RetryBody(Body):
    """Tries a failed execution again, from the step that failed."""


class SignalBody(Body):
    """Says that the event ``name``, which the execution waits for, has happened."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    payload: Json = None
