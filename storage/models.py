"""What the store keeps, as immutable slotted records.

Times are integers: milliseconds since the Unix epoch, UTC. Ids are strings. A value typed ``Json`` is
what ``orjson`` reads and writes. Records are never changed in place: ``dataclasses.replace`` makes the
next one, so a cached record is safe to share.

The field names are those of the API.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final, Literal, NamedTuple

from storage.record import record

Json = Any
TimeMs = int

Audience = Literal["owner", "agent", "full"]
"""The least audience that may see an event: ``owner`` ones are seen by all three."""

ExecutionStatus = Literal[
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
ENDED: Final = frozenset({"completed", "failed", "cancelled", "expired"})
CommandState = Literal["completed", "failed", "running", "queued"]

RING_SIZE: Final = 64
SHORT_RING_SIZE: Final = 8
"""What is enough where the store itself finds a key that was used: the ring is then only the quick answer
to a command that is sent again, and most of an idle record, written anew with every turn."""
INBOX_MAX_ENTRIES: Final = 32
INBOX_MAX_BYTES: Final = 256 * 1024
RECORD_MAX_BYTES: Final = 1024 * 1024
VALUE_MAX_BYTES: Final = 256 * 1024
EVENT_MAX_BYTES: Final = 64 * 1024
COMMIT_MAX_BYTES: Final = 256 * 1024
TOMBSTONE_MS: Final = 30 * 24 * 3600 * 1000
LATE_FLUSH_MS: Final = 60_000


@record(frozen=True, slots=True)
class Lease:
    """An instance's claim on a conversation while an effect runs; void after ``until``."""

    owner: str
    until: TimeMs


@record(frozen=True, slots=True)
class Event:
    """What happened. ``audience`` is the least audience that may see it and stays off the wire."""

    offset: int
    time: TimeMs
    type: str
    execution_id: str | None
    step_id: str | None
    command_id: str | None
    cause: str | None
    data: Mapping[str, Json]
    audience: Audience = "owner"


@record(frozen=True, slots=True)
class EventBatch:
    """The events of one commit: at least one, contiguous offsets, never merged or split."""

    epoch: str
    first_offset: int
    last_offset: int
    commit_id: str
    key: str | None
    body_hash: str | None
    events: tuple[Event, ...]


@record(frozen=True, slots=True)
class InboxEntry:
    """A command that waits for its turn. ``command`` is the validated frame without its ``id``.

    ``correlation_id`` and ``request_id`` are those of the request that brought it; a frame has none.
    """

    key: str
    body_hash: str
    command: Mapping[str, Json]
    principal: Mapping[str, Json]
    received_at: TimeMs
    void: bool = False
    correlation_id: str | None = None
    request_id: str | None = None


@record(frozen=True, slots=True)
class RecentKey:
    """One entry of the idempotency ring."""

    key: str
    body_hash: str
    status: CommandState
    execution_id: str | None
    first_offset: int
    last_offset: int


@record(frozen=True, slots=True)
class Question:
    """One question of a pending request."""

    id: str
    text: str
    type: str = "text"
    options: tuple[str, ...] = ()
    required: bool = True


@record(frozen=True, slots=True)
class Pending:
    """An open (or closed) request of an execution to a person.

    ``frame`` is the number of the frame whose step asks; ``answers`` are those given so far, by question.
    ``decided`` closes it: ``{by, at, accepted, comment, edits, answers, digest}``, ``by`` null where nobody
    answered in time or the flow went on without. ``binding`` is the digest of the approved effect,
    and ``bound_to`` that effect's key, once it was asked for: without its last part, the visit, where it was
    refused because it was not what was approved.
    """

    pending_id: str
    kind: Literal["input", "clarification", "acceptance"]
    step_id: str
    title: str | None = None
    prompt: str | None = None
    questions: tuple[Question, ...] = ()
    editable: tuple[str, ...] = ()
    by: Mapping[str, Json] | None = None
    votes: tuple[Mapping[str, Json], ...] = ()
    digest: str | None = None
    deadline: TimeMs | None = None
    created_at: TimeMs = 0
    decided: Mapping[str, Json] | None = None
    frame: int = 0
    answers: Mapping[str, Json] = field(default_factory=dict)
    binding: str | None = None
    bound_to: str | None = None


