r"""The engine's heart: (record, input, now, seed, flows) -> the next record, its events, its effects.

Pure: no clock, no randomness, no I/O; the same arguments give the same result, so an input can be
reduced again on a fresher record when a commit misses. This module is the specification of what each
command does in each status:

=============== ============== =========== ================ ===================== ==================
\\               none or ended  running     waiting_input    other waits           paused
=============== ============== =========== ================ ===================== ==================
process         starts a flow  (the inbox) the step's input digression, or the    recorded, for the
                                                            step's while_waiting  person who reads
start           starts it      ``conversation_busy``, but for ``on_busy``: the inbox, or ``interrupt``
acceptance,     by its pending id, in every status
clarification
signal          wrong_state    (the inbox) wrong_state, but for a frame that      kept for later
                                           waits for the event
pause           wrong_state    at the next pauses           pauses                wrong_state
                               safe point
resume          wrong_state    wrong_state wrong_state      wrong_state           goes on
retry           where a step failed, at that step; else ``wrong_state``
context         wrong_state    (the inbox) done             done                  done
cancel          wrong_state    pre-empts   ends             ends                  ends
reset           done           pre-empts   done             done                  done
=============== ============== =========== ================ ===================== ==================

The runner keeps commands away from a running execution (they wait in the inbox), checks who may do
what, and makes the reduction durable.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, assert_never

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.draft import Draft
from server.engine.folding.commands import run_command
from server.engine.folding.effects import effect_result, note_progress
from server.engine.folding.ending import interrupt, is_safe_point, wants_interrupt
from server.engine.folding.turns import reduction, refuse_turn
from server.engine.folding.waking import wake
from server.engine.inputs import (
    CommandInput,
    EffectDone,
    EffectFailed,
    EffectProgress,
    Erase,
    Flows,
    Input,
    NextInbox,
    Reduction,
    Wake,
)
from server.engine.schedule import Claimant
from server.engine.types import Command
from storage.models import LATE_FLUSH_MS, RING_SIZE, TOMBSTONE_MS, Conversation

CREATING: Final = frozenset({"process", "start"})
"""The commands that create the conversation where it is missing."""


def reduce(
    record: Conversation | None,
    event: Input,
    *,
    now: int,
    seed: str,
    flows: Flows,
    claimant: Claimant,
    conversation: tuple[str, str] = ("", ""),
    ring_size: int = RING_SIZE,
    session_ms: int = 0,
) -> Reduction | None:
    """Fold one input.

    Args:
        record: the conversation as it is, or None where it does not exist.
        event: what happened.
        now: the store's time, ms.
        seed: 32 hex digits, different for every call.
        flows: the tenant's flows, with every version that ``record`` names.
        claimant: who takes the lease if an effect follows.
        conversation: (tenant, conversation id), for a command that creates it.
        ring_size: how many idempotency keys the record keeps.
        session_ms: how long an execution waits for its user before it expires; 0: for ever.

    Returns:
        The reduction; None where nothing is to be done (a result whose attempt is no longer open).

    Raises:
        Refused: the command is refused and nothing changes.
    """
    match event:
        case CommandInput(command, principal):
            record = record or _new_conversation(command, principal, conversation, now, seed)
            draft = Draft(record, now, seed, flows, claimant, ring_size, session_ms)
            return _accept(draft, command, principal)
        case NextInbox(broken):
            return _next_inbox(
                record,
                broken,
                lambda waiting: Draft(waiting, now, seed, flows, claimant, ring_size, session_ms),
            )
    if record is None or record.deleted_at is not None:
        return None
    draft = Draft(record, now, seed, flows, claimant, ring_size, session_ms)
    match event:
        case EffectDone() | EffectFailed():
            return effect_result(draft, event)
        case EffectProgress():
            return note_progress(draft, event)
        case Wake():
            return wake(draft, event)
        case Erase():
            return _erase(draft)
        case _:
            assert_never(event)


def _accept(draft: Draft, command: Command, principal: Principal) -> Reduction:
    run_command(draft, command, principal, created=draft.before.revision == 0)
    return reduction(draft, command.key, command.body_hash)


def _next_inbox(
    record: Conversation | None, broken: bool, open_draft: Callable[[Conversation], Draft]
) -> Reduction | None:
    if record is None or record.deleted_at is not None or not record.inbox:
        return None
    if record.execution is not None and record.execution.status == "running":
        draft = open_draft(record)
        if not (wants_interrupt(draft) and is_safe_point(draft)):
            return None
        interrupt(draft)
        return reduction(draft)
    entry, rest = record.inbox[0], record.inbox[1:]
    command = Command(
        entry.command["type"],
        record.conversation_id,
        entry.key,
        entry.body_hash,
        entry.command,
        correlation_id=entry.correlation_id,
        request_id=entry.request_id,
    )
    waiting = replace(record, inbox=rest)
    draft = open_draft(waiting)
    if entry.void:
        refusal = Refused(ErrorCode.CANCELLED, "The conversation was reset before this message had its turn.")
        refuse_turn(draft, command, refusal)
    elif broken:
        refuse_turn(draft, command, Refused(ErrorCode.STEP_FAILED, "This could not be worked on."))
    else:
        try:
            run_command(draft, command, Principal.from_record(entry.principal))
        except Refused as refused:
            draft = open_draft(waiting)
            refuse_turn(draft, command, refused)
    return reduction(draft, entry.key, entry.body_hash)


def conversation_not_found() -> Refused:
    """Return the one refusal that a missing, a deleted and a foreign conversation have in common."""
    return Refused(
        ErrorCode.CONVERSATION_NOT_FOUND, "There is no such conversation.", field="conversation_id"
    )


def _new_conversation(
    command: Command, principal: Principal, conversation: tuple[str, str], now: int, seed: str
) -> Conversation:
    if command.type not in CREATING:
        raise conversation_not_found()
    body = command.body
    # A workflow that is started may have no user at all; a message has always been said by somebody.
    user_id = body.get("user_id") if "user_id" in body else principal.user_id
    if command.type == "process":
        user_id = user_id or principal.user_id
    return Conversation(
        tenant_id=conversation[0],
        conversation_id=conversation[1],
        user_id=user_id,
        project_id=body.get("project_id"),
        epoch="e" + seed[:20],
        channel=body.get("channel") or "web",
        locale=command.locale,
        timezone=command.timezone,
        created_at=now,
        last_activity=now,
    )


def _erase(draft: Draft) -> Reduction:
    """Leave a tombstone: the ids, the fence, and nothing that anybody said."""
    before = draft.before
    record = Conversation(
        tenant_id=before.tenant_id,
        conversation_id=before.conversation_id,
        user_id=None,
        epoch=before.epoch,
        offset=before.offset,
        revision=before.revision + 1,
        fence=before.fence + 1,
        commit_id=draft.seed,
        wake_at=draft.now + LATE_FLUSH_MS,
        deleted_at=draft.now,
        expires_at=draft.now + TOMBSTONE_MS,
        created_at=before.created_at,
        last_activity=draft.now,
    )
    return Reduction(record=record, events=())
