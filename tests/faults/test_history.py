"""The history checker finds each kind of broken promise, and nothing in a run without one.

A checker that finds nothing proves nothing until it has been seen to find. So: one small run that is
right, and then the same run with one thing wrong.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.models import Audience, Conversation, Event, EventBatch, InboxEntry
from tests.support import observers
from tests.support.checker import check
from tests.support.decisions import digest_of
from tests.support.durable_log import Log, visible, wire_event, wire_time
from tests.support.evidence import Evidence, Violation
from tests.support.history import EffectLine, EffectLog, Entry, History, Recorder

EPOCH = "e1"
NOW = 1_800_000_000_000
PENDING = {"pending_id": "p1", "kind": "input", "by": None}


class Run:
    """A conversation ``c1`` of two messages with an effect each, watched by its owner's two devices and an
    inspector. Everything about it is right; a test then makes one thing wrong."""

    def __init__(self, folder: Path | None = None) -> None:
        self.history = History(folder)
        self.batches: list[EventBatch] = []
        self.effects: list[EffectLine] = []
        self.state: dict[str, Any] = {}
        self._ids = 0
        self.clients: dict[str, Recorder] = {}
        self.connect("ann-phone", "owner")
        self.connect("ann-desk", "owner")
        self.connect("inspector", "full")
        self.turn("ann-phone", "k1", "tea", created=True)
        self.turn("ann-desk", "k2", "milk")

    # --- what happens ---------------------------------------------------------------------------

    @property
    def offset(self) -> int:
        return self.batches[-1].last_offset if self.batches else 0

    def connect(self, name: str, audience: Audience, *, recovered: bool = True) -> None:
        client = self.clients[name] = self.history.client(name, audience)
        resume = {"epoch": EPOCH, "offset": self.offset} if self.offset else None
        client.opened()
        hello = {"type": "hello", "id": self._id(), "conversation_id": "c1", "resume": resume}
        self._send(client, hello)
        welcome = {"type": "welcome", "id": hello["id"], "recovered": recovered, "epoch": None, "offset": 0}
        self._receive(client, welcome)

    def turn(self, name: str, key: str, text: str, *, created: bool = False) -> None:
        """One message: an intent, a write, its result."""
        client, execution_id, message_id = self.clients[name], f"x-{key}", f"m-{key}"
        frame = {
            "type": "process",
            "conversation_id": "c1",
            "idempotency_key": key,
            "content": {"text": text},
        }
        client.invoke("c1", key, frame)
        ids = {"id": self._id()}
        self._send(client, {**frame, **ids})
        event = _Events(key, self.offset)
        if created:
            event("conversation.created", {"user_id": "ann", "channel": "web"}, execution_id=None)
        event.says({"message_id": message_id, "role": "user", "text": text}, "message.received")
        flow = {"flow_id": "shop", "flow_version": 1, "output": None, "error": None}
        event("execution.started", {**flow, "status": "running"})
        event("slots.updated", {"slots": {"item": text}})
        event("step.started", {"visit": 1, "attempt": 1, "error": None}, step_id="pay", audience="full")
        self.commit(event, key)
        ack = {
            "duplicate": False,
            "command_id": key,
            "status": "running",
            "epoch": EPOCH,
            "offset": self.offset,
        }
        self._receive(client, {"type": "ack", **ids, "execution_id": execution_id, "result": None, **ack})
        line = EffectLine("before", "till.pay", "write", f"{execution_id}:0:pay:1", 1, "c1", 7)
        self.effects += [line, replace(line, phase="after")]
        event = _Events(key, self.offset)
        event("action.performed", {"name": "till.pay", "success": True}, step_id="pay", audience="full")
        event("variables.updated", {"variables": {"receipt": key}}, audience="full")
        event("step.completed", {"visit": 1, "attempt": 1, "error": None}, step_id="pay", audience="full")
        event.says(
            {"message_id": f"{message_id}b", "role": "assistant", "text": "Done."}, "message.completed"
        )
        event("execution.waiting", {**flow, "status": "waiting_input", "pending": [PENDING]}, step_id="ask")
        event("turn.completed", {"response": {"messages": [{"text": "Done."}]}, "actions_performed": [1]})
        self.commit(event)
        client.settled("c1", key, completed=True, data=wire_event(event.made[-1], "owner")["data"])

    def decide(self) -> None:
        """Somebody is asked, Ann's desk accepts, it is done; the inspector comes too late and is told."""
        phone, desk, late = (self.clients[name] for name in ("ann-phone", "ann-desk", "inspector"))
        phone.invoke("c1", "k3", {"type": "process", "content": {"text": "tea"}})
        phone.unknown("c1", "k3")
        event = _Events("k3", self.offset)
        event.says({"message_id": "m-k3", "role": "user", "text": "tea"}, "message.received")
        event("acceptance.requested", {"pending_id": "p9", "kind": "acceptance", "votes": []}, step_id="gate")
        event("turn.completed", {"response": {"messages": []}, "actions_performed": []})
        self.commit(event, "k3")
        frame = {
            "type": "acceptance",
            "conversation_id": "c1",
            "pending_id": "p9",
            "accepted": True,
            "edits": {},
        }
        desk.invoke("c1", "k4", frame)
        self._send(desk, {**frame, "id": "k4", "idempotency_key": "k4"})
        event = _Events("k4", self.offset, "x-k3")
        decided = {
            "by": "ann", "at": wire_time(NOW + self.offset + 1), "accepted": True, "edits": {},
            "digest": digest_of("till.pay", {"item": "tea"}),
        }  # fmt: skip
        told = {"pending_id": "p9", "kind": "acceptance", "decided": decided}
        event("pending.resolved", told, step_id="gate")
        event("step.started", {"visit": 1, "attempt": 1, "error": None}, step_id="pay", audience="full")
        event("action.performed", {"name": "till.pay", "success": True}, step_id="pay", audience="full")
        event("step.completed", {"visit": 1, "attempt": 1, "error": None}, step_id="pay", audience="full")
        event("turn.completed", {"response": {"messages": []}, "actions_performed": [1]})
        self.commit(event, "k4")
        line = EffectLine("before", "till.pay", "write", "x-k3:0:pay:1", 1, "c1", 7, {"item": "tea"})
        self.effects += [line, replace(line, phase="after")]
        end = wire_event(event.made[-1], "owner")["data"]
        ack = {"duplicate": False, "command_id": "k4", "status": "completed", "epoch": EPOCH, "result": end}
        self._receive(desk, {"type": "ack", "id": "k4", "execution_id": "x-k3", "offset": self.offset, **ack})
        desk.settled("c1", "k4", completed=True, data=end)
        late.invoke("c1", "k5", {**frame, "accepted": False})
        self._send(late, {**frame, "accepted": False, "id": "k5", "idempotency_key": "k5"})
        error = {"code": "pending_resolved", "temporary": False, "details": {"decided": dict(decided)}}
        self._receive(late, {"type": "error", "id": "k5", "error": error})
        late.refused("c1", "k5", {"code": "pending_resolved", "temporary": False})

    def commit(self, events: "_Events", key: str | None = None) -> None:
        found = events.made
        batch = EventBatch(
            EPOCH, found[0].offset, found[-1].offset, f"commit-{self.offset}", key, None, tuple(found)
        )
        self.batches.append(batch)
        for client in self.clients.values():
            self.deliver(client, batch)

    def deliver(self, client: Recorder, batch: EventBatch) -> None:
        audience = self.history.audiences[client.name]
        shown = [wire_event(event, audience) for event in batch.events if visible(event, audience)]
        frame = {"epoch": EPOCH, "from": batch.first_offset, "to": batch.last_offset, "events": shown}
        self._receive(client, {"type": "events", "conversation_id": "c1", **frame})
        for event in shown:
            client.shown("c1", event["offset"])

    def snapshot(self, name: str, messages: list[dict[str, Any]]) -> None:
        """The client comes back without a cursor, and is told what it is now."""
        self.connect(name, self.history.audiences[name], recovered=False)
        self.history.entries[-2].body["resume"] = None
        state = list(self.log().states(self.history.audiences[name]))[-1]
        frame = {"type": "snapshot", "conversation_id": "c1", "epoch": EPOCH, "offset": self.offset}
        self._receive(self.clients[name], {**frame, "state": state, "messages": messages})
        self.clients[name].skipped("c1", self.offset)

    def ask_state(self, name: str) -> dict[str, Any]:
        """The client asks for the state and gets the right one; what is returned may be spoilt."""
        client = self.clients[name]
        ask = {"type": "state", "id": self._id(), "conversation_id": "c1"}
        self._send(client, ask)
        state = list(self.log().states(self.history.audiences[name]))[-1]
        ack = {"type": "ack", "id": ask["id"], "command_id": None, "status": "completed", "result": state}
        self._receive(client, ack)
        return state

    def _id(self) -> str:
        self._ids += 1
        return str(self._ids)

    def _send(self, client: Recorder, frame: dict[str, Any]) -> None:
        self.history.add(
            client.name, "sent", frame.get("conversation_id"), frame.get("idempotency_key"), frame
        )

    def _receive(self, client: Recorder, frame: dict[str, Any]) -> None:
        self.history.add(
            client.name, "received", frame.get("conversation_id"), frame.get("command_id"), frame
        )

    # --- what is left ---------------------------------------------------------------------------

    def log(self, **record: Any) -> Log:
        kept = {"offset": self.offset, "revision": len(self.batches), **record}
        return Log(Conversation("t", "c1", "ann", EPOCH, **kept), tuple(self.batches))

    def check(self, *, calm: bool = True, **record: Any) -> list[Violation]:
        return check(self.history, {"c1": self.log(**record)}, self.effects, calm=calm)

    def frames(self, name: str, kind: str) -> list[Any]:
        """The frames of a type that a client received, to be spoilt in place."""
        return [
            entry.body for entry in self.history.entries
            if entry.client == name and entry.kind == "received" and entry.body["type"] == kind
        ]  # fmt: skip

    def forget(self, *, after: int, name: str) -> None:
        """What this client received and was handed above an offset never reached it."""
        self.history.entries = [entry for entry in self.history.entries if not _tells(entry, name, after)]


