"""Acceptances and clarifications over REST: who decides, once, and what everybody else is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rest import Answer, call
from tests.support.server import RunningServer, running_server, token

APPROVE = """
flow: approve
slots: {day: {type: choice, options: [monday, tuesday]}}
variables: {decision: null}
steps:
  - id: gate
    accept: {title: "Book ${slots.day}?", by: {scope: "acceptance:decide"}, editable: [slots.day]}
    accepted: booked
    rejected: refused
    save: variables.decision
  - {id: booked, say: "Booked ${slots.day}.", goto: over}
  - {id: refused, say: "Refused."}
  - {id: over, end: completed, output: "${slots.day}"}
"""
OWN = """
flow: own
variables: {when: null}
steps:
  - id: which
    clarify:
      questions: [{id: part, text: "When?", options: [morning, afternoon]}]
    save: variables.when
  - id: gate
    accept: {title: "Sure?"}
    rejected: over
  - {id: over, end: completed, output: "${variables.when.part}"}
"""
NAMED = """
flow: named
steps:
  - id: gate
    accept: {title: "Pay?", by: {user: "boss"}}
    rejected: over
  - {id: over, end: completed}
"""
QUORUM = """
flow: quorum
steps:
  - id: gate
    accept: {title: "Both?", by: {scope: "acceptance:decide", quorum: 2}}
    rejected: over
  - {id: over, end: completed}
