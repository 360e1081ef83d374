"""What the SDK folds from events is what the server says of the state, whatever flows begin and end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from parley_client import AsyncConversation, AsyncParley

from tests.support.server import RunningServer, running_server, token

FLOWS = {
    "first": """
flow: first
default: true
variables: {a: 0}
steps:
  - {id: one, set: {variables.a: 1}, expose: true}
  - {id: over, link: second}
""",
    "second": """
flow: second
variables: {b: 0}
slots: {n: {type: integer}}
steps:
  - {id: two, set: {variables.b: 2}, expose: true}
  - {id: ask, collect: n}
  - {id: done, end: completed}
""",
    "third": """
flow: third
triggers: {intents: [{name: third, keywords: [third]}]}
slots: {m: {type: integer}}
steps:
  - {id: which, collect: m}
""",
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path, flows=FLOWS) as running:
        yield running


async def agree(chat: AsyncConversation) -> dict[str, object]:
    """Return the state, which both must tell alike."""
    folded, told = chat.snapshot.state, await chat.state()
    assert folded is not None
    names = ("status", "current_state", "flow_id", "flow_version", "slots", "variables")
    assert {n: getattr(folded, n) for n in names} == {n: getattr(told, n) for n in names}
    return dict(told.variables)


async def test_variables_go_with_their_flow(server: RunningServer) -> None:
    async with (
        AsyncParley(server.url, token("u1")) as parley,
        parley.conversation("c1") as chat,
    ):
        await chat.ready()
        await chat.ask("hello")
        assert await agree(chat) == {"b": 2}
        await chat.ask("7")
        await agree(chat)
        await chat.ask("third")
        assert await agree(chat) == {}
