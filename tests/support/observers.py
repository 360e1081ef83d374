"""What an observer of a conversation may see: the log, all of it, in order, and states that are its folds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.support.durable_log import MESSAGES, STATE_FIELDS, visible
from tests.support.evidence import Evidence, Violation
from tests.support.history import Entry, Frame


def all_agree(evidence: Evidence) -> Iterator[Violation]:
    """Every ``events`` frame shows what the log holds for this audience: all of it, and nothing else."""
    for client, log, stream in evidence.streams:
        shown = log.shown(evidence.audiences[client])
        ends = {batch.last_offset for batch in log.batches}
        for entry in stream:
            if entry.kind != "received" or entry.body["type"] != "events":
                continue
            frame = entry.body
            first, last = frame["from"], frame["to"]
            where = f"{client} {log.conversation_id} {first}..{last}"
            expected = [shown[offset] for offset in range(first, last + 1) if offset in shown]
            if frame["epoch"] != log.epoch:
                yield Violation("offsets", where, f"came in epoch {frame['epoch']}, the log's is {log.epoch}")
            elif frame["events"] != expected:
                yield Violation("offsets", where, _difference(frame["events"], expected))
            if last not in ends:
                yield Violation("offsets", where, "does not end with a commit")


def _difference(got: Sequence[Frame], expected: Sequence[Frame]) -> str:
    for mine, right in zip(got, expected, strict=False):
        if mine != right:
            return f"showed {dict(mine)}, the log says {dict(right)}"
    more, less = got[len(expected) :], expected[len(got) :]
    return f"showed too much: {list(more)}" if more else f"hid {list(less)}"


@dataclass
class _Cursor:
    """A client's place in a conversation, by the rules of the protocol (6, 9, 10)."""

    offset: int = 0
    epoch: str | None = None
    awaiting_snapshot: bool = False
    gap: int | None = None
    watching: bool = False

    def take(self, entry: Entry, questions: dict[str, Frame]) -> str | None:
        """Take one entry; return what is wrong with it."""
        frame = entry.body
        if entry.kind in ("opened", "closed"):
            questions.clear()
            self.watching = self.awaiting_snapshot = False
            self.gap = None  # the next connection resumes from the cursor
        elif entry.kind == "sent" and frame["type"] in ("hello", "subscribe"):
            questions[frame["id"]] = frame
            return self._asked(frame)
        elif entry.kind == "sent" and frame["type"] == "unsubscribe":
            self.watching = False
        elif entry.kind == "received":
            return self._received(frame, questions)
        return None

    def _asked(self, frame: Frame) -> str | None:
        resume = frame.get("resume")
        if resume is not None and (resume["epoch"], resume["offset"]) != (self.epoch, self.offset):
            return f"resumed from {resume}, the cursor was {self.epoch}:{self.offset}"
        return None

    def _received(self, frame: Frame, questions: dict[str, Frame]) -> str | None:
        match frame["type"]:
            case "welcome" | "ack" if frame["id"] in questions:
                questions.pop(frame["id"])
                answer = frame if frame["type"] == "welcome" else frame["result"]
                self.watching = True
                self.awaiting_snapshot = not answer["recovered"]
            case "snapshot":
                self.epoch, self.offset = frame["epoch"], frame["offset"]
                self.awaiting_snapshot, self.gap = False, None
            case "events" if self.watching and not self.awaiting_snapshot:
                return self._events(frame)
        return None

    def _events(self, frame: Frame) -> str | None:
        first, last = frame["from"], frame["to"]
        if first > self.offset + 1:
            self.gap = self.offset + 1
        elif last > self.offset:
            self.epoch, self.offset, self.gap = frame["epoch"], last, None
        return f"goes backwards: {first}..{last}" if last < first else None


def gaps_heal(evidence: Evidence) -> Iterator[Violation]:
    for client, log, stream in evidence.streams:
        cursor, questions = _Cursor(), dict[str, Frame]()
        for entry in stream:
            wrong = cursor.take(entry, questions)
            if wrong is not None:
                yield Violation("gaps", f"{client} {log.conversation_id}", wrong)
        if cursor.gap is not None:
            what = f"the gap at {cursor.gap} was never healed"
            yield Violation("gaps", f"{client} {log.conversation_id}", what)


def ends_seen(evidence: Evidence) -> Iterator[Violation]:
    """Who watches to the end has seen the end."""
    for client, log, stream in evidence.streams:
        cursor, questions = _Cursor(), dict[str, Frame]()
        for entry in stream:
            cursor.take(entry, questions)
        if cursor.watching and cursor.offset != log.offset:
            seen = f"has seen {cursor.offset} of {log.offset}"
            yield Violation("gaps", f"{client} {log.conversation_id}", seen)


def all_handed_on(evidence: Evidence) -> Iterator[Violation]:
    """What the SDK hands on is every visible event, once, in order; a snapshot may skip some."""
    for client, log, stream in evidence.streams:
        visible_offsets = sorted(log.shown(evidence.audiences[client]))
        following = dict(zip([0, *visible_offsets], [*visible_offsets, None], strict=True))
        last = 0
        for entry in stream:
            if entry.kind == "skipped":
                last = max((o for o in visible_offsets if o <= entry.body["offset"]), default=0)
            elif entry.kind == "shown":
                offset, expected = entry.body["offset"], following.get(last)
                if offset != expected:
                    what = f"was handed {offset} after {last}, next was {expected}"
                    yield Violation("offsets", f"{client} {log.conversation_id}", what)
                last = offset


