"""A flow that stops for people: acceptances, clarifications, their deadlines, and who learns what."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.delivery.audience import data_view, event_view
from server.engine.flow.loader import compile_flow
from server.engine.types import Accepted
from server.engine.views import state_view
from storage.memory import MemoryStore
from storage.models import Audience, Event, Pending
from tests.support.durable_log import Fold
from tests.support.talk import TENANT, USER, Talk, replies
from tests.support.world import VirtualClock

DECIDER = Principal("boss", TENANT, scopes=frozenset({"acceptance:decide"}))
SECOND = Principal("chief", TENANT, scopes=frozenset({"acceptance:decide"}))
AGENT = Principal("agent", TENANT, scopes=frozenset({"conversations:write"}))
STRANGER = Principal("u2", TENANT)
HOUR = 3_600_000

GATE = """
flow: gate
default: true
interruptible_by: [faq, pick]
slots:
  date: {type: date, validate: [{if: "value < '2026-01-01'", say: "That day has passed."}]}
  count: {type: integer, default: 1}
variables: {price: 10, decision: null}
steps:
  - {id: when, collect: date, ask: {date: "Which day?"}}
  - id: gate
    accept:
      {title: "Book ${slots.date}?", BY editable: [slots.date, slots.count], deadline: 4h, on_timeout: LATE}
    accepted: cost
    rejected: no
    save: variables.decision
    while_waiting: "Somebody is looking at it."
  - {id: cost, set: {variables.price: "${variables.price * 2}"}}
  - {id: check, branch: [{if: "slots.count > 0", goto: book}, {else: no}]}
  - id: book
    action: shop.book
    effect: write
    with: {day: "${slots.date}", n: "${slots.count}", price: "${variables.price}"}
    save: variables.booking
    on_error: changed
  - {id: yes, say: "Booked ${variables.booking}.", goto: done}
  - {id: no, say: "Nothing was booked.", goto: done}
  - {id: late, say: "Nobody had time.", goto: done}
  - {id: changed, say: "That has changed.", goto: done}
  - {id: done, end: completed, output: "${variables.decision}"}
"""
FAQ = """
flow: faq
triggers: {intents: [{name: hours, keywords: [hours]}]}
steps: [{say: "We open at nine."}]
"""
PICK = """
flow: pick
triggers: {intents: [{name: pick, keywords: [pick]}]}
slots: {count: {type: integer, keep: true}, colour: {type: choice, options: [red, blue]}}
steps:
  - {id: colour, collect: colour, ask: {colour: "Which colour?"}}
  - {set: {slots.count: 7}}
  - {say: "Noted."}
"""


def gate(by: str = "", timeout: str = "{decide: reject}") -> str:
    return GATE.replace("BY", f"by: {by}," if by else "").replace("LATE", timeout)


class Shop:
    """The action behind the gate."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def book(self, context: Any, **arguments: Any) -> Any:
        self.orders.append(arguments)
        await self.go.wait()
        return f"number {len(self.orders)}"


def talk_about(flow: str, shop: Shop | None = None, **options: Any) -> Talk:
    return Talk(flow, FAQ, PICK, actions={"shop.book": (shop or Shop()).book}, **options)


async def pending_of(talk: Talk, place: int = -1) -> Pending:
    execution = (await talk.record()).execution
    assert execution is not None
    return [p for p in execution.pending if p.kind != "input"][place]


async def ask(talk: Talk) -> Pending:
    """Bring the conversation to its gate."""
    await talk.say("hello")
    await talk.say("2026-12-01")
    return await pending_of(talk)


async def accept(talk: Talk, pending: Pending, who: Principal = USER, **fields: Any) -> Accepted:
    body = {"accepted": True, "comment": None, "edits": {}, "digest": None, **fields}
    return await talk.send("acceptance", {"pending_id": pending.pending_id, **body}, who=who)


