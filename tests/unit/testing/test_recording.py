"""A chat that is written down is a test that passes, and tells nothing that is personal."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from server.delivery.audience import event_view
from server.engine.flow.loader import compile_flow
from server.engine.views import iso
from server.testing.clock import VirtualClock
from server.testing.harness import Harness
from server.testing.reader import read_suite
from server.testing.recording import as_yaml, has_insight, record
from server.testing.runner import action_names
from server.testing.stubs import StubbedActions
from server.testing.suite import DEFAULT_USER, TENANT, Suite
from storage.models import Audience
from tests.unit.testing.orders import outcomes_of, told

FLOW = """\
flow: contract
slots:
  email:  {type: email, pii: true}
  phone:  {type: phone, pii: true}
  amount: {type: integer}
variables: {known: null}
steps:
  - {id: ask, collect: [email, phone, amount], max_attempts: 9}
  - id: find
    action: crm.find
    effect: read
    with: {email: "${slots.email}"}
    retry: {max: 2, delay: 1s, on: [unavailable]}
    save: variables.known
  - id: gate
    accept:
      title: "${variables.known.name}?"
      by: {scope: "acceptance:decide"}
      editable: [slots.amount]
      deadline: 4h
      on_timeout: {decide: reject}
    accepted: yes_
    rejected: no_
  - {id: yes_, say: "Sent to ${slots.email}.", goto: done}
  - {id: no_, say: "Not sent to ${variables.known.email}.", goto: done}
  - {id: done, end: completed, output: {email: "${slots.email}", amount: "${slots.amount}"}}
"""
STUBS = """\
users: {olga@firm.example: {role: operator}}
actions:
  crm.find: [{fails: unavailable}, {returns: {name: Ada, email: ada@lovelace.org, list: [1, {a: b}]}}]
tests:
  - name: chat
    conversation:
"""
FILLED = """\
      - user: my address is Ada@Lovelace.org
      - user: call me
      - user: +44 20 7946 0018
      - user: "12"
"""


def events_of(conversation: str, audience: Audience = "full") -> list[Mapping[str, Any]]:
    """Return what somebody who watches sees of a conversation, as it comes over the wire."""
    flow = compile_flow(FLOW, "contract.yaml")
    suite = read_suite(STUBS + conversation, "t.yaml")
    return asyncio.run(_events(suite, flow, audience))


async def _events(suite: Suite, flow: Any, audience: Audience) -> list[Mapping[str, Any]]:
    (case,) = suite.cases
    clock = VirtualClock(case.now_ms)
    actions = StubbedActions(action_names([flow]), case.stubs, clock, lambda: None)  # type: ignore[arg-type,return-value] # none is real
    async with Harness([flow], actions, clock, tenant_id=TENANT, session_ms=48 * 3_600_000) as harness:
        for line in case.lines:
            assert line.doing is not None
            if line.doing.kind == "wait":
                await harness.pass_time(line.doing.body["ms"])
                continue
            body: dict[str, Any] = {**line.doing.body}
            kind = {"user": "process", "accept": "acceptance"}.get(line.doing.kind, line.doing.kind)
            if kind == "process":
                content = {"type": "text", "text": body.pop("text"), "payload": None, "metadata": {}}
                body |= {"content": content, "channel": "web"}
            if kind == "acceptance":
                body |= {"pending_id": (await harness.state())["pending"][0]["pending_id"], "digest": None}
            await harness.send(kind, body, line.who, harness.new_key())
            await harness.pass_time(60_000, until_idle=True)
        views = (event_view(event, audience, DEFAULT_USER) for event in harness.events)
        return [view for view in views if view is not None]


def written(events: Sequence[Mapping[str, Any]]) -> str:
    test = record("a chat", events, [compile_flow(FLOW, "contract.yaml")])
    return as_yaml([test], insight=has_insight(events))


CHATS = [
    FILLED + "      - accept: all right\n        as: olga@firm.example\n        edits: {amount: 13}\n",
    FILLED + "      - {user: and now?}\n      - wait: 1h\n      - {user: still nothing?}\n      - wait: 5h\n",
    FILLED + "      - cancel: enough\n      - {user: hello again}\n",
    "      - user: hello\n      - reset: again\n      - user: hello\n      - wait: 50h\n",
]


@pytest.mark.parametrize("conversation", CHATS)
def test_what_was_written_down_passes_as_a_test(conversation: str) -> None:
    text = written(events_of(conversation))
    (outcome,), _ = outcomes_of(text, FLOW)
    assert told(outcome) == [], text


@pytest.mark.parametrize("conversation", CHATS)
@pytest.mark.parametrize("audience", ["full", "owner"])
def test_nothing_personal_is_written_down(conversation: str, audience: Audience) -> None:
    text = written(events_of(conversation, audience)).lower()
    assert not [word for word in ("lovelace", "7946", "call me", "olga", "firm") if word in text]


def test_results_of_actions_are_stubs_and_so_are_their_failures() -> None:
    text = written(events_of(CHATS[0]))
    (case,) = read_suite(text, "t.yaml").cases
    first, second = case.stubs["crm.find"]
    assert first.fails == "unavailable"
    assert second.returns == {"name": "Ada", "email": "masked@example.com", "list": [1, {"a": "b"}]}


def test_who_may_not_inspect_is_told_that_stubs_are_missing() -> None:
    text = written(events_of(CHATS[0], "owner"))
    assert "write stubs for them" in text
    assert "crm.find" not in text
    assert "write stubs" not in written(events_of(CHATS[0]))


def test_others_take_part_under_names_that_are_made_up() -> None:
    (case,) = read_suite(written(events_of(CHATS[0])), "t.yaml").cases
    assert {line.who.user_id for line in case.lines} == {DEFAULT_USER, "person_1"}


def test_the_test_begins_when_the_chat_did() -> None:
    events = events_of(CHATS[1])
    (case,) = read_suite(written(events), "t.yaml").cases
    assert iso(case.now_ms) == events[0]["time"]
    assert [line.doing.body["ms"] for line in case.lines if line.doing and line.doing.kind == "wait"] == [
        14_401_000
    ]
