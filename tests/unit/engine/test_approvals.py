"""How far an approval reaches: over calls, links and digressions, and never to what was not approved."""

from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from storage.models import EVENT_MAX_BYTES, Pending
from storage.sizes import event_bytes
from tests.support.talk import TENANT, Talk

DECIDERS = [Principal(f"d{n}", TENANT, scopes=frozenset({"acceptance:decide"})) for n in range(16)]


class Desk:
    """The actions behind the approvals: what was done, in order."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    async def do(self, context: Any, **arguments: Any) -> Any:
        self.done.append(arguments)
        return len(self.done)


def talk_about(desk: Desk, *flows: str) -> Talk:
    return Talk(*flows, actions={"desk.do": desk.do})


async def open_request(talk: Talk) -> Pending:
    execution = (await talk.record()).execution
    assert execution is not None
    (found,) = [p for p in execution.pending if p.kind == "acceptance" and p.decided is None]
    return found


async def accept(talk: Talk, **fields: Any) -> Any:
    pending = await open_request(talk)
    body = {"pending_id": pending.pending_id, "accepted": True, "comment": None, "edits": {}, "digest": None}
    accepted = await talk.send("acceptance", {**body, **fields})
    await talk.rest()
    return accepted


MENDED = """
flow: mended
slots: {n: {type: integer, default: 1}}
interruptible_by: [change]
steps:
  - {id: gate, accept: {title: "Order?"}, accepted: order, rejected: no}
  - {id: order, action: desk.do, effect: write, with: {n: "${slots.n}"}, on_error: mend, goto: yes}
  - {id: mend, set: {slots.n: 99}, goto: order}
  - {id: yes, say: "Ordered.", goto: done}
  - {id: no, say: "No."}
  - {id: done, end: completed}
"""
CHANGE = """
flow: change
triggers: {intents: [{name: change, keywords: [change]}]}
slots: {n: {type: integer, keep: true}}
steps: [{set: {slots.n: 7}}, {say: "Changed."}]
"""


async def test_what_was_refused_as_not_approved_is_not_run_in_another_visit() -> None:
    """The flow's own way out of the failure leads back to the step: that approves nothing."""
    desk = Desk()
    async with talk_about(desk, MENDED, CHANGE) as talk:
        await talk.say("hi", flow_id="mended")
        await talk.say("change")
        await accept(talk)
        assert desk.done == []


LINKED = """
flow: linked
slots: {colour: {type: choice, options: [red, blue], keep: true}, n: {type: integer, default: 1}}
steps:
  - {id: gate, accept: {title: "Order?"}, accepted: over, rejected: over}
  - {id: over, link: behind}
"""
BEHIND = """
flow: behind
interruptible_by: [aside]
slots: {colour: {type: choice, options: [red, blue]}, n: {type: integer}}
steps:
  - {id: order, action: desk.do, effect: write, with: {n: "${slots.n}", c: "${slots.colour}"}}
"""
ASKING = BEHIND.replace("steps:", "steps:\n  - {id: ask, collect: colour, ask: {colour: 'Which colour?'}}")
ASIDE = """
flow: aside
triggers: {intents: [{name: aside, keywords: [aside]}]}
slots: {n: {type: integer, keep: true}}
steps:
  - {set: {slots.n: 7}}
  - {id: look, action: desk.do, effect: read, with: {look: true}}
  - {say: "Looked."}
"""
CALLING = """
flow: linked
interruptible_by: [aside]
slots: {colour: {type: choice, options: [red, blue], keep: true}, n: {type: integer, default: 1}}
steps:
  - {id: sub, call: approve}
  - {id: ask, collect: colour, ask: {colour: "Which colour?"}}
  - {id: order, action: desk.do, effect: write, with: {n: "${slots.n}", c: "${slots.colour}"}}
"""
APPROVE = """
flow: approve
steps:
  - {id: gate, accept: {title: "Order?"}, accepted: ok, rejected: ok}
  - {id: ok, end: completed}
"""