"""
FLOWS = {"approve": APPROVE, "own": OWN, "named": NAMED, "quorum": QUORUM}
OPERATOR = token("op", role="operator")
SERVICE = token("svc", role="service")
DECIDER = token("judge", scopes=("acceptance:decide",))
OWNER = token("u1")
KEY = "key-0123456789"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path, flows=FLOWS) as running:
        yield running


async def started(server: RunningServer, flow_id: str, **body: Any) -> str:
    answer = await call(server, "POST", f"/flows/{flow_id}/start", body, who=SERVICE)
    assert answer.status == 202, answer.json
    return str(answer.json["execution_id"])


async def decide(
    server: RunningServer, execution_id: str, who: str, what: str = "acceptance", **body: Any
) -> Answer:
    headers = {"Idempotency_Key": body.pop("key")} if "key" in body else {}
    path = f"/executions/{execution_id}/{what}"
    return await call(server, "POST", path, body, who=who, **headers)


async def shown(server: RunningServer, execution_id: str, who: str = OPERATOR) -> Any:
    return (await call(server, "GET", f"/executions/{execution_id}", who=who)).json


async def items(server: RunningServer, who: str) -> list[tuple[str, str]]:
    found = (await call(server, "GET", "/inbox", who=who)).json["items"]
    return [(item["kind"], item["execution_id"]) for item in found]


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


async def test_a_workflow_goes_on_as_who_has_the_scope_decides(server: RunningServer) -> None:
    execution_id = await started(server, "approve", initial_context={"day": "monday"})
    waiting = await shown(server, execution_id)
    assert waiting["status"] == "waiting_acceptance"
    assert waiting["pending_acceptance"]["title"] == "Book monday?"
    assert waiting["pending_clarification"] is None
    answer = await decide(
        server, execution_id, DECIDER, accepted=True, edits={"day": "tuesday"}, comment="later"
    )
    assert (answer.status, answer.json["status"]) == (200, "completed")
    ended = await shown(server, execution_id)
    assert (ended["status"], ended["output"], ended["pending_acceptance"]) == ("completed", "tuesday", None)


async def test_who_may_only_decide_sees_it_in_the_inbox_and_nowhere_else(server: RunningServer) -> None:
    execution_id = await started(server, "approve", user_id="u1", initial_context={"day": "monday"})
    assert await items(server, DECIDER) == [("acceptance", execution_id)]
    gone = await call(server, "GET", f"/executions/{execution_id}", who=DECIDER)
    assert refusal(gone) == (404, "execution_not_found")
    assert refusal(await decide(server, execution_id, token("u2"), accepted=True)) == (
        404,
        "execution_not_found",
    )
    answer = await decide(server, execution_id, DECIDER, accepted=False)
    assert answer.status == 200
    assert answer.json["result"] is None  # what the turn said is the conversation's
    assert await items(server, DECIDER) == []


async def test_owning_a_run_is_no_right_to_decide_it(server: RunningServer) -> None:
    execution_id = await started(server, "approve", user_id="u1", initial_context={"day": "monday"})
    assert refusal(await decide(server, execution_id, OWNER, accepted=True)) == (403, "permission_denied")
    assert await items(server, OWNER) == []
    assert (await shown(server, execution_id, OWNER))["pending_acceptance"] is None


async def test_the_owner_answers_and_accepts_what_names_nobody(server: RunningServer) -> None:
    execution_id = await started(server, "own", user_id="u1")
    assert await items(server, OWNER) == [("clarification", execution_id)]
    missing = await decide(server, execution_id, OWNER, "clarification", answers={})
    assert refusal(missing) == (422, "missing_answers")
    assert refusal(await decide(server, execution_id, OWNER, accepted=True)) == (404, "pending_not_found")
    answered = await decide(server, execution_id, OWNER, "clarification", answers={"part": "morning"})
    assert answered.status == 200
    assert await items(server, OWNER) == [("acceptance", execution_id)]
    assert refusal(await decide(server, execution_id, OPERATOR, accepted=True)) == (403, "permission_denied")
    assert (await decide(server, execution_id, OWNER, accepted=True)).status == 200
    assert (await shown(server, execution_id, OWNER))["output"] == "morning"


async def test_a_request_that_names_somebody_is_theirs(server: RunningServer) -> None:
    execution_id = await started(server, "named", user_id="u1")
    assert await items(server, token("boss")) == [("acceptance", execution_id)]
    assert await items(server, OPERATOR) == []
    assert (await decide(server, execution_id, token("boss"), accepted=True)).status == 200


async def test_a_decision_sent_again_answers_the_first_outcome(server: RunningServer) -> None:
    """Also without a pending id, which finds none any more; and whatever has happened since."""
    execution_id = await started(server, "approve", conversation_id="c1", initial_context={"day": "monday"})
    first = await decide(server, execution_id, DECIDER, accepted=True, key=KEY)
    latest = await started(server, "approve", conversation_id="c1", initial_context={"day": "tuesday"})
    again = await decide(server, execution_id, DECIDER, accepted=True, key=KEY)
    assert (again.status, again.json["duplicate"], again.json["status"]) == (200, True, "completed")
    assert (first.json["duplicate"], first.json["status"]) == (False, "completed")
    changed = await decide(server, execution_id, DECIDER, accepted=False, key=KEY)
    assert refusal(changed) == (404, "execution_not_found")
    elsewhere = await decide(server, latest, DECIDER, accepted=True, key=KEY)
    assert refusal(elsewhere) == (422, "idempotency_conflict")
    for who, accepted in ((OPERATOR, True), (SERVICE, False)):  # another's decision is another one
        other = await decide(server, execution_id, who, accepted=accepted, key=KEY)
        assert refusal(other) == (422, "idempotency_conflict")


async def test_an_operators_decision_sent_again_is_a_duplicate(server: RunningServer) -> None:
    execution_id = await started(server, "approve", conversation_id="c1", initial_context={"day": "monday"})
    first = await decide(server, execution_id, OPERATOR, accepted=True, key=KEY)
    await started(server, "approve", conversation_id="c1", initial_context={"day": "tuesday"})
    again = await decide(server, execution_id, OPERATOR, accepted=True, key=KEY)
    assert (again.status, again.json["duplicate"], again.json["result"]) == (200, True, first.json["result"])
    other = await decide(server, execution_id, OPERATOR, accepted=False)
    assert refusal(other) == (404, "pending_not_found")


async def test_many_decide_at_once_and_the_others_are_told_who_was_first(server: RunningServer) -> None:
    execution_id = await started(server, "approve", initial_context={"day": "monday"})
    pending_id = (await shown(server, execution_id))["pending_acceptance"]["pending_id"]
    people = [token(f"judge{n}", scopes=("acceptance:decide", "conversations:write")) for n in range(5)]
    answers = await asyncio.gather(
        *(decide(server, execution_id, who, accepted=True, pending_id=pending_id) for who in people)
    )
    first = [answer for answer in answers if answer.status == 200]
    assert len(first) == 1
    assert {refusal(a) for a in answers if a not in first} <= {
        (409, "pending_resolved"),
        (404, "pending_not_found"),
    }


async def test_a_quorum_keeps_it_open_until_enough_have_accepted(server: RunningServer) -> None:
    execution_id = await started(server, "quorum")
    assert (await decide(server, execution_id, DECIDER, accepted=True)).status == 200
    assert await items(server, OPERATOR) == [("acceptance", execution_id)]
    assert len((await shown(server, execution_id))["pending_acceptance"]["votes"]) == 1
    assert (await decide(server, execution_id, OPERATOR, accepted=True)).status == 200
    assert (await shown(server, execution_id))["status"] == "completed"


async def test_a_digest_that_is_another_changes_nothing(server: RunningServer) -> None:
    execution_id = await started(server, "approve", initial_context={"day": "monday"})
    wrong = await decide(server, execution_id, DECIDER, accepted=True, digest="0" * 64)
    assert refusal(wrong) == (409, "wrong_state")
    edited = await decide(server, execution_id, DECIDER, accepted=True, edits={"other": 1})
    assert refusal(edited) == (400, "bad_request")
    assert (await shown(server, execution_id))["status"] == "waiting_acceptance"


async def test_a_pending_id_of_another_run_is_not_found(server: RunningServer) -> None:
    one = await started(server, "approve", initial_context={"day": "monday"})
    two = await started(server, "approve", initial_context={"day": "monday"})
    pending_id = (await shown(server, two))["pending_acceptance"]["pending_id"]
    refused = await decide(server, one, OPERATOR, accepted=True, pending_id=pending_id)
    assert refusal(refused) == (404, "pending_not_found")
    assert (await shown(server, two))["status"] == "waiting_acceptance"


async def test_a_service_decides_for_whom_it_names(server: RunningServer) -> None:
    """As over the socket: with the scope, and then as that user alone."""
    actor = token("actor", scopes=("users:act",))
    execution_id = await started(server, "named", user_id="u1")
    assert refusal(await decide(server, execution_id, actor, accepted=True)) == (404, "execution_not_found")
    for who in (OWNER, DECIDER):
        answer = await decide(server, execution_id, who, accepted=True, user_id="boss")
        assert refusal(answer) == (403, "permission_denied")
    assert (await decide(server, execution_id, actor, accepted=True, user_id="boss")).status == 200
    shown = await call(server, "GET", f"/executions/{execution_id}", who=OPERATOR)
    assert shown.json["pending"][0]["decided"]["by"] == "boss"
    owners = await decide(server, execution_id, actor, accepted=True, user_id="u1")
    assert refusal(owners) == (404, "pending_not_found")


async def test_a_service_answers_for_the_owner(server: RunningServer) -> None:
    actor = token("actor", scopes=("users:act",))
    execution_id = await started(server, "own", user_id="u1")
    body = {"answers": {"part": "morning"}, "user_id": "u1"}
    answered = await decide(server, execution_id, actor, "clarification", key=KEY, **body)
    assert (answered.status, answered.json["result"]["success"]) == (200, True)
    again = await decide(server, execution_id, actor, "clarification", key=KEY, **body)
    assert (again.status, again.json["duplicate"]) == (200, True)