class _Events:
    def __init__(self, key: str, offset: int, execution_id: str | None = None) -> None:
        self._key, self._offset, self._execution_id = key, offset, execution_id or f"x-{key}"
        self.made: list[Event] = []

    def __call__(
        self, kind: str, data: dict[str, Any], *, step_id: str | None = None, audience: Audience = "owner",
        execution_id: str | None = "",
    ) -> None:  # fmt: skip
        where = self._execution_id if execution_id == "" else execution_id
        self._offset += 1
        event = Event(self._offset, NOW + self._offset, kind, where, step_id, self._key, None, data, audience)
        self.made.append(event)

    def says(self, message: dict[str, Any], kind: str) -> None:
        self(kind, {**message, "offset": self._offset + 1})


def _tells(entry: Entry, name: str, after: int) -> bool:
    if entry.client != name:
        return False
    if entry.kind == "received" and entry.body["type"] == "events":
        return bool(entry.body["to"] > after)
    return entry.kind == "shown" and entry.body["offset"] > after


def _page(run: Run) -> list[dict[str, Any]]:
    """The messages of the run, as a page of history shows them."""
    return [dict(e.data) for e in run.log().events if e.type.startswith("message.")]


def rules(found: list[Violation]) -> set[str]:
    return {violation.rule for violation in found}


