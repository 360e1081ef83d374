"""The examples in the docstrings run."""

import asyncio
import inspect
import textwrap
from typing import Any

import parley_client
import pytest
from parley_client import AsyncParley, Parley, events
from scripted_server import ScriptedServer


def example(documented: Any) -> str:
    """Return the code block of a docstring."""
    _, _, behind = (inspect.getdoc(documented) or "").partition("::\n\n")
    code: list[str] = []
    for line in behind.splitlines():
        if line and not line.startswith("    "):
            break
        code.append(line)
    assert code
    return textwrap.dedent("\n".join(code))


@pytest.mark.parametrize("client", [Parley, AsyncParley])
async def test_the_example_of_the_client_talks(client: type, capsys: pytest.CaptureFixture[str]) -> None:
    async with ScriptedServer() as server:
        program = example(client).replace("http://127.0.0.1:8765", server.url)
        known = {**vars(parley_client), "token": "token"}
        whole = f"async def main():\n{textwrap.indent(program, '    ')}"
        exec(whole, known)
        if client is Parley:
            await asyncio.to_thread(asyncio.run, known["main"]())  # blocks its thread, beside the server's
        else:
            await known["main"]()
        assert server.chats["c1"].processed == ["I need an appointment"]
    assert "TurnCompleted(" in capsys.readouterr().out


def test_the_example_of_the_events_tells_messages(capsys: pytest.CaptureFixture[str]) -> None:
    program = example(events)
    raw = {
        "type": "message.completed",
        "offset": 1,
        "data": {"message_id": "m", "role": "assistant", "text": "Hi."},
    }
    delta = events.MessageDelta(conversation_id="c", execution_id=None, message_id="m", index=0, delta="H")
    for event in (delta, events.parse_event("c", raw)):
        exec(program, {"events": events, "event": event})
    assert capsys.readouterr().out == "HHi.\n"