async def refusal(talk: Talk, pending: Pending, who: Principal = USER, **fields: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await accept(talk, pending, who, **fields)
    return refused.value


async def settled(talk: Talk) -> None:
    await talk.rest()
    assert (await talk.record()).status == "completed"


def types_of(events: list[Event]) -> list[str]:
    return [event.type for event in events]


# --- accepting and rejecting ----------------------------------------------------------------------


async def test_a_flow_stops_and_shows_what_it_is_about_to_do() -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        record = await talk.record()
        assert (record.status, record.wake_at) == ("waiting_acceptance", pending.deadline)
        assert (pending.title, pending.editable) == ("Book 2026-12-01?", ("date", "count"))
        assert pending.digest is not None
        assert len(pending.digest) == 64
        (requested,) = await talk.events("acceptance.requested")
        assert requested.data["pending_id"] == pending.pending_id
        assert requested.data["digest"] == pending.digest
        assert requested.data["deadline"].endswith("Z")
        assert (await talk.events("execution.waiting"))[-1].data["status"] == "waiting_acceptance"
        assert record.variables["price"] == 10, "looking ahead changes nothing"


async def test_what_was_accepted_is_run() -> None:
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        pending = await ask(talk)
        accepted = await accept(talk, pending, comment="fine", digest=pending.digest)
        assert accepted.status == "running"
        await settled(talk)
        assert shop.orders == [{"day": "2026-12-01", "n": 1, "price": 20}]
        decided = (await pending_of(talk)).decided
        assert decided is not None
        assert (decided["by"], decided["accepted"], decided["comment"]) == ("u1", True, "fine")
        assert decided["digest"] == pending.digest
        (resolved,) = await talk.events("pending.resolved")
        assert resolved.data["decided"]["by"] == "u1"
        assert resolved.command_id == accepted.command_id
        assert types_of(await talk.events("execution.resumed", "pending.resolved")) == [
            "pending.resolved", "execution.resumed",
        ]  # fmt: skip
        assert (await talk.record()).execution.output["comment"] == "fine"  # type: ignore[union-attr]
        ends = [e for e in await talk.events("turn.completed") if e.command_id == accepted.command_id]
        assert len(ends) == 1
        assert ends[0].data["response"]["messages"][0]["text"] == "Booked number 1."


async def test_what_was_rejected_is_not_run() -> None:
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        pending = await ask(talk)
        rejected = await accept(talk, pending, accepted=False)
        assert replies(rejected) == ["Nothing was booked."]
        assert shop.orders == []
        assert (await talk.record()).status == "completed"


async def test_another_digest_is_refused_and_says_the_right_one() -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        refused = await refusal(talk, pending, digest="0" * 64)
        assert (refused.code, refused.field) == (ErrorCode.WRONG_STATE, "digest")
        assert refused.details == {"digest": pending.digest}
        assert (await talk.record()).status == "waiting_acceptance"


async def test_edits_become_slots_and_the_digest_is_made_anew() -> None:
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        pending = await ask(talk)
        await accept(talk, pending, digest=pending.digest, edits={"date": "2026-12-24", "count": 2})
        await settled(talk)
        assert shop.orders == [{"day": "2026-12-24", "n": 2, "price": 20}]
        decided = (await pending_of(talk)).decided
        assert decided is not None
        assert decided["edits"] == {"date": "2026-12-24", "count": 2}
        assert decided["digest"] not in (None, pending.digest)


@pytest.mark.parametrize(
    ("edits", "field", "says"),
    [
        ({"colour": "red"}, "edits.colour", "may not be edited"),
        ({"date": "tomorrow"}, "edits.date", "should be a date"),
        ({"date": "2025-01-01"}, "edits.date", "That day has passed."),
        ({"date": None}, "edits.date", "A value is needed."),
        ({"count": "two"}, "edits.count", "whole number"),
    ],
)
async def test_an_edit_that_does_not_fit_is_refused_by_name(
    edits: dict[str, Any], field: str, says: str
) -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        refused = await refusal(talk, pending, edits=edits)
        assert (refused.code, refused.field) == (ErrorCode.BAD_REQUEST, field)
        assert says in refused.message
        assert (await talk.record()).slots == {"date": "2026-12-01", "count": 1}


async def test_a_rejection_edits_nothing_and_a_decision_has_a_size() -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        assert (await refusal(talk, pending, accepted=False, edits={"count": 2})).field == "edits"
        large = await refusal(talk, pending, edits={"date": "x" * 40_000})
        assert (large.code, large.field) == (ErrorCode.PAYLOAD_TOO_LARGE, "edits")


# --- what runs equals what was approved -----------------------------------------------------------


async def digression_changes_count(talk: Talk) -> None:
    await talk.say("pick")
    await talk.say("red")
    assert (await talk.record()).slots["count"] == 7
    assert (await talk.record()).status == "waiting_acceptance"


async def test_what_has_changed_since_is_not_run() -> None:
    """A digression changed a slot: what was shown is not what would run, so nothing runs."""
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        pending = await ask(talk)
        await digression_changes_count(talk)
        done = await accept(talk, pending, digest=pending.digest)
        assert replies(done) == ["That has changed."]
        assert shop.orders == []
        (failed,) = await talk.events("step.failed")
        assert failed.data["error"]["details"]["approved"] == pending.digest


async def test_who_edits_one_thing_is_told_that_another_has_changed() -> None:
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        pending = await ask(talk)
        await digression_changes_count(talk)
        refused = await refusal(talk, pending, edits={"date": "2026-12-24"})
        assert (refused.code, refused.field) == (ErrorCode.WRONG_STATE, "digest")


async def test_a_version_published_meanwhile_changes_nothing() -> None:
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        pending = await ask(talk)
        talk.catalog.add(compile_flow(gate().replace("price * 2", "price * 9"), "test.yaml"), version=2)
        await accept(talk, pending, digest=pending.digest)
        await settled(talk)
        assert shop.orders[0]["price"] == 20


REFILL = """
flow: f
slots: {n: {type: integer}}
interruptible_by: [pick]
variables: {m: 1}
steps:
  - {set: {slots.n: 5}}
  - {id: gate, accept: {title: "Go?"}, accepted: fill, rejected: no}
  - {id: fill, collect: n, ask: {n: "How many?"}}
  - {id: book, action: shop.book, effect: write, with: {n: "${slots.n}"}, on_error: no}
  - {id: yes, say: "Done.", goto: done}
  - {id: no, say: "Not done."}
  - {id: done, end: completed}
"""
FORGET = """
flow: pick
triggers: {intents: [{name: pick, keywords: [pick]}]}
slots: {n: {type: integer, keep: true}}
steps: [{set: {slots.n: null}}, {say: "Forgotten."}]
"""


async def test_an_approval_binds_across_a_question_that_comes_in_between() -> None:
    """A step on the way begins to ask although it had nothing to ask before: the answer cannot widen it."""
    shop = Shop()
    for answer, orders in (("5", [{"n": 5}]), ("6", [])):
        shop.orders.clear()
        async with Talk(REFILL, FORGET, actions={"shop.book": shop.book}) as talk:
            await talk.say("hi", flow_id="f")
            pending = await pending_of(talk)
            await talk.say("pick")
            assert replies(await accept(talk, pending)) == ["How many?"]
            await talk.say(answer)
            await settled(talk)
            assert shop.orders == orders


async def test_trying_again_does_not_widen_an_approval() -> None:
    """Nothing catches the failure; an operator's retry meets the same digest."""
    shop = Shop()
    flow = gate().replace("    on_error: changed\n", "")
    async with talk_about(flow, shop) as talk:
        pending = await ask(talk)
        await digression_changes_count(talk)
        await accept(talk, pending)
        assert (await talk.record()).status == "failed"
        await talk.send("retry", {}, who=AGENT)
        assert (await talk.record()).status == "failed"
        assert shop.orders == []
        assert (await refusal(talk, pending)).code is ErrorCode.PENDING_RESOLVED


CALLER = """
flow: caller
interruptible_by: [pick]
slots: {count: {type: integer, default: 1}}
steps:
  - {id: gate, accept: {title: "Go?"}, accepted: sub, rejected: no}
  - {id: sub, call: {flow: callee}, on_error: no}
  - {id: again, action: shop.book, effect: write, with: {n: 100}}
  - {id: yes, say: "Done.", goto: done}
  - {id: no, say: "Not done."}
  - {id: done, end: completed}
"""
CALLEE = """
flow: callee
slots: {count: {type: integer}}
steps:
  - {id: book, action: shop.book, effect: write, with: {n: "${slots.count}"}}
"""


async def test_an_approval_reaches_into_the_flow_that_is_called() -> None:
    """The first effect is the called flow's; what comes behind it is free."""
    for changes, orders, text in ((False, [{"n": 1}, {"n": 100}], "Done."), (True, [], "Not done.")):
        shop = Shop()
        async with Talk(CALLER, CALLEE, PICK, actions={"shop.book": shop.book}) as talk:
            await talk.say("hi", flow_id="caller")
            pending = await pending_of(talk)
            assert pending.digest is not None
            if changes:
                await digression_changes_count(talk)
            await accept(talk, pending, digest=pending.digest)
            await settled(talk)
            assert shop.orders == orders
            assert (await talk.texts())[-1] == text


async def test_a_step_may_leave_open_what_follows() -> None:
    shop = Shop()
    flow = gate().replace("deadline: 4h,", "digest: false, deadline: 4h,")
    async with talk_about(flow, shop) as talk:
        pending = await ask(talk)
        assert pending.digest is None
        await digression_changes_count(talk)
        await accept(talk, pending)
        await settled(talk)
        assert shop.orders[0]["n"] == 7


async def test_an_approval_outlives_the_server() -> None:
    """The decision is committed with the effect's intent; another instance runs what was approved."""
    store_clock = VirtualClock()
    store = MemoryStore(clock=store_clock.now)
    await store.open()
    first, second = Shop(), Shop()
    first.go.clear()
    flow = gate().replace("effect: write", "effect: idempotent")
    async with talk_about(
        flow, second, store=store, clock=store_clock, instance_id="i2", sole_writer=False
    ) as two:
        one = talk_about(flow, first, store=store, clock=store_clock, sole_writer=False)
        await one.engine.start()
        pending = await ask(one)
        await accept(one, pending, digest=pending.digest)
        await one.rest()
        await one.engine.stop(0)
        await two.wait(20_000)
        await settled(two)
    assert first.orders == second.orders == [{"day": "2026-12-01", "n": 1, "price": 20}]


# --- who may decide -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "who", "code"),
    [
        ("", USER, None),
        ("", DECIDER, ErrorCode.CONVERSATION_NOT_FOUND),
        ("", AGENT, ErrorCode.PERMISSION_DENIED),
        ("", STRANGER, ErrorCode.CONVERSATION_NOT_FOUND),
        ("{scope: 'acceptance:decide'}", DECIDER, None),
        ("{scope: 'acceptance:decide'}", USER, ErrorCode.PERMISSION_DENIED),
        ("{scope: 'acceptance:decide'}", AGENT, ErrorCode.PERMISSION_DENIED),
        ("{scope: 'acceptance:decide'}", STRANGER, ErrorCode.CONVERSATION_NOT_FOUND),
        ("{scope: 'acceptance:decide'}", Principal("root", TENANT, scopes=frozenset({"admin"})), None),
        ("{scope: 'acceptance:decide'}", Principal("boss", "t2", scopes=frozenset({"admin"})),
         ErrorCode.CONVERSATION_NOT_FOUND),
        ("{quorum: 1}", DECIDER, None),
        ("{user: u2}", STRANGER, None),
        ("{user: u2}", DECIDER, ErrorCode.CONVERSATION_NOT_FOUND),
        ("{user: '${user.id}'}", USER, None),
        ("{user: u2, scope: 'acceptance:decide'}", DECIDER, None),
    ],
)  # fmt: skip
async def test_who_may_decide(by: str, who: Principal, code: ErrorCode | None) -> None:
    async with talk_about(gate(by)) as talk:
        pending = await ask(talk)
        if code is None:
            await accept(talk, pending, who)
            decided = (await pending_of(talk)).decided
            assert decided is not None
            assert decided["by"] == who.user_id
        else:
            assert (await refusal(talk, pending, who)).code is code
            assert (await pending_of(talk)).decided is None


