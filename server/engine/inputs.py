"""What the reducer folds, and what it gives back.

Inputs are facts: a command that was accepted, the result of an effect, time that has come. They are
reduced again, unchanged, when a commit misses; so nothing in them may depend on the record.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, Protocol

from server.auth.principal import Principal
from server.engine.flow.model import Flow
from server.engine.types import Command
from storage.models import Attempt, CommandState, Conversation, Event
from storage.record import record

FailureKind = Literal["error", "timeout", "unavailable", "bad_result", "interrupted"]


@record(frozen=True, slots=True)
class CommandInput:
    """A command that is accepted by the commit of this reduction."""

    command: Command
    principal: Principal


@record(frozen=True, slots=True)
class NextInbox:
    """The first command of the inbox has its turn. A refusal becomes its ``turn.failed``.

    ``broken``: it cannot be reduced, and is settled as failed.
    """

    broken: bool = False


@record(frozen=True, slots=True)
class EffectDone:
    """An effect returned ``value`` (plain JSON)."""

    key: str
    number: int
    value: Any
    duration_ms: int


@record(frozen=True, slots=True)
class EffectFailed:
    """An effect failed. ``message`` is safe to show. ``unknown``: it may have happened nevertheless."""

    key: str
    number: int
    kind: FailureKind
    message: str
    duration_ms: int
    unknown: bool = False


@record(frozen=True, slots=True)
class EffectProgress:
    """A running effect has something to tell."""

    key: str
    number: int
    text: str


@record(frozen=True, slots=True)
class Wake:
    """The record's ``wake_at`` has come: a retry is due, a lease has run out, or a fold goes on."""

    reason: Literal["due", "orphaned", "continue"] = "due"
    """``orphaned``: the lease's owner is known to be dead, although the lease has not run out.
    ``continue``: this owner split its fold and goes on."""


@record(frozen=True, slots=True)
class Erase:
    """The conversation is deleted: what remains is a tombstone."""


Input = CommandInput | NextInbox | EffectDone | EffectFailed | EffectProgress | Wake | Erase


@record(frozen=True, slots=True)
class Reduction:
    """The outcome of one reduction; the runner makes it durable.

    Attributes:
        record: the next record, complete.
        events: what happened, with offsets.
        effects: attempts to run once their intent (this commit) is durable.
        key: the idempotency key that this commit accepts, with its ``body_hash``.
        status: of the accepted command.
        result: data of the accepted command's ``turn.*``, if it ended.
        unfinished: pure steps are left; reduce ``Wake`` again right after the commit.
    """

    record: Conversation
    events: tuple[Event, ...]
    effects: tuple[Attempt, ...] = ()
    key: str | None = None
    body_hash: str | None = None
    status: CommandState = "completed"
    result: Mapping[str, Any] | None = None
    unfinished: bool = False


@record(frozen=True, slots=True)
class Started:
    """Which flow a message starts, and which version of it."""

    flow: Flow
    version: int
    intent: str | None = None


class Flows(Protocol):
    """The flows that a tenant's conversations may run: a consistent picture, without I/O."""

    def version(self, flow_id: str, version: int) -> Flow | None:
        """Return a compiled version; it is there for every version that the record names."""

    def newest(self, flow_id: str) -> Started | None:
        """Return the newest published version of a flow that may be started."""

    def understand(
        self, text: str | None, payload: str | None, among: tuple[str, ...] | None
    ) -> Started | None:
        """Return the flow whose triggers fit best; ``among`` restricts the choice."""

    def default(self) -> Started | None:
        """Return the tenant's default flow."""

    def config(self) -> Mapping[str, Any]:
        """Return what flows read as ``config``."""


@record(frozen=True, slots=True)
class Incoming:
    """A message as steps see it: cleaned text, a pressed button's payload, and who sent it."""

    text: str | None
    payload: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The text, or the payload where a button was pressed."""
        return self.text if self.text is not None else (self.payload or "")