# --- nothing to find ------------------------------------------------------------------------------


def test_a_right_run_is_found_right() -> None:
    """Two devices and an inspector, two turns with a write each."""
    run = Run()
    run.ask_state("ann-phone")
    run.ask_state("inspector")
    assert run.check() == []


def test_a_history_can_be_read_back(tmp_path: Path) -> None:
    """A failed run leaves files that can be checked again."""
    run = Run(tmp_path)
    run.history.close()
    loaded = History.load(tmp_path, run.history.audiences)
    assert loaded.entries == run.history.entries


def test_effect_lines_can_be_read_back(tmp_path: Path) -> None:
    """The effect log survives whoever writes it."""
    log, lines = EffectLog(tmp_path / "effects.jsonl"), Run().effects
    for line in lines:
        log.append(line)
    assert EffectLog(tmp_path / "effects.jsonl").read() == lines


def test_a_token_is_not_recorded() -> None:
    """A history is kept as an artefact; it is no place for credentials."""
    history = History()
    history.client("ann").sent('{"type":"hello","id":"1","token":"secret"}')
    assert "token" not in history.entries[0].body


def test_who_does_not_know_accuses_nobody() -> None:
    """A command that timed out may be in the log, or not."""
    run = Run()
    client = run.clients["ann-phone"]
    client.invoke("c1", "k3", {"type": "process", "content": {"text": "?"}})
    client.unknown("c1", "k3")
    assert run.check() == []