async def test_a_service_decides_for_whom_it_names() -> None:
    service = Principal("service", TENANT, scopes=frozenset({"users:act"}))
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        await accept(talk, pending, service, user_id="u1")
        decided = (await pending_of(talk)).decided
        assert decided is not None
        assert decided["by"] == "u1"


async def test_a_workflow_without_a_user_asks_whoever_has_the_scope() -> None:
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        body = {"flow_id": "gate", "initial_context": {"date": "2026-12-01"}, "user_id": None}
        await talk.send("start", body, who=AGENT)
        pending = await pending_of(talk)
        assert pending.by == {"scope": "acceptance:decide", "user": None, "quorum": 1}
        assert (await refusal(talk, pending, AGENT)).code is ErrorCode.PERMISSION_DENIED
        await accept(talk, pending, DECIDER, edits={"date": "2026-12-24"})
        await settled(talk)
        assert shop.orders == [{"day": "2026-12-24", "n": 1, "price": 20}]


async def test_who_may_only_decide_learns_nothing_of_other_requests() -> None:
    """A wrong id in a conversation that exists is refused like one that does not."""
    async with talk_about(gate("{scope: 'acceptance:decide'}")) as talk:
        await ask(talk)
        body = {"pending_id": "unknown", "accepted": True}
        refusals = []
        for place in ("c1", "c2"):
            with pytest.raises(Refused) as refused:
                await talk.send("acceptance", body, who=DECIDER, to=place)
            refusals.append(refused.value.to_wire())
        assert refusals[0] == refusals[1]
        assert refusals[0]["code"] == "conversation_not_found"