def late(evidence: Evidence, epoch_s: float, calm_at: float, within_s: float) -> Iterator[Violation]:
    """Yield what somebody who was watching was shown later than promised, or not at all (invariant 3).

    A commit is to be shown ``within_s`` after it happened, or after the faults were over (``calm_at``), or
    after this client's latest connection was welcomed, whichever came last.

    Args:
        epoch_s: ``History.epoch_s``.
        calm_at: in the time of the entries.
    """
    for client, log, stream in evidence.streams:
        batches = iter(log.batches)
        batch = next(batches, None)
        cursor, questions, welcomed_at = _Cursor(), dict[str, Frame](), 0.0
        for entry in stream:
            watched = cursor.watching
            cursor.take(entry, questions)
            if cursor.watching and not watched:
                welcomed_at = entry.at
            gone = watched and not cursor.watching  # then what was due by now has never come
            while batch is not None and (gone or cursor.offset >= batch.last_offset):
                committed_at = batch.events[-1].time / 1000 - epoch_s
                late_s = entry.at - max(committed_at, calm_at, welcomed_at) - within_s
                if late_s > 0:
                    what = f"{batch.first_offset}..{batch.last_offset} is {late_s:.1f} s late"
                    yield Violation("late", f"{client} {log.conversation_id}", what)
                if cursor.offset < batch.last_offset:
                    break
                batch = next(batches, None)


def hanging(evidence: Evidence, within_s: float) -> Iterator[Violation]:
    """Yield what was asked on an open connection and not answered in that time.

    The frames of a connection are handled one after the other: what waits behind one has not come up yet.
    """
    asked: dict[str, dict[str, Entry]] = {}
    answered_at: dict[str, float] = {}

    def hung(question: Entry, end: Entry) -> Iterator[Violation]:
        waited_s = end.at - max(question.at, answered_at.get(end.client, 0.0))
        if waited_s > within_s:
            what = f"{question.body['type']} {question.key or ''} waited {waited_s:.1f} s, then {end.kind}"
            yield Violation("hanging", f"{question.client} {question.conversation_id}", what)

    for entry in evidence.entries:
        mine = asked.setdefault(entry.client, {})
        if entry.kind == "sent" and "id" in entry.body:
            mine[entry.body["id"]] = entry
        elif entry.kind == "received" and entry.body["type"] in ("welcome", "ack", "error"):
            question = mine.pop(entry.body["id"], None)
            if question is not None:
                yield from hung(question, entry)
                answered_at[entry.client] = entry.at
        elif entry.kind in ("opened", "closed"):
            for question in mine.values():
                yield from hung(question, entry)
            mine.clear()


# --- order and state ------------------------------------------------------------------------------


def states_are_folds(evidence: Evidence) -> Iterator[Violation]:
    """Each state is the fold of the events up to its offset; each page of messages is a part of the log's."""
    for client, log, stream in evidence.streams:
        audience = evidence.audiences[client]
        states = {state["offset"]: state for state in log.states(audience)}
        messages = {e.offset: dict(e.data) for e in log.events if e.type in MESSAGES and visible(e, audience)}
        for kind, shown in _shown(stream):
            state = {"state": shown, "snapshot": shown.get("state")}.get(kind)
            said = shown["messages"] if kind in ("history", "snapshot") else ()
            for what in (*_false_state(state, states), *_false_messages(said, messages)):
                yield Violation("state", f"{client} {log.conversation_id}", f"{kind}: {what}")


def _shown(stream: Sequence[Entry]) -> Iterator[tuple[str, Frame]]:
    """Yield what a client was given beside events: ("state" | "history" | "snapshot", what)."""
    asked: dict[str, str] = {}
    for entry in stream:
        frame = entry.body
        if entry.kind == "opened":
            asked.clear()
        elif entry.kind == "sent" and frame["type"] in ("state", "history"):
            asked[frame["id"]] = frame["type"]
        elif entry.kind == "received" and frame["type"] == "snapshot":
            yield "snapshot", frame
        elif entry.kind == "received" and frame["type"] == "ack" and frame["id"] in asked:
            yield asked[frame["id"]], frame["result"]


def _false_state(state: Frame | None, states: Mapping[int, Frame]) -> Iterator[str]:
    if state is None:
        return
    right = states.get(state["offset"])
    if right is None:
        yield f"is of {state['offset']}, where no commit ends"
        return
    for name in STATE_FIELDS:
        if state[name] != right[name]:
            yield f"at {state['offset']} {name} is {state[name]}, the fold says {right[name]}"


def _false_messages(said: Sequence[Frame], messages: Mapping[int, Frame]) -> Iterator[str]:
    for message in said:
        logged = messages.get(message["offset"])
        if logged != message:
            yield f"shows {message}, the log {logged}"
    if said:
        first, last = said[0]["offset"], said[-1]["offset"]
        expected = [offset for offset in messages if first <= offset <= last]
        if [message["offset"] for message in said] != expected:
            yield f"shows {[message['offset'] for message in said]} of {expected}"
