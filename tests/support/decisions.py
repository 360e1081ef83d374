"""What was decided in a run, and what was done about it; rules for ``checker``.

- ``decisions``: a request ends once and was shown before; a decision that was acked is the one in the log,
  and who lost was told what the log says;
- ``approved``: what an acceptance was asked for did not run without one, and hashes to the digest approved.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from storage.models import Event
from tests.support.durable_log import Log, wire_time
from tests.support.evidence import Command, Evidence, Violation

CLOSES: Final = frozenset({"pending.resolved", "pending.expired"})
REQUESTS: Final = frozenset({"acceptance.requested", "clarification.requested"})
TOLD: Final = frozenset({"accepted", "edits", "answers"})
OUTCOMES: Final = {"pending_resolved": "pending.resolved", "pending_expired": "pending.expired"}
DECIDING: Final = frozenset({"acceptance", "clarification"})


@dataclass(slots=True)
class Request:
    """What a log says of a request: each time it was shown, and how it ended."""

    shown: list[Event] = field(default_factory=list)
    closed: list[Event] = field(default_factory=list)

    @property
    def decided(self) -> Mapping[str, Any] | None:
        return self.closed[0].data["decided"] if self.closed else None


def requests_of(log: Log) -> dict[str, Request]:
    """Return the requests to people that a log tells of, by id."""
    found: dict[str, Request] = {}
    for event in log.events:
        if event.type in REQUESTS:
            found.setdefault(event.data["pending_id"], Request()).shown.append(event)
        elif event.type in CLOSES:
            found.setdefault(event.data["pending_id"], Request()).closed.append(event)
    return found


def requests_end_once(evidence: Evidence) -> Iterator[Violation]:
    """Shown, then closed, and never again; what the log leaves open, the record has open."""
    for where, log in evidence.logs.items():
        known = log.record.execution.pending if log.record.execution is not None else ()
        still = {p.pending_id for p in known if p.kind != "input" and p.decided is None}
        for pending_id, request in requests_of(log).items():
            for what in _not_once(request, is_open=pending_id in still):
                yield Violation("decisions", where, f"{pending_id} {what}")


def _not_once(request: Request, *, is_open: bool) -> Iterator[str]:
    if not request.shown:
        yield "was closed and never shown"
    if len(request.closed) != (not is_open):
        yield f"is {'open' if is_open else 'gone'} and was closed {len(request.closed)} times"
    for closed in request.closed:
        decided = closed.data["decided"]
        if request.shown and request.shown[-1].offset > closed.offset:
            yield "was shown after its end"
        if (closed.type == "pending.resolved") != (decided["by"] is not None):
            yield f"ended in {closed.type}, decided by {decided['by']}"
        if decided["at"] != wire_time(closed.time):
            yield f"was decided at {decided['at']}, which is not when"


def decisions_are_true(evidence: Evidence) -> Iterator[Violation]:
    """Who won, who lost and who only voted was told what is in the log; nobody decides unasked."""
    for where, log in evidence.logs.items():
        requests = requests_of(log)
        sent = {command.key: command for command in evidence.sent_to(where)}
        for command in sent.values():
            if command.type in DECIDING:
                request = requests.get(command.frame["pending_id"])
                for what in (*_not_counted(command, request, log), *_told_falsely(command, request)):
                    yield Violation("decisions", where, f"{command.client}: {command.key} {what}")
        for pending_id, request in requests.items():
            for closed in request.closed:
                by = sent.get(str(closed.command_id))
                if closed.type == "pending.resolved" and (by is None or not _may_resolve(by, pending_id)):
                    yield Violation("decisions", where, f"{pending_id} was decided by {closed.command_id}")


def _may_resolve(command: Command, pending_id: str) -> bool:
    return command.type == "process" or command.frame.get("pending_id") == pending_id


def _not_counted(command: Command, request: Request | None, log: Log) -> Iterator[str]:
    """Yield what is missing of a decision that was acked, or that the log has."""
    if not command.acks and command.key not in log.by_key:
        return
    mine = [event for event in request.closed if event.command_id == command.key] if request else []
    votes = [event for event in request.shown if event.command_id == command.key] if request else []
    if len(mine) + len(votes) != 1:
        yield f"was accepted and decided {len(mine)} times, voted {len(votes)} times"
    for closed in mine:
        wanted = {name: value for name, value in command.frame.items() if name in TOLD}
        found = {name: closed.data["decided"][name] for name in wanted}
        if found != wanted:
            yield f"decided {wanted}, the log says {found}"


def _told_falsely(command: Command, request: Request | None) -> Iterator[str]:
    """Yield where somebody was told another outcome than the log's."""
    for error in command.errors:
        closes = OUTCOMES.get(error["code"])
        details = error["details"] or {}
        if closes is None or "vote" in details:
            continue
        closed = request.closed[0] if request is not None and request.closed else None
        if closed is None or closed.type != closes:
            yield f"was told {error['code']}, the log says {closed.type if closed else 'nothing'}"
        elif details.get("decided") != closed.data["decided"]:
            yield f"was told {details.get('decided')}, the log says {closed.data['decided']}"


# --- what was done about it -----------------------------------------------------------------------


def effects_as_approved(evidence: Evidence) -> Iterator[Violation]:
    """A write in an execution that asked before is what was accepted, to the byte, and once for each time."""
    performs = frozenset(line.place[1] for line in evidence.effects)
    approvals = (_approvals(log, performs) for log in evidence.logs.values())
    approved = {place: digest for found in approvals for place, digest in found}
    for line in evidence.effects:
        log = evidence.logs.get(line.conversation_id)
        if line.effect != "write" or line.phase != "before" or log is None or not _asks(log, line.place[0]):
            continue
        digest, ran = approved.get(line.place), digest_of(line.action, line.arguments)
        if digest is None:
            yield Violation("approved", line.conversation_id, f"{line.key} ran without an approval")
        elif digest != ran:
            yield Violation("approved", line.conversation_id, f"{line.key} ran as {dict(line.arguments)}")


def _asks(log: Log, execution_id: str) -> bool:
    return any(e.type == "acceptance.requested" and e.execution_id == execution_id for e in log.events)


def _approvals(log: Log, performs: frozenset[str]) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Yield (execution, step, visit) and the digest approved for it: the first effect after the approval."""
    waiting: dict[str | None, str] = {}
    for event in log.events:
        if event.type in CLOSES and event.data["decided"]["accepted"]:
            waiting[event.execution_id] = event.data["decided"]["digest"]
        elif event.type == "step.started" and event.step_id in performs and event.execution_id in waiting:
            place = (str(event.execution_id), str(event.step_id), event.data["visit"])
            yield place, waiting.pop(event.execution_id)


def digest_of(action: str, arguments: Mapping[str, Any]) -> str:
    """Return the digest of an effect as the design defines it, without the server's help."""
    whole = {"action": action, "arguments": arguments}
    return sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