@pytest.mark.parametrize(
    ("by", "audience"),
    [("", "owner"), ("{user: u1}", "owner"), ("{user: u2}", "agent"), ("{quorum: 2}", "agent")],
)
async def test_a_request_and_what_follows_is_for_whom_it_concerns(by: str, audience: str) -> None:
    async with talk_about(gate(by)) as talk:
        pending = await ask(talk)
        await talk.send("cancel", {})
        events = await talk.events("acceptance.requested", "pending.expired")
        assert [(e.data["pending_id"], e.audience) for e in events] == [(pending.pending_id, audience)] * 2


# --- several people -------------------------------------------------------------------------------


async def test_a_quorum_takes_different_people() -> None:
    shop = Shop()
    async with talk_about(gate("{quorum: 2}"), shop) as talk:
        pending = await ask(talk)
        first = await accept(talk, pending, DECIDER)
        assert first.status == "completed"
        assert (await talk.record()).status == "waiting_acceptance"
        shown = (await talk.events("acceptance.requested"))[-1].data
        assert [vote["by"] for vote in shown["votes"]] == ["boss"]
        again = await refusal(talk, pending, DECIDER)
        assert again.code is ErrorCode.PENDING_RESOLVED
        assert again.details is not None
        assert again.details["vote"]["by"] == "boss"
        assert shop.orders == []
        await accept(talk, pending, SECOND, digest=pending.digest)
        await settled(talk)
        assert len(shop.orders) == 1
        assert [vote["by"] for vote in (await pending_of(talk)).votes] == ["boss", "chief"]


async def test_one_rejection_is_enough() -> None:
    async with talk_about(gate("{quorum: 2}")) as talk:
        pending = await ask(talk)
        await accept(talk, pending, DECIDER)
        assert replies(await accept(talk, pending, SECOND, accepted=False)) == ["Nothing was booked."]


async def test_an_edit_begins_the_count_anew() -> None:
    """The others accepted something else: they have to look at what it is now."""
    shop = Shop()
    async with talk_about(gate("{quorum: 2}"), shop) as talk:
        pending = await ask(talk)
        await accept(talk, pending, DECIDER)
        await accept(talk, pending, SECOND, edits={"date": "2026-12-24"})
        changed = await pending_of(talk)
        assert [vote["by"] for vote in changed.votes] == ["chief"]
        assert (changed.title, changed.digest != pending.digest) == ("Book 2026-12-24?", True)
        assert (await refusal(talk, pending, DECIDER, digest=pending.digest)).code is ErrorCode.WRONG_STATE
        await accept(talk, pending, DECIDER, digest=changed.digest)
        await settled(talk)
        assert shop.orders[0]["day"] == "2026-12-24"


