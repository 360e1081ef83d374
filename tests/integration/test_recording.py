"""A conversation written down as a test by the server: by whom, from where on, how much, and without what."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.testing.reader import read_suite
from storage.memory.store import MemoryStore
from storage.models import FlowVersion
from tests.support.gate import Gate, gates
from tests.support.rest import Answer, call
from tests.support.server import FLOW, RunningServer, running_server, token

CONTACT = """
flow: contact
default: true
triggers: {intents: [{name: contact, keywords: [contact]}]}
slots: {email: {type: email, pii: true}}
variables: {known: null}
steps:
  - {id: who, collect: [email], ask: {email: "Your email?"}, max_attempts: 9}
  - {id: find, action: gate.hold, with: {gate: "open"}, effect: read, save: variables.known}
  - {id: told, say: "We write to ${slots.email}."}
  - {id: done, end: completed}
"""
CHATTY = """
flow: chatty
triggers: {intents: [{name: chatty, keywords: [talk]}]}
steps:
""" + "".join(f'  - {{id: s{number}, say: "{number}"}}\n' for number in range(60))  # fmt: skip
FLOWS = {"contact": CONTACT, "chatty": CHATTY}


class Forgetful(MemoryStore):
    """A store whose flows can get lost."""

    forgets = False

    async def flow_version(self, tenant_id: str, flow_id: str, version: int) -> FlowVersion | None:
        return None if self.forgets else await super().flow_version(tenant_id, flow_id, version)


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[RunningServer]:
    gates["open"] = Gate()
    gates["open"].open()
    actions = ("tests.support.gate",)
    async with running_server(tmp_path, flows=FLOWS, dev=True, actions=actions) as running:
        yield running


async def say(server: RunningServer, *texts: str) -> None:
    for text in texts:
        body = {"content": {"type": "text", "text": text}}
        assert (await call(server, "POST", "/conversations/c1/process", body)).status == 200


async def recording(server: RunningServer, who: str | None = None) -> Answer:
    return await call(server, "GET", "/conversations/c1/recording", who=who)


def users(text: str) -> list[str]:
    return re.findall(r"^      - user: (.*)$", text, re.MULTILINE)


async def test_the_owner_gets_what_was_said_without_what_is_personal(dev: RunningServer) -> None:
    await say(dev, "hello", "not an address", "ada@lovelace.org")
    answer = await recording(dev)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/yaml")
    assert answer.headers["content-disposition"] == 'attachment; filename="recorded.yaml"'
    text = answer.body.decode()
    assert users(text) == ["hello", "masked", "masked@example.com"]
    assert "We write to masked@example.com." in text
    assert "lovelace" not in text
    (case,) = read_suite(text, "recorded.yaml").cases
    assert len(case.lines) == 3


async def test_what_actions_gave_is_only_for_those_who_may_inspect(dev: RunningServer) -> None:
    await say(dev, "hello", "ada@lovelace.org")
    owners = (await recording(dev)).body.decode()
    assert "write stubs for them" in owners
    assert "gate.hold" not in owners
    inspected = (await recording(dev, token("in", scopes=("conversations:inspect",)))).body.decode()
    assert "write stubs for them" not in inspected
    assert "gate.hold:" in inspected


async def test_after_a_reset_the_test_begins_there_and_the_owner_stays_its_user(dev: RunningServer) -> None:
    await say(dev, "hello", "ada@lovelace.org")
    await call(dev, "POST", "/conversations/c1/reset", {})
    await say(dev, "talk")
    text = (await recording(dev)).body.decode()
    assert users(text) == ["talk"]
    assert "person_1" not in text
    assert "stubs" not in text  # this flow calls nothing


@pytest.mark.parametrize("who", [token("u2"), token("u1", tenant_id="t2", role="admin")])
async def test_for_anybody_else_it_does_not_exist(dev: RunningServer, who: str) -> None:
    missing = await recording(dev)
    assert (missing.status, missing.json["error"]["code"]) == (404, "conversation_not_found")
    await say(dev, "hello")
    answer = await recording(dev, who)
    assert (answer.status, answer.json["error"]) == (404, missing.json["error"])
    assert (await call(dev, "GET", "/conversations/c1/recording", who="none")).status == 401


async def test_there_is_none_outside_development(server: RunningServer) -> None:
    await say(server, "hello")
    answer = await recording(server)
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


async def test_what_is_too_long_for_a_test_is_refused(dev: RunningServer) -> None:
    while (await call(dev, "GET", "/conversations/c1/state")).json.get("offset", 0) <= 2000:
        assert (await recording(dev)).status in (200, 404)
        await say(dev, *["talk"] * 8)
    answer = await recording(dev)
    assert (answer.status, answer.json["error"]["code"]) == (413, "payload_too_large")
    assert "more than 2000 events" in answer.json["error"]["message"]


async def test_it_is_refused_where_nobody_knows_any_more_what_is_personal(tmp_path: Path) -> None:
    store = Forgetful()
    async with running_server(tmp_path, store=store, dev=True) as before:
        await say(before, "hello", "Ada", "red")
    store.forgets = True
    async with running_server(tmp_path, flows={"greet": FLOW + "# new\n"}, store=store, dev=True) as after:
        answer = await recording(after)
    assert (answer.status, answer.json["error"]["code"]) == (409, "wrong_state")