@record(frozen=True, slots=True)
class Attempt:
    """An effect whose intent is committed and whose result is not.

    ``key`` is constant over all attempts of one visit of a step; ``number`` counts them from 1;
    ``retry_at`` is set while the next attempt waits for its back-off (nothing runs then).
    """

    frame: int
    step_id: str
    visit: int
    key: str
    message_id: str
    number: int
    started_at: TimeMs
    name: str
    effect: Literal["read", "idempotent", "write"]
    arguments: Mapping[str, Json] = field(default_factory=dict)
    retry_at: TimeMs | None = None
    reconciling: bool = False

    @property
    def may_have_written(self) -> bool:
        """Whether nobody knows if it has changed something: a ``write`` that runs, or is asked about."""
        return self.reconciling or (self.effect == "write" and self.retry_at is None)


@record(frozen=True, slots=True)
class Frame:
    """One call of a flow inside an execution; ``frame`` numbers are never reused.

    ``visits`` counts how often each step was entered, in the order of the first entries. A frame that
    waits for time or an event has ``timer_at`` or ``awaits`` (the event's name); ``happened`` is what came
    while it could not go on, ``{"cause": "timer"}`` or ``{"cause": "signal", "payload": ...}``: it is
    followed when the frame is innermost and not paused.
    """

    frame: int
    parent: int | None
    flow_id: str
    version: int
    step_id: str | None
    variables: Mapping[str, Json] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)
    tries: Mapping[str, int] = field(default_factory=dict)
    timer_at: TimeMs | None = None
    awaits: str | None = None
    happened: Mapping[str, Json] | None = None


@record(frozen=True, slots=True)
class Pause:
    """Why an execution is paused, or will be at its next safe point (``wanted``).

    ``then`` says how it goes on: ``next`` behind the step (a hand-off), ``ask`` by returning to the open
    question, ``enter`` by entering the step that it stands at, ``retry`` with the attempt that waits.
    ``by`` is the operator's user id, None where the flow itself handed over.
    """

    then: Literal["next", "ask", "enter", "retry"]
    since: TimeMs
    by: str | None = None
    reason: str | None = None
    deadline: TimeMs | None = None
    wanted: bool = False


@record(frozen=True, slots=True)
class Execution:
    """One run of a flow version in a conversation.

    ``running_ms`` is how long it has run without its waits, up to ``updated_at``; beyond ``timeout_ms`` it
    expires. ``subflows`` are the versions of the flows that it may call or go over to.
    """

    execution_id: str
    flow_id: str
    flow_version: int
    status: ExecutionStatus
    user_id: str | None
    project_id: str | None = None
    variant: str | None = None
    input: Json = None
    output: Json = None
    error: Mapping[str, Json] | None = None
    current_step_id: str | None = None
    completed_steps: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    pending: tuple[Pending, ...] = ()
    command_id: str | None = None
    correlation_id: str | None = None
    request_id: str | None = None
    exposed: tuple[str, ...] = ()
    running_ms: int = 0
    started_at: TimeMs = 0
    updated_at: TimeMs = 0
    completed_at: TimeMs | None = None
    timeout_ms: int | None = None
    subflows: Mapping[str, int] = field(default_factory=dict)
    pause: Pause | None = None

    @property
    def timer_at(self) -> TimeMs | None:
        """When the first of its waits ends by itself."""
        times = [f.timer_at for f in self.frames if f.timer_at is not None and f.happened is None]
        return min(times) if times else None

    @property
    def awaits(self) -> str | None:
        """The name of the event that its innermost frame waits for."""
        return self.frames[-1].awaits if self.frames else None

    @property
    def overdue_at(self) -> TimeMs | None:
        """When it has used up its running time, if it goes on running until then."""
        if self.timeout_ms is None or self.status != "running":
            return None
        return self.updated_at + max(0, self.timeout_ms - self.running_ms)