async def test_two_operators_and_three_devices_over_two_instances_decide_once() -> None:
    """One decision; who comes too late is told who decided what."""
    clock = VirtualClock()
    store = MemoryStore(clock=clock.now)
    await store.open()
    shop = Shop()
    options: dict[str, Any] = {"store": store, "clock": clock, "sole_writer": False}
    async with talk_about(gate("{scope: 'acceptance:decide'}"), shop, **options) as one:
        two = talk_about(gate("{scope: 'acceptance:decide'}"), shop, instance_id="i2", **options)
        await two.engine.start()
        pending = await ask(one)
        body: dict[str, Any] = {"pending_id": pending.pending_id, "edits": {}, "digest": pending.digest}
        calls = [
            talk.send("acceptance", {**body, "accepted": accepted}, key=f"key-{who.user_id}-{n}", who=who)
            for n, (talk, who, accepted) in enumerate(
                [(one, DECIDER, True), (two, SECOND, False), (two, DECIDER, True), (one, SECOND, False),
                 (two, DECIDER, True)]
            )
        ]  # fmt: skip
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await one.rest()
        won = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        assert (len(won), len(lost)) == (1, 4)
        resolved = await one.events("pending.resolved")
        assert len(resolved) == 1
        decided = resolved[0].data["decided"]
        for refused in lost:
            assert refused.code is ErrorCode.PENDING_RESOLVED
            assert refused.details == {"decided": decided}
        assert len(shop.orders) == (1 if decided["accepted"] else 0)
        await two.engine.stop(0)


# --- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "text", "accepted"),
    [("{decide: reject}", "Nothing was booked.", False), ("{decide: accept}", "Booked number 1.", True),
     ("late", "Nobody had time.", None)],
)  # fmt: skip
async def test_a_deadline_decides_or_leads_elsewhere(timeout: str, text: str, accepted: bool | None) -> None:
    async with talk_about(gate(timeout=timeout)) as talk:
        pending = await ask(talk)
        await talk.wait(4 * HOUR - 1)
        assert (await talk.record()).status == "waiting_acceptance"
        await talk.wait(1)
        await settled(talk)
        assert (await talk.texts())[-1] == text
        (expired,) = await talk.events("pending.expired")
        assert (expired.cause, expired.command_id) == ("deadline", None)
        assert expired.data["decided"]["by"] is None
        assert expired.data["decided"]["accepted"] is accepted
        assert (await talk.events("execution.resumed"))[-1].cause == "deadline"
        assert (await talk.events("message.completed"))[-1].cause == "deadline"
        late = await refusal(talk, pending)
        assert (late.code, late.details) == (ErrorCode.PENDING_EXPIRED, {"decided": expired.data["decided"]})


async def test_a_decision_behind_the_deadline_is_too_late_before_the_sweep() -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        await talk.wait(4 * HOUR, sweep=False)
        assert (await refusal(talk, pending)).code is ErrorCode.PENDING_EXPIRED
        await talk.wait(0)
        assert (await talk.texts())[-1] == "Nothing was booked."


async def test_a_decision_and_a_deadline_that_race_give_one_outcome() -> None:
    """Whoever commits first; the other finds nothing to do, or is told."""
    for decide_first in (True, False):
        clock = VirtualClock()
        store = MemoryStore(clock=clock.now)
        await store.open()
        shop = Shop()
        options: dict[str, Any] = {"store": store, "clock": clock, "sole_writer": False}
        async with talk_about(gate(), shop, **options) as one:
            two = talk_about(gate(), shop, instance_id="i2", **options)
            pending = await ask(one)
            clock.advance(4 * HOUR - (1 if decide_first else 0))
            deciding = asyncio.create_task(accept(one, pending))
            if decide_first:
                await one.rest(1)
                clock.advance(1)
            await two.sweeper.sweep()
            outcome = (await asyncio.gather(deciding, return_exceptions=True))[0]
            await one.wait(0)
            ends = types_of(await one.events("pending.resolved", "pending.expired"))
            if isinstance(outcome, Accepted):
                assert ends == ["pending.resolved"]
            else:
                assert isinstance(outcome, Refused)
                assert outcome.code is ErrorCode.PENDING_EXPIRED
                assert ends == ["pending.expired"]
            assert len(shop.orders) == (1 if isinstance(outcome, Accepted) else 0)


async def test_a_message_behind_the_deadline_is_recorded_and_the_deadline_holds() -> None:
    async with Talk(FORM) as talk:
        await talk.say("hi")
        await talk.wait(20 * 60_000, sweep=False)
        assert (await talk.say("morning")).status == "completed"
        assert types_of(await talk.events("pending.resolved", "pending.expired")) == []
        await talk.wait(0)
        assert (await talk.texts())[-1] == "Too late."


# --- messages meanwhile ---------------------------------------------------------------------------


async def test_a_message_meanwhile_is_recorded_and_answered() -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        said = await talk.say("are you there?")
        assert (said.status, replies(said)) == ("completed", ["Somebody is looking at it."])
        assert (await talk.record()).status == "waiting_acceptance"
        assert (await talk.events("message.received"))[-1].data["text"] == "are you there?"
        assert (await pending_of(talk)) == pending


