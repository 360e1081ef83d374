"""Decides whether the server kept its promises in a run.

Three things are compared: what every client did and saw, what every effect did to the world
(``history``), and the log in the store (``durable_log``). The checker trusts neither the server nor the
SDK; it reads the frames itself. What a client does not know (no answer, a lost connection, a time-out)
counts as unknown: it may have happened or not. Everything else is held against the log:

- ``durable``: what was acked is in the log, and the ack says what the log says;
- ``once``: a key is accepted once, has one transition and one ``turn.*``, in one piece;
- ``refused``: what was refused left no trace;
- ``effects``: an intent before each effect, a result behind it, a ``write`` never twice;
- ``order``: what one client sent, and what was sent after another's ack, is in the log in that order;
- ``offsets``: contiguous, the same for all observers, whole commits, nothing hidden or invented;
- ``gaps``: each is followed by a replay or a snapshot, and nobody misses the end;
- ``state``: each state and snapshot that was shown is the fold of the events up to its offset;
- ``answers``: nobody waits for ever;
- ``decisions`` and ``approved``: see ``decisions``.

Those from ``offsets`` on are about who watches (``observers``) and who decides (``decisions``).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from storage.models import Audience
from tests.support import decisions, observers
from tests.support.durable_log import TURN_ENDS, Log, wire_event
from tests.support.evidence import Command, Evidence, Violation
from tests.support.history import EffectLine, Frame, History

UNDECIDED: Final = frozenset({"store_unavailable", "internal", "overloaded", "rate_limited"})
"""Errors that nobody decided on the conversation: an earlier sending may have been accepted."""


def check(
    history: History,
    logs: Mapping[str, Log],
    effects: Sequence[EffectLine] | None = None,
    *,
    calm: bool = True,
) -> list[Violation]:
    """Hold a run against the log; return what was broken (empty: nothing).

    Args:
        history: what the clients did and saw.
        logs: the log of every conversation that exists, by id, read after the run.
        effects: what the actions did; None: nobody wrote that down.
        calm: the run was let come to rest, so everybody has been answered and nothing is open.
    """
    evidence = Evidence(history.entries, history.audiences, logs, effects or ())
    rules: list[Callable[[Evidence], Iterable[Violation]]] = [
        *(_log_is_whole, _acked_is_durable, _once, _refused_left_nothing, _sent_order),
        *(observers.all_agree, observers.gaps_heal, observers.all_handed_on, observers.states_are_folds),
        *(decisions.requests_end_once, decisions.decisions_are_true),
    ]
    if effects is not None:
        rules += [_effects_once, decisions.effects_as_approved]
    if calm:
        rules += [_all_answered, _nothing_open, observers.ends_seen]
    return [violation for rule in rules for violation in rule(evidence)]


# --- the log by itself ----------------------------------------------------------------------------


def _log_is_whole(evidence: Evidence) -> Iterator[Violation]:
    """Offsets run from 1 to the record's without a hole, and no key stands in two batches."""
    for where, log in evidence.logs.items():
        expected = 1
        for batch in log.batches:
            offsets = [event.offset for event in batch.events]
            if offsets != list(range(expected, batch.last_offset + 1)) or batch.first_offset != expected:
                found = f"{batch.first_offset}..{batch.last_offset} with {offsets}"
                yield Violation("offsets", where, f"the batch at {expected} is {found}")
            if batch.epoch != log.epoch:
                yield Violation("offsets", where, f"the batch at {expected} has epoch {batch.epoch}")
            expected = batch.last_offset + 1
        if expected - 1 != log.offset:
            yield Violation("offsets", where, f"the log ends at {expected - 1}, the record says {log.offset}")
        keys = [batch.key for batch in log.batches if batch.key is not None]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield Violation("once", where, f"{key} was accepted {keys.count(key)} times")


# --- commands -------------------------------------------------------------------------------------


def _acked_is_durable(evidence: Evidence) -> Iterator[Violation]:
    for command in evidence.commands.values():
        log = evidence.logs.get(command.conversation_id)
        for ack in command.acks:
            for what in _false_ack(ack.body, command, log, evidence.audiences[ack.client]):
                yield Violation("durable", command.conversation_id, f"{command.key} ({command.type}) {what}")


