"""The records of the protocol as frozen dataclasses: messages, pending requests, state, snapshot, turn.

They are made from JSON leniently: unknown fields are ignored, missing ones take their default, so that
a newer server does not break this client. Times are the wire's ISO 8601 texts; ``parse_time`` reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = [
    "Button",
    "Execution",
    "HistoryPage",
    "InboxItem",
    "Message",
    "Pending",
    "Question",
    "Receipt",
    "Snapshot",
    "State",
    "Turn",
    "parse_time",
]

Json = Any


def parse_time(text: str) -> datetime:
    """Read a time of the wire, e.g. ``2026-01-01T00:00:00.000Z``, as an aware ``datetime``."""
    return datetime.fromisoformat(text)


def mapping(value: Json) -> Mapping[str, Json]:
    """Return a JSON object, or an empty one where it is something else."""
    return value if isinstance(value, dict) else {}


def items(value: Json) -> tuple[Mapping[str, Json], ...]:
    """Return the objects of a JSON list, or nothing where it is something else."""
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True)
class Button:
    """A quick reply; pressing it is ``chat.send(payload=button.payload)``."""

    title: str
    payload: str


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody said: ``role`` is user, assistant, agent or system."""

    message_id: str
    role: str
    text: str | None = None
    type: str = "text"
    payload: Json = None
    buttons: tuple[Button, ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict)
    user_id: str | None = None
    time: str | None = None
    offset: int | None = None

    @classmethod
    def from_wire(cls, raw: Mapping[str, Json]) -> "Message":
        """Make one from a message record."""
        return cls(
            message_id=str(raw.get("message_id", "")),
            role=str(raw.get("role", "")),
            text=raw.get("text"),
            type=str(raw.get("type", "text")),
            payload=raw.get("payload"),
            buttons=tuple(
                Button(str(each.get("title", "")), str(each.get("payload", "")))
                for each in items(raw.get("buttons"))
            ),
            metadata=mapping(raw.get("metadata")),
            user_id=raw.get("user_id"),
            time=raw.get("time"),
            offset=raw.get("offset"),
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a clarification."""

    id: str
    text: str
    type: str = "text"
    options: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class Pending:
    """An open question of an execution to a person: ``kind`` is input, clarification or acceptance.

    Attributes:
        editable: names of the slots that may be changed in accepting.
        by: ``{scope, user, quorum}`` of who decides; None: the conversation's owner.
        answers: those given so far, by question id.
        votes: of an acceptance that takes several: ``{by, at, accepted, comment}`` each.
        digest: stands for the effect that an acceptance lets run, with its arguments.
        decided: ``{by, at, accepted, comment, edits, answers, digest}`` once it is closed; ``by`` None
            where nobody answered in time.
    """

    pending_id: str
    kind: str
    step_id: str | None = None
    title: str | None = None
    prompt: str | None = None
    questions: tuple[Question, ...] = ()
    editable: tuple[str, ...] = ()
    by: Mapping[str, Json] | None = None
    answers: Mapping[str, Json] = field(default_factory=dict)
    votes: tuple[Mapping[str, Json], ...] = ()
    digest: str | None = None
    deadline: str | None = None
    created_at: str | None = None
    decided: Mapping[str, Json] | None = None

    @classmethod
    def from_wire(cls, raw: Mapping[str, Json]) -> "Pending":
        """Make one from a pending record."""
        return cls(
            pending_id=str(raw.get("pending_id", "")),
            kind=str(raw.get("kind", "")),
            step_id=raw.get("step_id"),
            title=raw.get("title"),
            prompt=raw.get("prompt"),
            questions=tuple(
                Question(
                    id=str(each.get("id", "")),
                    text=str(each.get("text", "")),
                    type=str(each.get("type", "text")),
                    options=tuple(each.get("options") or ()),
                    required=bool(each.get("required", True)),
                )
                for each in items(raw.get("questions"))
            ),
            editable=tuple(raw.get("editable") or ()),
            by=raw.get("by"),
            answers=mapping(raw.get("answers")),
            votes=items(raw.get("votes")),
            digest=raw.get("digest"),
            deadline=raw.get("deadline"),
            created_at=raw.get("created_at"),
            decided=raw.get("decided"),
        )


@dataclass(frozen=True, slots=True)
class State:
    """Where a conversation stands. ``raw`` is the whole record as it came."""

    conversation_id: str
    current_state: str = "idle"
    status: str = "idle"
    flow_id: str | None = None
    flow_version: int | None = None
    user_id: str | None = None
    channel: str | None = None
    locale: str | None = None
    slots: Mapping[str, Json] = field(default_factory=dict)
    variables: Mapping[str, Json] = field(default_factory=dict)
    pending: tuple[Pending, ...] = ()
    completed_steps: tuple[str, ...] = ()
    created_at: str | None = None
    last_activity: str | None = None
    message_count: int = 0
    epoch: str | None = None
    offset: int = 0
    truncated: bool = False
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_wire(cls, raw: Mapping[str, Json]) -> "State":
        """Make one from a state record."""
        return cls(
            conversation_id=str(raw.get("conversation_id", "")),
            current_state=str(raw.get("current_state") or "idle"),
            status=str(raw.get("status") or "idle"),
            flow_id=raw.get("flow_id"),
            flow_version=raw.get("flow_version"),
            user_id=raw.get("user_id"),
            channel=raw.get("channel"),
            locale=raw.get("locale"),
            slots=mapping(raw.get("slots")),
            variables=mapping(raw.get("variables")),
            pending=tuple(Pending.from_wire(each) for each in items(raw.get("pending"))),
            completed_steps=tuple(raw.get("completed_steps") or ()),
            created_at=raw.get("created_at"),
            last_activity=raw.get("last_activity"),
            message_count=raw.get("message_count") or 0,
            epoch=raw.get("epoch"),
            offset=raw.get("offset") or 0,
            truncated=bool(raw.get("truncated", False)),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What this client knows of a conversation now: the server's snapshot with the events since folded in.

    Attributes:
        epoch: None while the conversation does not exist.
        offset: everything up to here is folded in.
        state: None while the conversation does not exist; its ``pending`` is this ``pending``.
        messages: the newest ones, oldest first, at most 1,000.
        before: pass it to ``chat.history(before=...)`` to go on backwards; None where nothing is older.
        pending: open requests to a person.
        partials: texts so far of messages that are being written, by message id.
    """

    conversation_id: str
    epoch: str | None
    offset: int
    state: State | None
    messages: tuple[Message, ...]
    before: int | None
    pending: tuple[Pending, ...]
    partials: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Older messages, oldest first; ``before`` asks for the page before this one (None: there is none)."""

    messages: tuple[Message, ...]
    before: int | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What one command caused, from its acceptance to the next wait or the end.

    Attributes:
        command_id: the command's idempotency key.
        messages: what the flow said in it.
        state: the step that the conversation is at now; ``idle`` when none.
        slots: the slots that changed, by name (empty for viewers who may not see them).
        variables: the variables that changed and are exposed, by name.
        success: False where the turn failed (then ``TurnFailed`` carries this record).
        duplicate: the key was known; this is the outcome of the first time.
        raw: the data of the ``turn.*`` event as it came.
    """

    conversation_id: str
    command_id: str
    messages: tuple[Message, ...] = ()
    state: str = "idle"
    slots: Mapping[str, Json] = field(default_factory=dict)
    variables: Mapping[str, Json] = field(default_factory=dict)
    actions: tuple[Mapping[str, Json], ...] = ()
    processing_time_ms: float | None = None
    success: bool = True
    ab_variant: str | None = None
    execution_id: str | None = None
    duplicate: bool = False
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False, compare=False)

    @property
    def text(self) -> str:
        """What the flow said, as one text: the messages' texts, a line each."""
        return "\n".join(message.text for message in self.messages if message.text)

    @classmethod
    def from_wire(
        cls,
        conversation_id: str,
        command_id: str,
        data: Mapping[str, Json],
        *,
        completed: bool,
        execution_id: str | None = None,
        duplicate: bool = False,
    ) -> "Turn":
        """Make one from the data of a ``turn.*`` event, which is an ack's ``result`` too."""
        updates = mapping(data.get("context_updates"))
        response = mapping(data.get("response"))
        return cls(
            conversation_id=conversation_id,
            command_id=command_id,
            messages=tuple(Message.from_wire(each) for each in items(response.get("messages"))),
            state=str(data.get("current_state") or "idle"),
            slots=mapping(updates.get("slots")),
            variables=mapping(updates.get("variables")),
            actions=items(data.get("actions_performed")),
            processing_time_ms=data.get("processing_time_ms"),
            success=completed and bool(data.get("success", True)),
            ab_variant=data.get("ab_variant"),
            execution_id=execution_id,
            duplicate=duplicate,
            raw=data,
        )


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a flow. ``raw`` is the whole record as it came.

    Attributes:
        status: running, waiting_input, waiting_clarification, waiting_acceptance, waiting_timer,
            waiting_event, paused, completed, failed, cancelled or expired.
        input: what it was started with, besides slots and variables.
        output: what its ``end`` step gave.
        error: ``{code, message, step_id, details}`` where it failed.
        pending: its open requests that this viewer may see.
    """

    execution_id: str
    conversation_id: str | None = None
    status: str = "pending"
    flow_id: str | None = None
    flow_version: int | None = None
    project_id: str | None = None
    user_id: str | None = None
    input: Json = None
    output: Json = None
    error: Mapping[str, Json] | None = None
    current_step_id: str | None = None
    completed_steps: tuple[str, ...] = ()
    pending: tuple[Pending, ...] = ()
    correlation_id: str | None = None
    request_id: str | None = None
    started_at: str | None = None
    updated_at: str | None = None
    completed_at: str | None = None
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in it (but for ``retry`` of one that has failed)."""
        return self.status in ("completed", "failed", "cancelled", "expired")

    @classmethod
    def from_wire(cls, raw: Mapping[str, Json]) -> "Execution":
        """Make one from an execution record."""
        return cls(
            execution_id=str(raw.get("execution_id", "")),
            conversation_id=raw.get("conversation_id"),
            status=str(raw.get("status") or "pending"),
            flow_id=raw.get("flow_id"),
            flow_version=raw.get("flow_version"),
            project_id=raw.get("project_id"),
            user_id=raw.get("user_id"),
            input=raw.get("input"),
            output=raw.get("output"),
            error=raw.get("error"),
            current_step_id=raw.get("current_step_id"),
            completed_steps=tuple(raw.get("completed_steps") or ()),
            pending=tuple(Pending.from_wire(each) for each in items(raw.get("pending"))),
            correlation_id=raw.get("correlation_id"),
            request_id=raw.get("request_id"),
            started_at=raw.get("started_at"),
            updated_at=raw.get("updated_at"),
            completed_at=raw.get("completed_at"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class InboxItem:
    """What waits for a person somewhere in the tenant; decide it by ``parley.execution(execution_id)``.

    Attributes:
        kind: acceptance, clarification or handoff.
        wait_id: its own id: of the request, or of the execution that is handed off.
        since: when it began to wait.
        user_id: whose conversation it is; None of a workflow without a user.
        pending: the request itself; None of a hand-off.
    """

    kind: str
    execution_id: str
    conversation_id: str | None = None
    flow_id: str | None = None
    user_id: str | None = None
    wait_id: str = ""
    since: str | None = None
    pending: Pending | None = None
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_wire(cls, raw: Mapping[str, Json]) -> "InboxItem":
        """Make one from an item of the inbox."""
        pending = raw.get("pending")
        return cls(
            kind=str(raw.get("kind", "")),
            execution_id=str(raw.get("execution_id", "")),
            conversation_id=raw.get("conversation_id"),
            flow_id=raw.get("flow_id"),
            user_id=raw.get("user_id"),
            wait_id=str(raw.get("wait_id", "")),
            since=raw.get("since"),
            pending=Pending.from_wire(pending) if isinstance(pending, dict) else None,
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """A command is durable: what REST answers before the turn that follows has ended.

    Attributes:
        command_id: its idempotency key.
        status: running or queued; completed or failed where the turn has ended already.
        duplicate: the key was known; this is the outcome of the first time.
        turn: what it caused, where the turn has ended already.
    """

    command_id: str
    status: str = "running"
    duplicate: bool = False
    execution_id: str | None = None
    conversation_id: str | None = None
    turn: Turn | None = None
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_wire(cls, raw: Mapping[str, Json]) -> "Receipt":
        """Make one from a reply."""
        command_id, status = str(raw.get("command_id", "")), str(raw.get("status") or "running")
        conversation_id, execution_id = raw.get("conversation_id"), raw.get("execution_id")
        duplicate, result = bool(raw.get("duplicate", False)), raw.get("result")
        turn = None
        if isinstance(result, dict):
            turn = Turn.from_wire(
                str(conversation_id or ""),
                command_id,
                result,
                completed=status == "completed",
                execution_id=execution_id,
                duplicate=duplicate,
            )
        return cls(
            command_id=command_id,
            status=status,
            duplicate=duplicate,
            execution_id=execution_id,
            conversation_id=conversation_id,
            turn=turn,
            raw=raw,
        )