async def test_a_message_meanwhile_is_never_an_error() -> None:
    """What the step says to it cannot be rendered: then nothing is said."""
    flow = gate().replace("Somebody is looking at it.", "${variables.decision.comment}")
    async with talk_about(flow) as talk:
        await ask(talk)
        said = await talk.say("are you there?")
        assert (said.status, replies(said)) == ("completed", [])
        assert (await talk.record()).status == "waiting_acceptance"


async def test_a_digression_returns_to_the_request() -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        said = await talk.say("what are your hours")
        assert replies(said) == ["We open at nine."]
        assert (await talk.record()).status == "waiting_acceptance"
        assert await pending_of(talk) == pending
        assert len(await talk.events("acceptance.requested")) == 1


async def test_a_decision_below_a_digression_is_followed_when_the_flow_returns() -> None:
    shop = Shop()
    async with talk_about(gate(), shop) as talk:
        pending = await ask(talk)
        await talk.say("pick")
        assert (await talk.record()).status == "waiting_input"
        accepted = await accept(talk, pending, accepted=False)
        assert (accepted.status, replies(accepted)) == ("completed", [])
        assert (await talk.record()).status == "waiting_input"
        assert types_of(await talk.events("pending.resolved")) == ["pending.resolved"]
        assert (await refusal(talk, pending)).code is ErrorCode.PENDING_RESOLVED
        assert replies(await talk.say("blue")) == ["Noted.", "Nothing was booked."]
        assert (await talk.record()).status == "completed"


async def test_a_deadline_below_a_digression_is_followed_when_the_flow_returns() -> None:
    async with talk_about(gate()) as talk:
        await ask(talk)
        await talk.say("pick")
        await talk.wait(4 * HOUR)
        assert types_of(await talk.events("pending.expired")) == ["pending.expired"]
        assert (await talk.record()).status == "waiting_input"
        assert (await talk.record()).wake_at is None
        assert replies(await talk.say("blue")) == ["Noted.", "Nothing was booked."]


async def test_restart_and_reset_and_cancel_close_what_is_open() -> None:
    async with talk_about(gate()) as talk:
        for command in ("/restart", "reset", "cancel"):
            pending = await ask(talk)
            if command == "/restart":
                assert replies(await talk.say(command)) == ["Which day?"]
            else:
                await talk.send(command, {"reason": "r"})
            expired = (await talk.events("pending.expired"))[-1].data
            assert expired["pending_id"] == pending.pending_id
            gone = ErrorCode.PENDING_EXPIRED if command == "cancel" else ErrorCode.PENDING_NOT_FOUND
            assert (await refusal(talk, pending)).code is gone
            if command == "/restart":
                await talk.send("reset", {"reason": "r"})


async def test_a_decision_in_a_pause_is_followed_when_it_ends() -> None:
    async with talk_about(gate()) as talk:
        pending = await ask(talk)
        await talk.send("pause", {"reason": "lunch"}, who=AGENT)
        accepted = await accept(talk, pending, accepted=False)
        assert (accepted.status, replies(accepted)) == ("completed", [])
        assert (await talk.record()).status == "paused"
        assert replies(await talk.send("resume", {}, who=AGENT)) == ["Nothing was booked."]


async def test_a_digression_that_fails_leaves_the_request_open() -> None:
    """And closes what it had itself asked."""
    broken = """
    flow: pick
    triggers: {intents: [{name: pick, keywords: [pick]}]}
    variables: {nothing: null}
    steps:
      - id: inner
        clarify: {questions: [{id: n, text: "How many?", type: integer}]}
        while_waiting: "${variables.nothing.at_all}"
    """
    async with Talk(gate(), FAQ, broken) as talk:
        pending = await ask(talk)
        await talk.say("pick")
        inner = await pending_of(talk)
        await talk.say("what?")
        assert (await talk.record()).status == "waiting_acceptance"
        (expired,) = await talk.events("pending.expired")
        assert expired.data["pending_id"] == inner.pending_id
        assert (await pending_of(talk, 0)) == pending
        assert replies(await accept(talk, pending, accepted=False)) == ["Nothing was booked."]


async def test_a_decision_while_an_effect_runs_leaves_it_alone() -> None:
    """The digression above the request runs an action; the decision has a turn of its own."""
    slow = """
    flow: pick
    triggers: {intents: [{name: pick, keywords: [pick]}]}
    steps:
      - {say: "A moment."}
      - {action: shop.wait, effect: write}
      - {say: "That took long."}
    """
    shop, waiting = Shop(), Shop()
    waiting.go.clear()
    actions = {"shop.book": shop.book, "shop.wait": waiting.book}
    async with Talk(gate(), FAQ, slow, actions=actions) as talk:
        pending = await ask(talk)
        asked = await talk.say("pick", key="asked-key")
        assert asked.status == "running"
        decided = await accept(talk, pending, accepted=False)
        assert (decided.status, replies(decided)) == ("completed", [])
        late = await refusal(talk, pending)
        assert late.code is ErrorCode.PENDING_RESOLVED
        waiting.go.set()
        await settled(talk)
        assert len(waiting.orders) == 1
        (end,) = [e for e in await talk.events("turn.completed") if e.command_id == "asked-key"]
        texts = [message["text"] for message in end.data["response"]["messages"]]
        assert texts == ["A moment.", "That took long.", "Nothing was booked."]