@record(frozen=True, slots=True)
class OpenTurn:
    """What the running turn has gathered for its ``turn.*`` event, kept over several commits.

    ``steps`` counts the steps that it has entered, so that a loop is seen.
    """

    command_id: str | None
    cause: str | None
    started_at: TimeMs
    messages: tuple[Mapping[str, Json], ...] = ()
    slots: Mapping[str, Json] = field(default_factory=dict)
    variables: Mapping[str, Json] = field(default_factory=dict)
    actions: tuple[Mapping[str, Json], ...] = ()
    steps: int = 0


@record(frozen=True, slots=True)
class Conversation:
    """The durable aggregate: user, slots, variables, current execution, and where its log stands.

    ``offset`` is the offset of its last event; ``revision`` grows by one with each commit and each
    enqueue; ``fence`` grows when a lease is taken or pre-empted. ``reset_offset`` is the offset of the
    last ``conversation.reset`` (0: none). ``ring_full`` says that ``recent`` has dropped keys, so that
    a key which is not in it may still be in the log. A tombstone has ``deleted_at`` and no content.
    """

    tenant_id: str
    conversation_id: str
    user_id: str | None
    epoch: str
    offset: int = 0
    revision: int = 0
    fence: int = 0
    lease: Lease | None = None
    commit_id: str = ""
    status: str = "idle"
    project_id: str | None = None
    channel: str = "web"
    locale: str | None = None
    timezone: str | None = None
    slots: Mapping[str, Json] = field(default_factory=dict)
    variables: Mapping[str, Json] = field(default_factory=dict)
    execution: Execution | None = None
    turn: OpenTurn | None = None
    inbox: tuple[InboxEntry, ...] = ()
    recent: tuple[RecentKey, ...] = ()
    ring_full: bool = False
    reset_offset: int = 0
    wake_at: TimeMs | None = None
    expires_at: TimeMs | None = None
    deleted_at: TimeMs | None = None
    created_at: TimeMs = 0
    last_activity: TimeMs = 0
    message_count: int = 0

    @property
    def busy(self) -> bool:
        """Whether a new command waits: an effect runs, or is to be retried, or the inbox is not empty."""
        return bool(self.inbox) or (self.execution is not None and self.execution.status == "running")


@record(frozen=True, slots=True)
class FlowVersion:
    """A published version of a flow; immutable. ``source`` is its YAML or JSON text."""

    tenant_id: str
    flow_id: str
    version: int
    sha256: str
    source: str
    source_name: str
    label: str | None = None
    published_by: str | None = None
    published_at: TimeMs = 0


@record(frozen=True, slots=True)
class Flow:
    """A flow's head: which version is newest, whether it is the tenant's default."""

    tenant_id: str
    flow_id: str
    name: str
    description: str = ""
    status: Literal["draft", "active", "archived"] = "active"
    is_default: bool = False
    latest_version: int = 0
    created_at: TimeMs = 0
    updated_at: TimeMs = 0
    published_at: TimeMs | None = None


@record(frozen=True, slots=True)
class ApiKey:
    """A key of a tenant. Its text is shown once, when it is made; what is kept is the SHA-256 of that.

    ``prefix`` says what it is for: ``pk_`` stands in pages and makes visitors, from ``origins`` only. The
    origins are in the normal form (lower case, no default port), each once. ``expires_at`` None: no end.
    """

    key_id: str
    tenant_id: str
    prefix: Literal["pk_", "sk_"]
    sha256: str
    name: str
    description: str = ""
    user_id: str | None = None
    role: str = "visitor"
    scopes: tuple[str, ...] = ()
    tier: str = "standard"
    rate_limit_per_minute: int | None = None
    origins: tuple[str, ...] = ()
    expires_at: TimeMs | None = None
    is_active: bool = True
    created_by: str | None = None
    created_at: TimeMs = 0
    last_used_at: TimeMs | None = None

    def works_at(self, now: TimeMs) -> bool:
        """Tell whether the key is good at a time."""
        return self.is_active and (self.expires_at is None or now < self.expires_at)


class KeyPlace(NamedTuple):
    """A place in the list of a tenant's keys: behind the one that is named."""

    created_at: TimeMs
    key_id: str
