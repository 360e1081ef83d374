"""What lists and inboxes find conversations by: derived from the record, stored beside it.

Two questions name no conversation: which executions does a tenant have, and what waits for people. An
index over what every turn changes would cost each of them, so both are answered from what changes seldom
(``docs/decisions/0021-lists-follow-what-changes-seldom.md``). A plain turn derives the same as the turn
before it, and an adapter then writes nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from storage.models import ENDED, Conversation, Pending, TimeMs

ACTIVITY_MS: Final = 3_600_000
"""While nothing else changes, the time of a listing moves on once in each of these."""
ANY_SCOPE: Final = "scope:admin"
"""Who may everything decides what any scope may."""
DEFAULT_SCOPE: Final = "acceptance:decide"
HANDOFF_SCOPE: Final = "conversations:write"
IDLE: Final = "idle"
"""The status of a conversation that has no execution: none was started, or it was reset."""

WaitKind = Literal["acceptance", "clarification", "handoff"]


class Listing(NamedTuple):
    """Where a conversation, and its current execution, stands in lists.

    Without an execution the status is ``IDLE`` and the flow id empty.

    ``active_at`` is when its status last changed, or later in the hour of its last activity: it moves with
    the first commit of each hour and with each change of the other fields.
    """

    status: str
    flow_id: str
    user_id: str | None
    project_id: str | None
    active_at: TimeMs


class Wait(NamedTuple):
    """One thing that waits for people. ``wait_id`` is the pending id; of a hand-off, the execution's.

    ``deciders`` are ``user:NAME`` and ``scope:NAME``: any one of them may see to it.
    """

    wait_id: str
    since: TimeMs
    kind: WaitKind
    deciders: tuple[str, ...]


class ListPlace(NamedTuple):
    """A place in the list of executions: behind the one that is named."""

    active_at: TimeMs
    conversation_id: str


class WaitPlace(NamedTuple):
    """A place in an inbox: behind the one that is named."""

    since: TimeMs
    wait_id: str


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which are listed; None does not ask. ``since`` <= ``active_at`` < ``until``."""

    status: str | None = None
    flow_id: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    since: TimeMs | None = None
    until: TimeMs | None = None

    def takes(self, listing: Listing) -> bool:
        """Tell whether a listing is asked for."""
        asked = (self.status, self.flow_id, self.user_id, self.project_id)
        if any(want is not None and want != found for want, found in zip(asked, listing[:4], strict=True)):
            return False
        if self.since is not None and listing.active_at < self.since:
            return False
        return self.until is None or listing.active_at < self.until


@dataclass(frozen=True, slots=True)
class Listed:
    """One item of a list: its place, and the conversation."""

    place: ListPlace
    record: Conversation


@dataclass(frozen=True, slots=True)
class Waiting:
    """One item of an inbox."""

    place: WaitPlace
    kind: WaitKind
    conversation_id: str


@dataclass(frozen=True, slots=True)
class ExecutionPlace:
    """Where an execution is found: its conversation, and the offset that its events begin at or behind."""

    conversation_id: str
    first_offset: int


def listing_of(record: Conversation) -> Listing | None:
    """Return where the record stands in lists; None where it was deleted."""
    if record.deleted_at is not None:
        return None
    execution = record.execution
    if execution is None:
        return Listing(IDLE, "", record.user_id, record.project_id, record.last_activity)
    return Listing(
        execution.status, execution.flow_id, record.user_id, execution.project_id, execution.updated_at
    )


def is_same(one: Listing | None, other: Listing | None) -> bool:
    """Tell whether a listing may stay as it is: nothing but the time within its hour has changed."""
    if one is None or other is None:
        return one is other
    return one[:4] == other[:4] and one.active_at // ACTIVITY_MS == other.active_at // ACTIVITY_MS


def says_it_all(record: Conversation, listing: Listing | None, waits: tuple[Wait, ...]) -> bool:
    """Tell whether ``listing`` and ``waits`` are what the record needs. Each commit asks, so it is quick.

    The same as ``is_same(listing_of(record), listing) and waits_of(record) == waits``.
    """
    execution = record.execution
    if execution is None or listing is None or record.deleted_at is not None:
        return is_same(listing_of(record), listing) and waits_of(record) == waits
    if (
        execution.status != listing.status
        or execution.flow_id != listing.flow_id
        or execution.updated_at // ACTIVITY_MS != listing.active_at // ACTIVITY_MS
        or record.user_id != listing.user_id
        or execution.project_id != listing.project_id
    ):
        return False
    for pending in execution.pending:
        if pending.kind != "input":
            return waits_of(record) == waits
    return not waits if execution.status != "paused" else waits_of(record) == waits


def waits_of(record: Conversation) -> tuple[Wait, ...]:
    """Return what of the record waits for people: open acceptances and clarifications, a hand-off.

    Input does not: it is the user's next message, and every conversation waits for that. Nor does what an
    operator paused: that operator knows of it.
    """
    execution = record.execution
    if execution is None or execution.status in ENDED or record.deleted_at is not None:
        return ()
    found = [
        Wait(p.pending_id, p.created_at, p.kind, tuple(deciders_of(p, record.user_id)))
        for p in execution.pending
        if p.kind != "input" and p.decided is None
    ]
    pause = execution.pause
    if pause is not None and pause.then == "next" and execution.status == "paused":
        deciders = (f"scope:{HANDOFF_SCOPE}", ANY_SCOPE)
        found.append(Wait(execution.execution_id, pause.since, "handoff", deciders))
    return tuple(found)


def deciders_of(pending: Pending, owner: str | None) -> Iterator[str]:
    """Yield who may decide a request: its owner where ``by`` names nobody, else whom it names.

    A workflow without a user has nobody to ask but who has the scope.
    """
    by: Mapping[str, object] | None = pending.by
    if by is None and owner is not None:
        yield f"user:{owner}"
        return
    user, scope = (by or {}).get("user"), (by or {}).get("scope")
    if user is not None:
        yield f"user:{user}"
    if scope is not None or user is None:
        yield f"scope:{scope or DEFAULT_SCOPE}"
        yield ANY_SCOPE