# --- clarifications -------------------------------------------------------------------------------

FORM = """
flow: form
variables: {answers: null}
steps:
  - id: which
    clarify:
      questions: [{id: part, text: "Morning or afternoon?", options: [morning, afternoon]}]
      deadline: 15m
      on_timeout: late
    save: variables.answers
  - {id: done, say: "You said ${variables.answers.part}."}
  - {id: end, end: completed, output: "${variables.answers}"}
  - {id: late, say: "Too late."}
"""
MANY = """
flow: many
interruptible_by: [faq]
variables: {answers: null}
steps:
  - id: which
    clarify:
      questions:
        - {id: part, text: "Morning or afternoon?", options: [morning, afternoon]}
        - {id: guests, text: "How many?", type: integer}
        - {id: note, text: "Anything else?", required: false}
    save: variables.answers
  - {id: end, end: completed, output: "${variables.answers}"}
"""


async def answer(talk: Talk, answers: dict[str, Any], who: Principal = USER) -> Accepted:
    pending = await pending_of(talk)
    return await talk.send("clarification", {"pending_id": pending.pending_id, "answers": answers}, who=who)


async def test_questions_are_asked_and_answered() -> None:
    async with Talk(FORM) as talk:
        assert replies(await talk.say("hi")) == ["Morning or afternoon?"]
        assert (await talk.record()).status == "waiting_clarification"
        (requested,) = await talk.events("clarification.requested")
        assert requested.data["questions"] == [
            {"id": "part", "text": "Morning or afternoon?", "type": "choice",
             "options": ["morning", "afternoon"], "required": True}
        ]  # fmt: skip
        assert requested.audience == "owner"
        assert replies(await answer(talk, {"part": "Morning"})) == ["You said morning."]
        (resolved,) = await talk.events("pending.resolved")
        assert resolved.data["decided"]["answers"] == {"part": "morning"}


async def test_a_message_answers_the_question_that_it_fits() -> None:
    async with Talk(FORM) as talk:
        await talk.say("hi")
        again = await talk.say("what?")
        assert replies(again) == ["Please choose one of: morning, afternoon.\nMorning or afternoon?"]
        assert replies(await talk.say("in the afternoon")) == ["You said afternoon."]
        assert types_of(await talk.events("pending.resolved", "execution.resumed")) == [
            "pending.resolved", "execution.resumed",
        ]  # fmt: skip


async def test_messages_answer_one_question_after_the_other() -> None:
    async with Talk(MANY, FAQ) as talk:
        await talk.say("hi", flow_id="many")
        assert replies(await talk.say("four")) == ["Morning or afternoon?\nAnything else?"]
        assert (await pending_of(talk)).answers == {"guests": 4}
        assert replies(await talk.say("your hours?")) == [
            "We open at nine.", "Morning or afternoon?\nAnything else?",
        ]  # fmt: skip
        assert (await pending_of(talk)).answers == {"guests": 4}
        await talk.say("morning")
        execution = (await talk.record()).execution
        assert execution is not None
        assert execution.output == {"part": "morning", "guests": 4, "note": None}


async def test_what_fits_two_questions_is_asked_again() -> None:
    async with Talk(MANY, FAQ) as talk:
        await talk.say("hi", flow_id="many")
        await talk.say("2")
        assert (await pending_of(talk)).answers == {}
        assert (await talk.record()).status == "waiting_clarification"


async def test_answers_given_in_pieces_make_a_whole() -> None:
    async with Talk(MANY, FAQ) as talk:
        await talk.say("hi", flow_id="many")
        await talk.say("morning")
        await answer(talk, {"guests": "3 people", "note": "by the window"})
        execution = (await talk.record()).execution
        assert execution is not None
        assert execution.output == {"part": "morning", "guests": 3, "note": "by the window"}


async def test_missing_answers_are_listed() -> None:
    async with Talk(MANY, FAQ) as talk:
        await talk.say("hi", flow_id="many")
        for answers in ({}, {"note": "x"}, {"part": None, "guests": ""}):
            with pytest.raises(Refused) as refused:
                await answer(talk, answers)
            assert refused.value.code is ErrorCode.MISSING_ANSWERS
            assert refused.value.details == {"missing": ["part", "guests"]}
        with pytest.raises(Refused) as refused:
            await answer(talk, {"part": "morning"})
        assert refused.value.details == {"missing": ["guests"]}
        assert (await talk.record()).status == "waiting_clarification"