def _false_ack(ack: Frame, command: Command, log: Log | None, audience: Audience) -> Iterator[str]:
    """Yield what in an ack is not so."""
    if ack["command_id"] != command.key:
        yield f"was acked as {ack['command_id']}"
    batch = log.by_key.get(command.key) if log is not None else None
    if log is None or batch is None:
        yield f"was acked ({ack['status']}) and is not in the log"
        return
    if ack["epoch"] != log.epoch or not 0 <= ack["offset"] <= log.offset:
        yield f"was acked at {ack['epoch']}:{ack['offset']}, the log is {log.epoch}:{log.offset}"
    if not ack["duplicate"] and ack["status"] != "queued" and ack["offset"] != batch.last_offset:
        yield f"was acked at {ack['offset']}, its commit ends at {batch.last_offset}"
    end = log.turn_end(command.key)
    ended = {"turn.completed": "completed", "turn.failed": "failed"}[end.type] if end else "running"
    if ack["status"] in ("completed", "failed") and ack["status"] != ended:
        yield f"was acked as {ack['status']}, the log says {ended}"
    if ack["result"] is not None and (end is None or ack["result"] != wire_event(end, audience)["data"]):
        yield f"was acked with {ack['result']}, the log says {end}"


def _once(evidence: Evidence) -> Iterator[Violation]:
    for where, log in evidence.logs.items():
        sent = {command.key: command for command in evidence.sent_to(where)}
        for key in log.by_key:
            for what in _not_once(log, key, sent.get(key)):
                yield Violation("once", where, f"{key} {what}")
        for key in sorted(log.turns.keys() - log.by_key.keys()):
            yield Violation("once", where, f"{key} has events and was never accepted")


def _not_once(log: Log, key: str, command: Command | None) -> Iterator[str]:
    """Yield in which way a key's turn is not one transition in one piece."""
    places = log.turns.get(key, ())
    mine = [log.events[n] for n in places]
    ends = [event.type for event in mine if event.type in TURN_ENDS]
    if len(ends) > 1:
        yield f"ended {len(ends)} times: {ends}"
    elif ends and mine[-1].type not in TURN_ENDS:
        yield f"went on after its end, with {mine[-1].type}"
    told = [event for event in mine if event.type == "message.received"]
    if command is None:
        yield "was sent by nobody"
    elif command.type != "process" and told:
        yield f"is a {command.type} and said something"
    elif command.type == "process" and (len(told) > 1 or (not told and ends == ["turn.completed"])):
        yield f"was heard {len(told)} times"
    elif told and told[0].data["text"] != command.frame["content"].get("text"):
        yield f"was heard as {told[0].data['text']!r}, said was {command.frame['content']}"
    between = log.events[places[0] : places[-1] + 1] if places else ()
    others = {event.command_id for event in between} - {key, None}
    if others:
        yield f"was mixed with the turns of {others}"


def _refused_left_nothing(evidence: Evidence) -> Iterator[Violation]:
    for command in evidence.commands.values():
        log = evidence.logs.get(command.conversation_id)
        error = command.errors[-1] if command.errors else None
        gave_up = command.outcome is not None and command.outcome.kind == "refused"
        if error is None or error["code"] in UNDECIDED or (error["temporary"] and not gave_up):
            continue
        if log is not None and command.key in log.by_key:
            what = f"{command.key} ({command.type}) was refused ({error['code']}) and is in the log"
            yield Violation("refused", command.conversation_id, what)


def _all_answered(evidence: Evidence) -> Iterator[Violation]:
    for command in evidence.commands.values():
        where, log = command.conversation_id, evidence.logs.get(command.conversation_id)
        who, outcome = f"{command.client}: {command.key} ({command.type})", command.outcome
        if outcome is None:
            yield Violation("answers", where, f"{who} was never answered")
        elif outcome.kind == "settled":
            end = log.turn_end(command.key) if log is not None else None
            told = "turn.completed" if outcome.body["completed"] else "turn.failed"
            seen = wire_event(end, evidence.audiences[command.client])["data"] if end is not None else None
            if end is None or end.type != told or outcome.body["data"] != seen:
                what = f"{who} was told {told} {outcome.body['data']}, the log says {end}"
                yield Violation("answers", where, what)


def _nothing_open(evidence: Evidence) -> Iterator[Violation]:
    for where, log in evidence.logs.items():
        record = log.record
        if record.busy or record.lease is not None or record.turn is not None:
            what = f"is still at work: {len(record.inbox)} in the inbox, turn {record.turn}"
            yield Violation("answers", where, what)
        for key in log.by_key:
            if log.turn_end(key) is None:
                yield Violation("once", where, f"the turn of {key} never ended")


# --- effects --------------------------------------------------------------------------------------