def test_a_lost_ack_and_a_resend_are_no_harm() -> None:
    """The second sending of a key is told the first outcome."""
    run = Run()
    client, frame = (
        run.clients["ann-phone"],
        {"type": "process", "conversation_id": "c1", "idempotency_key": "k1"},
    )
    run._send(client, {**frame, "id": "again"})
    end = wire_event(run.batches[1].events[-1], "owner")["data"]
    ack = {"id": "again", "duplicate": True, "command_id": "k1", "status": "completed", "result": end}
    run._receive(client, {"type": "ack", "execution_id": "x-k1", "epoch": EPOCH, "offset": run.offset, **ack})
    assert run.check() == []


def test_a_snapshot_may_stand_for_what_was_missed() -> None:
    """Who was away too long is told the state instead of the events."""
    run = Run()
    run.forget(after=run.batches[1].last_offset, name="ann-phone")
    run.snapshot("ann-phone", _page(run))
    assert run.check() == []


# --- something to find ----------------------------------------------------------------------------


def lose_an_acked_command(run: Run) -> None:
    """The store forgets the last turn, after its ack."""
    del run.batches[2:]


def lose_a_commit_in_the_middle(run: Run) -> None:
    """A hole in the log."""
    del run.batches[1]


def swap_two_events(run: Run) -> None:
    """Reordered within a commit."""
    batch = run.batches[1]
    run.batches[1] = replace(batch, events=(batch.events[1], batch.events[0], *batch.events[2:]))


def accept_a_key_twice(run: Run) -> None:
    """The resend of a command becomes a second turn."""
    run.turn("ann-phone", "k1", "tea")


def end_a_turn_twice(run: Run) -> None:
    """Two ``turn.completed``."""
    events = _Events("k2", run.offset)
    events("turn.completed", {"response": {"messages": []}})
    run.commit(events)


def never_end_a_turn(run: Run) -> None:
    """Accepted, and then nothing."""
    events = _Events("k3", run.offset)
    events("message.received", {"message_id": "m3", "role": "user", "text": "x"})
    run.clients["ann-phone"].invoke("c1", "k3", {"type": "process", "content": {"text": "x"}})
    run.clients["ann-phone"].unknown("c1", "k3")
    run.commit(events, "k3")


def mix_two_turns(run: Run) -> None:
    """An event of the first turn inside the second."""
    batch = run.batches[3]
    stray = replace(batch.events[3], command_id="k1")
    run.batches[3] = replace(batch, events=(*batch.events[:3], stray, *batch.events[4:]))


def hear_something_else(run: Run) -> None:
    """The text in the log is not what was said."""
    batch = run.batches[2]
    heard = replace(batch.events[0], data={**batch.events[0].data, "text": "beer"})
    run.batches[2] = replace(batch, events=(heard, *batch.events[1:]))