async def test_an_approval_that_was_handed_on_leaves_digressions_alone() -> None:
    """Who calls takes over what the called flow's approval binds; what interrupts it has its own business."""
    desk = Desk()
    async with talk_about(desk, CALLING, APPROVE, ASIDE) as talk:
        await talk.send("start", {"flow_id": "linked", "initial_context": {"colour": "red"}})
        assert (await open_request(talk)).digest is not None
        await talk.send("context", {"slots": {"colour": None}})
        await accept(talk)
        assert (await talk.record()).status == "waiting_input"
        await talk.say("aside")
        await talk.rest()
        assert (await talk.texts())[-2] == "Looked."
        await talk.say("red")
        await talk.rest()
        assert desk.done == [{"look": True}]
        assert (await talk.record()).status == "failed"


async def test_an_approval_goes_over_to_the_flow_that_takes_the_place() -> None:
    desk = Desk()
    async with talk_about(desk, LINKED, ASKING, ASIDE) as talk:
        await talk.send("start", {"flow_id": "linked", "initial_context": {"colour": "red"}})
        await talk.send("context", {"slots": {"colour": None}})
        await accept(talk)
        assert (await talk.record()).status == "waiting_input"
        await talk.say("aside")
        await talk.rest()
        assert desk.done == [{"look": True}]
        await talk.say("red")
        await talk.rest()
        assert desk.done == [{"look": True}]
        assert (await talk.record()).status == "failed"


ROUND = """
flow: round
slots: {more: {type: boolean}}
steps:
  - {id: sub, call: approve}
  - {id: order, action: desk.do, effect: write, with: {n: 1}}
  - {id: look, action: desk.do, effect: read, with: {n: 2}, goto: sub}
"""


async def test_approvals_that_have_been_used_are_forgotten() -> None:
    """A flow that calls another for approvals, over and over, does not keep them all."""
    desk = Desk()
    async with talk_about(desk, ROUND, APPROVE) as talk:
        await talk.send("start", {"flow_id": "round"})
        for _ in range(30):
            await accept(talk)
        execution = (await talk.record()).execution
        assert execution is not None
        assert len(desk.done) == 60
        assert len(execution.pending) <= 10


VOTED = """
flow: voted
slots: {note: {type: text, keep: true}}
steps:
  - id: gate
    accept: {title: "Print ${slots.note}?", prompt: "PROMPT", by: {quorum: 16}, editable: [slots.note]}
    accepted: ok
    rejected: ok
  - {id: ok, end: completed}
"""


async def vote(talk: Talk, who: Principal, **fields: Any) -> None:
    pending = await open_request(talk)
    body = {"pending_id": pending.pending_id, "accepted": True, "comment": None, "edits": {}, "digest": None}
    await talk.send("acceptance", {**body, **fields}, who=who)


async def all_vote(talk: Talk, comment: str) -> None:
    for who in DECIDERS:
        await vote(talk, who, comment=comment)


async def test_votes_do_not_outgrow_an_event() -> None:
    async with Talk(VOTED.replace("PROMPT", "x" * 14_000)) as talk:
        await talk.send("start", {"flow_id": "voted", "initial_context": {"note": "this"}})
        with pytest.raises(Refused) as refused:
            await all_vote(talk, "\U0001f600" * 1000)
        assert (refused.value.code, refused.value.field) == (ErrorCode.PAYLOAD_TOO_LARGE, "comment")
        sizes = [event_bytes(event) for event in await talk.events("acceptance.requested")]
        assert len(sizes) > 5
        assert max(sizes) <= EVENT_MAX_BYTES


async def test_an_edit_does_not_blow_a_request_up() -> None:
    async with Talk(VOTED.replace("PROMPT", "${slots.note}" * 20)) as talk:
        await talk.send("start", {"flow_id": "voted", "initial_context": {"note": "this"}})
        with pytest.raises(Refused) as refused:
            await vote(talk, DECIDERS[0], edits={"note": "x" * 1000})
        assert (refused.value.code, refused.value.field) == (ErrorCode.BAD_REQUEST, "edits")