@pytest.mark.parametrize(
    ("answers", "field", "suggestion"),
    [
        ({"prat": "morning"}, "answers.prat", "part"),
        ({"part": "evening", "guests": 2}, "answers.part", None),
        ({"part": "morning", "guests": 2.5}, "answers.guests", None),
        ({"part": ["morning"], "guests": 2}, "answers.part", None),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_by_name(
    answers: dict[str, Any], field: str, suggestion: str | None
) -> None:
    async with Talk(MANY, FAQ) as talk:
        await talk.say("hi", flow_id="many")
        with pytest.raises(Refused) as refused:
            await answer(talk, answers)
        assert (refused.value.code, refused.value.field) == (ErrorCode.BAD_REQUEST, field)
        assert refused.value.suggestion == suggestion


async def test_questions_nobody_answers_lead_elsewhere() -> None:
    async with Talk(FORM) as talk:
        await talk.say("hi")
        await talk.wait(15 * 60_000)
        assert (await talk.texts())[-1] == "Too late."
        with pytest.raises(Refused) as refused:
            await answer(talk, {"part": "morning"})
        assert refused.value.code is ErrorCode.PENDING_EXPIRED


async def test_only_the_owner_answers() -> None:
    async with Talk(FORM) as talk:
        await talk.say("hi")
        for who, code in (
            (AGENT, ErrorCode.PERMISSION_DENIED), (STRANGER, ErrorCode.CONVERSATION_NOT_FOUND),
            (DECIDER, ErrorCode.CONVERSATION_NOT_FOUND),
        ):  # fmt: skip
            with pytest.raises(Refused) as refused:
                await answer(talk, {"part": "morning"}, who)
            assert refused.value.code is code
        assert replies(await talk.say("morning", who=AGENT)) == []
        assert (await talk.record()).status == "waiting_clarification"


# --- sent again -----------------------------------------------------------------------------------


async def test_a_decision_sent_again_returns_the_first_outcome() -> None:
    """Also for somebody whom nothing but the request lets in, after a reset has dropped the request."""
    async with talk_about(gate("{scope: 'acceptance:decide'}")) as talk:
        pending = await ask(talk)
        body = {"pending_id": pending.pending_id, "accepted": False, "comment": None, "edits": {}}
        first = await talk.send("acceptance", body, key="decision-key", who=DECIDER)
        again = await talk.send("acceptance", body, key="decision-key", who=DECIDER)
        assert (again.duplicate, again.result) == (True, first.result)
        await talk.send("reset", {"reason": "r"})
        after = await talk.send("acceptance", body, key="decision-key", who=DECIDER)
        assert (after.duplicate, after.result) == (True, first.result)
        assert len(await talk.events("pending.resolved")) == 1


async def test_a_decision_sent_again_late_is_known_to_who_may_only_decide() -> None:
    """Neither the execution nor the ring remembers it: the log does."""
    async with talk_about(gate("{scope: 'acceptance:decide'}"), Shop(), ring_size=2) as talk:
        pending = await ask(talk)
        body = {"pending_id": pending.pending_id, "accepted": False, "edits": {}}
        await talk.send("acceptance", body, key="key-decided", who=DECIDER)
        await talk.send("reset", {})
        for text in ("hello", "one", "two"):
            await talk.say(text)
        again = await talk.send("acceptance", body, key="key-decided", who=DECIDER)
        assert (again.duplicate, again.status) == (True, "completed")
        with pytest.raises(Refused, match="no such conversation"):
            await talk.send("acceptance", {**body, "accepted": True}, key="key-decided", who=DECIDER)


async def test_only_the_newest_closed_requests_are_remembered() -> None:
    flow = """
    flow: loop
    steps:
      - {id: gate, accept: {title: "Again?"}, accepted: gate, rejected: done}
      - {id: done, end: completed}
    """
    async with Talk(flow) as talk:
        await talk.say("hi")
        made = []
        for _ in range(12):
            made.append(await pending_of(talk))
            await accept(talk, made[-1])
        execution = (await talk.record()).execution
        assert execution is not None
        assert len(execution.pending) <= 10
        assert (await refusal(talk, made[-1])).code is ErrorCode.PENDING_RESOLVED
        assert (await refusal(talk, made[0])).code is ErrorCode.PENDING_NOT_FOUND


# --- what the events tell -------------------------------------------------------------------------


@pytest.mark.parametrize("audience", ["owner", "agent", "full"])
@pytest.mark.parametrize("by", ["", "{quorum: 2}"])
async def test_folding_the_events_gives_the_open_requests(by: str, audience: Audience) -> None:
    """After every turn, for whoever sees them: also votes, digressions, answers that came one by one."""
    async with Talk(gate(by), FAQ, PICK, MANY, actions={"shop.book": Shop().book}) as talk:
        pending = await ask(talk)
        await same_as_folded(talk, audience)
        if by:
            await accept(talk, pending, DECIDER)
            await same_as_folded(talk, audience)
        await talk.say("pick")
        await same_as_folded(talk, audience)
        await accept(talk, pending, SECOND if by else USER)
        await same_as_folded(talk, audience)
        await talk.say("red")
        await talk.rest()
        await same_as_folded(talk, audience)
        await talk.say("hi", flow_id="many")
        await talk.say("morning")
        await same_as_folded(talk, audience)
        await answer(talk, {"guests": 2})
        await same_as_folded(talk, audience)


async def same_as_folded(talk: Talk, audience: Audience) -> None:
    record = await talk.record()
    fold = Fold("c1", record.epoch)
    for event in await talk.events():
        if event_view(event, audience, "u1") is not None:
            fold.take(replace(event, data=data_view(event.type, event.data, audience, "u1")))
    assert fold.state(audience)["pending"] == state_view(record, audience)["pending"]