def refuse_what_was_accepted(run: Run) -> None:
    """A command is refused for good, and stands in the log."""
    run._send(
        run.clients["ann-desk"],
        {"type": "process", "id": "77", "conversation_id": "c1", "idempotency_key": "k2"},
    )
    error = {"code": "wrong_state", "temporary": False}
    run._receive(run.clients["ann-desk"], {"type": "error", "id": "77", "error": error})


def ack_a_false_offset(run: Run) -> None:
    """The ack is of another commit."""
    run.frames("ann-phone", "ack")[0]["offset"] += 1


def ack_a_false_result(run: Run) -> None:
    """The ack tells an outcome that the log does not know."""
    run.frames("ann-phone", "ack")[0].update(status="completed", result={"response": {"messages": []}})


def write_twice(run: Run) -> None:
    """After a crash the write is run again."""
    run.effects += [replace(run.effects[0], attempt=2, pid=8), replace(run.effects[1], attempt=2, pid=8)]


def write_without_intent(run: Run) -> None:
    """The effect ran before anything was committed."""
    line = replace(run.effects[0], key="x-k1:0:pay:2")
    run.effects += [line, replace(line, phase="after")]


def claim_an_effect(run: Run) -> None:
    """The log says that it was done; it was not."""
    del run.effects[2:]


def lose_the_result_of_a_write(run: Run) -> None:
    """Done, and the log does not know."""
    batch = run.batches[3]
    kept = [event for event in batch.events if event.type not in ("step.completed", "action.performed")]
    run.batches[3] = replace(batch, events=tuple(kept))


def hide_an_event(run: Run) -> None:
    """One observer does not get what it may see."""
    del run.frames("inspector", "events")[1]["events"][0]


def invent_an_event(run: Run) -> None:
    """One observer gets what is not in the log: it was published, and then not committed."""
    events = run.frames("ann-desk", "events")[0]["events"]
    events.append({**events[0], "offset": 5})


def show_what_is_hidden(run: Run) -> None:
    """The owner sees the inner workings."""
    event = run.batches[0].events[4]
    run.frames("ann-phone", "events")[0]["events"].append(wire_event(event, "full"))


def change_an_event(run: Run) -> None:
    """Two observers see different texts at the same offset."""
    run.frames("ann-desk", "events")[3]["events"][0]["data"]["text"] = "Gone."


def cut_a_commit(run: Run) -> None:
    """A frame that ends inside a commit."""
    run.frames("inspector", "events")[3].update(to=run.offset - 1)
    run.frames("inspector", "events")[3]["events"].pop()


def leave_a_gap(run: Run) -> None:
    """One frame never came, and nobody resumed."""
    frame = run.frames("ann-desk", "events")[2]
    run.history.entries = [entry for entry in run.history.entries if entry.body is not frame]


def lose_the_tail(run: Run) -> None:
    """The last commit never reaches one of those who watch."""
    run.forget(after=run.batches[2].last_offset, name="inspector")


def resume_too_far(run: Run) -> None:
    """A client claims to have seen what it has not."""
    run.forget(after=run.batches[2].last_offset, name="ann-desk")
    run.connect("ann-desk", "owner")


def hand_on_twice(run: Run) -> None:
    """The application sees an event twice."""
    run.clients["ann-desk"].shown("c1", run.offset)


def hand_on_out_of_order(run: Run) -> None:
    """The application sees two events in the wrong order."""
    shown = [entry for entry in run.history.entries if entry.kind == "shown" and entry.client == "ann-desk"]
    shown[0].body["offset"], shown[1].body["offset"] = shown[1].body["offset"], shown[0].body["offset"]


def tell_a_false_outcome(run: Run) -> None:
    """The SDK says completed, with words that nobody said."""
    settled = next(entry for entry in run.history.entries if entry.kind == "settled")
    settled.body["data"] = {"response": {"messages": [{"text": "Nope."}]}}