def _effects_once(evidence: Evidence) -> Iterator[Violation]:
    by_key: dict[str, list[EffectLine]] = {}
    for line in evidence.effects:
        by_key.setdefault(line.key, []).append(line)
    for key, lines in by_key.items():
        log = evidence.logs.get(lines[0].conversation_id)
        for what in _false_effect(lines, log):
            yield Violation("effects", lines[0].conversation_id, f"{lines[0].action} {key} {what}")
    for where, log in evidence.logs.items():
        done = {line.place for line in evidence.effects if line.phase == "after"}
        for place in sorted(_claimed(log) - done):
            what = f"the log says that {place} was performed; the world has not seen it"
            yield Violation("effects", where, what)


def _false_effect(lines: Sequence[EffectLine], log: Log | None) -> Iterator[str]:
    place = lines[0].place
    begun = [line for line in lines if line.phase == "before"]
    about = log.steps.get(place[:2], ()) if log is not None else ()
    visit = [event for event in about if event.data.get("visit") == place[2]]
    if not any(event.type == "step.started" for event in visit):
        yield "ran without an intent in the log"
    if lines[0].effect == "write":
        if len(begun) > 1:
            yield f"is a write and was run {len(begun)} times, by {sorted({line.pid for line in begun})}"
        ended = any(event.type in ("step.completed", "step.failed") for event in visit)
        if not ended and not any(event.type == "action.performed" for event in about):
            yield "is a write without a result in the log"  # interrupted ones are performed, not completed
    if len({(line.attempt, line.phase) for line in lines}) < len(lines):
        yield "ran the same attempt twice"


def _claimed(log: Log) -> set[tuple[str, str, int]]:
    """Return (execution, step, visit) of each step that the log says has performed its action."""
    performed = {
        (event.execution_id, event.step_id) for event in log.events
        if event.type == "action.performed" and event.data.get("success", True)
    }  # fmt: skip
    return {
        (str(event.execution_id), str(event.step_id), event.data["visit"]) for event in log.events
        if event.type == "step.completed" and (event.execution_id, event.step_id) in performed
    }  # fmt: skip


# --- order ----------------------------------------------------------------------------------------


def _sent_order(evidence: Evidence) -> Iterator[Violation]:
    """Messages stand in the log in the order in which they were sent, wherever there was one.

    ``reset`` and ``cancel`` are not asked: they overtake what waits in the inbox. Nor is what a client gave
    up with its connection, unanswered: it may lie in front of one instance while another serves the next.
    """
    severed = _severed(evidence)
    for where, log in evidence.logs.items():
        commands = [c for c in evidence.sent_to(where) if c.type == "process" and c.key in log.by_key]
        placed = {command.key: log.by_key[command.key].first_offset for command in commands}
        sent: dict[str, list[Command]] = {}
        for command in commands:
            mine = sent.setdefault(command.client, [])
            while mine and severed(mine[-1], command):
                mine.pop()
            if mine and placed[mine[-1].key] > placed[command.key]:
                yield Violation("order", where, f"{command.client} sent {mine[-1].key} before {command.key}")
            mine.append(command)
        yield from _overtaken(where, commands, placed)


def _severed(evidence: Evidence) -> Callable[[Command, Command], bool]:
    """Return what tells whether a client gave a command up before its next, and had lost its connection."""
    ends: dict[str, list[int]] = {}
    for entry in evidence.entries:
        if entry.kind == "closed":
            ends.setdefault(entry.client, []).append(entry.n)

    def severed(before: Command, command: Command) -> bool:
        outcome = before.outcome
        if outcome is None or outcome.kind != "unknown" or outcome.n > command.invoked_at or before.acks:
            return False
        return any((before.sent_at or 0) < n < command.invoked_at for n in ends.get(before.client, ()))

    return severed


def _overtaken(where: str, commands: Sequence[Command], placed: Mapping[str, int]) -> Iterator[Violation]:
    """Yield whatever was first sent after another's ack and stands before it."""
    moments = [(command.sent_at, command, "sent") for command in commands if command.sent_at is not None]
    moments += [(command.acks[0].n, command, "acked") for command in commands if command.acks]
    newest: Command | None = None
    for _, command, what in sorted(moments, key=lambda moment: moment[0]):
        if what == "sent" and newest is not None and placed[newest.key] > placed[command.key]:
            what = f"{command.key} was sent after the ack of {newest.key}, and is before it"
            yield Violation("order", where, what)
        elif what == "acked" and (newest is None or placed[newest.key] < placed[command.key]):
            newest = command
