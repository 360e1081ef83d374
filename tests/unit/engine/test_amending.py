"""``context``: slots and variables set from outside; what is judged, who may, and that nothing moves."""

from typing import Any

import pytest

from protocol.errors import ErrorCode, Refused
from server.auth.principal import Principal
from server.engine.types import Accepted
from tests.support.talk import TENANT, USER, Talk, replies

FLOW = """
flow: order
slots:
  size: {type: choice, options: [small, large]}
  count:
    type: number
    validate: [{if: "value < 1.0", say: "At least one."}]
variables: {note: null, shown: null}
interruptible_by: [aside]
steps:
  - {id: begin, set: {variables.shown: 1}, expose: true}
  - {id: ask, collect: [size, count], ask: {size: "Size?", count: "How many?"}}
  - {id: done, say: "${slots.count} ${slots.size}, ${variables.note}."}
"""
ASIDE = """
flow: aside
triggers: {intents: [{name: aside, keywords: [aside]}]}
slots: {colour: {type: text}}
variables: {own: 1}
steps:
  - {id: which, collect: [colour], ask: {colour: "Colour?"}}
"""
OPERATOR = Principal("op", TENANT, "operator", frozenset({"conversations:write"}))


async def amend(talk: Talk, who: Principal | None = None, **values: Any) -> Accepted:
    return await talk.send("context", values, who=who or USER)


async def refused(talk: Talk, who: Principal | None = None, **values: Any) -> Refused:
    before = await talk.record()
    with pytest.raises(Refused) as caught:
        await amend(talk, who, **values)
    assert await talk.record() == before
    return caught.value


async def test_slots_are_set_as_the_flow_reads_them_and_told() -> None:
    async with Talk(FLOW) as talk:
        await talk.say("hi", flow_id="order")
        accepted = await amend(talk, slots={"count": 3})
        assert accepted.status == "completed"
        assert accepted.result is not None
        assert accepted.result["context_updates"]["slots"] == {"count": 3}
        (event,) = [e for e in await talk.events("slots.updated") if e.data["slots"].get("count")]
        assert (event.command_id, event.audience) == (accepted.command_id, "owner")
        assert replies(await talk.say("large")) == ["3 large, ."]


async def test_nothing_moves_and_an_open_question_stays_open() -> None:
    async with Talk(FLOW) as talk:
        await talk.say("hi", flow_id="order")
        before = (await talk.record()).execution
        accepted = await amend(talk, slots={"size": "small"})
        after = (await talk.record()).execution
        assert before is not None
        assert after is not None
        assert (after.pending, after.current_step_id, after.status) == (
            before.pending, before.current_step_id, before.status,
        )  # fmt: skip
        assert replies(accepted) == []
        assert replies(await talk.say("large")) == ["How many?"]
        assert (await talk.record()).slots["size"] == "large"


async def test_null_clears_a_slot() -> None:
    async with Talk(FLOW) as talk:
        await talk.say("hi", flow_id="order")
        await talk.say("large")
        await amend(talk, slots={"size": None})
        assert "size" not in (await talk.record()).slots


@pytest.mark.parametrize(
    ("slots", "field", "said"),
    [
        ({"siez": "small"}, "slots.siez", "no"),
        ({"size": "huge"}, "slots.size", "fit"),
        ({"count": 0}, "slots.count", "At least one."),
        ({"size": "small", "count": 0}, "slots.count", "At least one."),
    ],
)
async def test_what_does_not_fit_changes_nothing(slots: dict[str, Any], field: str, said: str) -> None:
    async with Talk(FLOW) as talk:
        await talk.say("hi", flow_id="order")
        refusal = await refused(talk, slots=slots)
        assert (refusal.code, refusal.field) == (ErrorCode.BAD_REQUEST, field)
        assert said.lower() in refusal.message.lower()


async def test_variables_take_the_scope_and_hidden_ones_are_told_to_inspectors_only() -> None:
    async with Talk(FLOW) as talk:
        await talk.say("hi", flow_id="order")
        assert (await refused(talk, variables={"note": 1})).code is ErrorCode.PERMISSION_DENIED
        await amend(talk, OPERATOR, variables={"note": "x", "shown": 2})
        told = [e for e in await talk.events("variables.updated") if e.command_id is not None]
        assert [(e.data["variables"], e.audience) for e in told[-2:]] == [
            ({"shown": 2}, "owner"),
            ({"note": "x"}, "full"),
        ]
        assert (await refused(talk, OPERATOR, variables={"nope": 1})).field == "variables.nope"


async def test_inside_another_flow_both_flows_slots_are_known_and_the_outer_ones_variables() -> None:
    async with Talk(FLOW, ASIDE) as talk:
        await talk.say("hi", flow_id="order")
        assert replies(await talk.say("aside")) == ["Colour?"]
        await amend(talk, OPERATOR, slots={"colour": "red", "size": "small"}, variables={"note": "n"})
        record = await talk.record()
        assert (record.slots["colour"], record.slots["size"]) == ("red", "small")
        assert record.variables["note"] == "n"
        assert (await refused(talk, OPERATOR, variables={"own": 2})).field == "variables.own"


async def test_without_a_flow_that_runs_it_is_the_wrong_state() -> None:
    async with Talk(FLOW) as talk:
        with pytest.raises(Refused) as missing:
            await amend(talk, slots={"size": "small"})
        assert missing.value.code is ErrorCode.CONVERSATION_NOT_FOUND
        await talk.say("hi", flow_id="order")
        await talk.send("cancel", {"execution_id": None, "reason": None})
        assert (await refused(talk, slots={"size": "small"})).code is ErrorCode.WRONG_STATE
        await talk.send("reset", {"reason": "r"})
        refusal = await refused(talk, slots={"size": "small"})
        assert (refusal.code, refusal.details) == (ErrorCode.WRONG_STATE, {"status": "idle"})


async def test_a_strangers_change_finds_nothing() -> None:
    async with Talk(FLOW) as talk:
        await talk.say("hi", flow_id="order")
        stranger = await refused(talk, Principal("u2", TENANT), slots={"size": "small"})
        assert stranger.code is ErrorCode.CONVERSATION_NOT_FOUND


async def test_what_the_record_has_no_room_for_is_refused() -> None:
    async with Talk(FLOW) as talk:
        await talk.say("hi", flow_id="order")
        refusal = await refused(talk, OPERATOR, variables={"note": "x" * 2_000_000})
        assert refusal.code is ErrorCode.PAYLOAD_TOO_LARGE