def never_answer(run: Run) -> None:
    """A caller waits for ever."""
    run.clients["ann-phone"].invoke("c1", "k9", {"type": "process", "content": {"text": "?"}})


def overtake(run: Run) -> None:
    """What was sent after the first one's ack stands before it."""
    entries = run.history.entries
    turn = next(n for n, entry in enumerate(entries) if entry.kind == "invoke" and entry.key == "k2")
    first = [entry for entry in entries if entry.key == "k2" and entry.kind in ("invoke", "sent")]
    ack = [entry for entry in entries[turn:] if entry.kind == "received" and entry.key == "k2"]
    others = [entry for entry in entries if entry not in first and entry not in ack]
    start = next(n for n, entry in enumerate(others) if entry.kind == "invoke" and entry.key == "k1")
    run.history.entries = [
        replace(entry, n=n) for n, entry in enumerate([*others[:start], *first, *ack, *others[start:]])
    ]  # fmt: skip


def show_a_false_state(run: Run) -> None:
    """The state is not the fold of the events."""
    run.ask_state("ann-phone")["slots"] = {"item": "beer"}


def show_a_state_between_commits(run: Run) -> None:
    """The state is of an offset where no commit ends."""
    run.ask_state("ann-phone")["offset"] -= 1


def leave_a_message_out(run: Run) -> None:
    """A snapshot whose history has a hole."""
    page = _page(run)
    run.snapshot("ann-phone", [page[0], *page[2:]])


def change_a_message(run: Run) -> None:
    """A snapshot whose history says something else."""
    page = _page(run)
    run.snapshot("ann-phone", [{**page[0], "text": "beer"}, *page[1:]])


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lose_an_acked_command, "durable"),
        (lose_a_commit_in_the_middle, "offsets"),
        (swap_two_events, "offsets"),
        (accept_a_key_twice, "once"),
        (end_a_turn_twice, "once"),
        (never_end_a_turn, "once"),
        (mix_two_turns, "once"),
        (hear_something_else, "once"),
        (refuse_what_was_accepted, "refused"),
        (ack_a_false_offset, "durable"),
        (ack_a_false_result, "durable"),
        (write_twice, "effects"),
        (write_without_intent, "effects"),
        (claim_an_effect, "effects"),
        (lose_the_result_of_a_write, "effects"),
        (hide_an_event, "offsets"),
        (invent_an_event, "offsets"),
        (show_what_is_hidden, "offsets"),
        (change_an_event, "offsets"),
        (cut_a_commit, "offsets"),
        (leave_a_gap, "gaps"),
        (lose_the_tail, "gaps"),
        (resume_too_far, "gaps"),
        (hand_on_twice, "offsets"),
        (hand_on_out_of_order, "offsets"),
        (tell_a_false_outcome, "answers"),
        (never_answer, "answers"),
        (overtake, "order"),
        (show_a_false_state, "state"),
        (show_a_state_between_commits, "state"),
        (leave_a_message_out, "state"),
        (change_a_message, "state"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_a_broken_promise_is_found(spoil: Callable[[Run], None], rule: str) -> None:
    """One thing is wrong, and the rule that speaks of it says so."""
    run = Run()
    spoil(run)
    assert rule in rules(run.check())


def test_a_right_decision_is_found_right() -> None:
    """One is asked, one decides, it is done, and one comes too late."""
    run = Run()
    run.decide()
    assert run.check() == []


def _spoil_event(run: Run, kind: str, **data: Any) -> None:
    """Say something else in the events of a kind."""
    for place, batch in enumerate(run.batches):
        events = tuple(replace(e, data={**e.data, **data}) if e.type == kind else e for e in batch.events)
        run.batches[place] = replace(batch, events=events)


def decide_twice(run: Run) -> None:
    """A second decision of the same request."""
    event = _Events("k4", run.offset, "x-k3")
    event("pending.resolved", dict(run.batches[-1].events[0].data), step_id="gate")
    run.commit(event)


def show_after_the_end(run: Run) -> None:
    """What was decided is asked again."""
    event = _Events("k4", run.offset, "x-k3")
    event("acceptance.requested", {"pending_id": "p9", "kind": "acceptance", "votes": []}, step_id="gate")
    run.commit(event)


def decide_what_nobody_asked(run: Run) -> None:
    """A request that was never shown."""
    _spoil_event(run, "acceptance.requested", pending_id="p8")


def lose_a_decision(run: Run) -> None:
    """Acked, and the log has its turn without it."""
    run.batches[-1] = replace(run.batches[-1], events=run.batches[-1].events[1:])


def decide_otherwise(run: Run) -> None:
    """The log has the opposite of what was acked."""
    decided = run.batches[-1].events[0].data["decided"]
    _spoil_event(run, "pending.resolved", decided={**decided, "accepted": False})


def decide_for_nobody(run: Run) -> None:
    """Resolved, and nobody is named."""
    decided = run.batches[-1].events[0].data["decided"]
    _spoil_event(run, "pending.resolved", decided={**decided, "by": None})


def tell_the_loser_a_lie(run: Run) -> None:
    """Who was slower is told another winner."""
    run.frames("inspector", "error")[0]["error"]["details"]["decided"]["by"] = "bob"


def tell_the_loser_that_time_is_up(run: Run) -> None:
    """Told "expired"; the log says that somebody decided."""
    run.frames("inspector", "error")[0]["error"]["code"] = "pending_expired"


def do_something_else(run: Run) -> None:
    """What ran is not what was approved."""
    run.effects[-2:] = [replace(line, arguments={"item": "milk"}) for line in run.effects[-2:]]


def do_what_was_rejected(run: Run) -> None:
    """It ran without an approval."""
    decide_otherwise(run)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (decide_twice, "decisions"),
        (show_after_the_end, "decisions"),
        (decide_what_nobody_asked, "decisions"),
        (lose_a_decision, "decisions"),
        (decide_otherwise, "decisions"),
        (decide_for_nobody, "decisions"),
        (tell_the_loser_a_lie, "decisions"),
        (tell_the_loser_that_time_is_up, "decisions"),
        (do_something_else, "approved"),
        (do_what_was_rejected, "approved"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_a_false_decision_is_found(spoil: Callable[[Run], None], rule: str) -> None:
    """One thing about a decision is wrong, and the rule that speaks of it says so."""
    run = Run()
    run.decide()
    spoil(run)
    assert rule in rules(run.check())


def test_a_conversation_that_is_still_at_work_is_not_calm() -> None:
    """After the storm nothing waits in the inbox."""
    run = Run()
    waiting = InboxEntry("k3", "h", {}, {}, NOW)
    assert rules(run.check(inbox=(waiting,))) == {"answers"}
    assert run.check(inbox=(waiting,), calm=False) == []


# --- times and connections, which tests of several instances ask about -------------------------------


def _delay(run: Run, seconds: float, is_meant: Callable[[Entry], bool]) -> None:
    """What begins with a meant entry comes later."""
    entries = run.history.entries
    first = next(n for n, entry in enumerate(entries) if is_meant(entry))
    run.history.entries = [
        replace(entry, at=entry.at + (seconds if n >= first else 0)) for n, entry in enumerate(entries)
    ]


def _evidence(run: Run) -> Evidence:
    return Evidence(run.history.entries, run.history.audiences, {"c1": run.log()}, run.effects)


def _late(run: Run, *, calm_s: float = 0) -> list[Violation]:
    """Ask for what came more than a second late; it all happened at the time of the first entry."""
    begun = run.history.entries[0].at
    return list(observers.late(_evidence(run), NOW / 1000 - begun, begun + calm_s, 1))


def _last_events_of(run: Run, name: str) -> Callable[[Entry], bool]:
    frame = run.frames(name, "events")[-1]
    return lambda entry: entry.client == name and entry.body is frame


def test_what_is_shown_in_time_is_not_late() -> None:
    run = Run()
    assert _late(run) == []
    _delay(run, 2, _last_events_of(run, "inspector"))
    assert [violation.where for violation in _late(run)] == ["inspector c1"]
    assert _late(run, calm_s=1.5) == [], "until then there were faults"


def test_what_is_never_shown_is_late_by_the_time_the_connection_ends() -> None:
    run = Run()
    run.forget(after=run.batches[-2].last_offset, name="inspector")
    assert _late(run) == []
    run.clients["inspector"].closed()
    assert _late(run) == [], "it was not due yet"
    _delay(run, 2, lambda entry: entry.kind == "closed")
    assert [violation.where for violation in _late(run)] == ["inspector c1"]


def test_who_was_not_connected_is_shown_it_when_he_comes_back() -> None:
    run = Run()
    run.forget(after=run.batches[-2].last_offset, name="inspector")
    run.clients["inspector"].closed()
    before = len(run.history.entries)
    run.connect("inspector", "full")
    run.deliver(run.clients["inspector"], run.batches[-1])
    _delay(run, 5, lambda entry: entry is run.history.entries[before])
    assert _late(run) == []


def test_a_request_that_waits_is_found() -> None:
    run = Run()
    assert list(observers.hanging(_evidence(run), 1)) == []
    _delay(run, 2, lambda entry: entry.kind == "received" and entry.key == "k2")
    assert [violation.where for violation in observers.hanging(_evidence(run), 1)] == ["ann-desk c1"]


def test_what_waits_behind_another_waits_from_its_turn_on() -> None:
    run = Run()
    first = next(e for e in run.history.entries if e.kind == "sent" and e.key == "k2")
    behind = replace(first, key=None, body={"type": "state", "id": "behind", "conversation_id": "c1"})
    run.history.entries.insert(run.history.entries.index(first) + 1, behind)
    _delay(run, 2, lambda entry: entry.kind == "received" and entry.key == "k2")
    ack = next(e for e in run.history.entries if e.kind == "received" and e.key == "k2")
    answer = replace(ack, key=None, body={**ack.body, "id": "behind"})
    run.history.entries.insert(run.history.entries.index(ack) + 1, answer)
    found = [violation.what for violation in observers.hanging(_evidence(run), 1)]
    assert [what.split()[0] for what in found] == ["process"]


def test_a_request_that_nobody_answers_is_found_when_the_connection_ends() -> None:
    run = Run()
    ack = next(e for e in run.history.entries if e.kind == "received" and e.key == "k2")
    run.history.entries.remove(ack)
    run.clients["ann-desk"].closed()
    assert list(observers.hanging(_evidence(run), 1)) == []
    _delay(run, 2, lambda entry: entry.kind == "closed")
    assert [violation.where for violation in observers.hanging(_evidence(run), 1)] == ["ann-desk c1"]


def test_what_was_given_up_with_its_connection_may_come_later() -> None:
    """It may lie in front of a slow instance, while another serves what was said next."""

    def talk(*, loses_connection: bool) -> list[Violation]:
        run = Run()
        phone = run.clients["ann-phone"]
        frame = {"type": "process", "conversation_id": "c1", "content": {"text": "coffee"}}
        phone.invoke("c1", "k3", frame)
        run._send(phone, {**frame, "id": "k3", "idempotency_key": "k3"})
        phone.unknown("c1", "k3")
        if loses_connection:
            phone.closed()
            run.connect("ann-phone", "owner")
        run.turn("ann-phone", "k4", "tea")
        event = _Events("k3", run.offset)
        event.says({"message_id": "m-k3", "role": "user", "text": "coffee"}, "message.received")
        event("turn.failed", {"error": {"code": "cancelled"}})
        run.commit(event, "k3")
        return run.check()

    assert rules(talk(loses_connection=False)) == {"order"}
    assert talk(loses_connection=True) == []
