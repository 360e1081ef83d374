"""``kill -9`` in mid-turn, and the conversation goes on where it was: the README's promise, to the letter."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from storage.sqlite import SqliteStore
from tests.support.checker import check
from tests.support.devices import Device
from tests.support.durable_log import Log
from tests.support.history import History
from tests.support.ports import free_port
from tests.support.server import TENANT, server_process, token

FLOW: Final = """
flow: kitchen
default: true
slots:
  cup: {type: choice, options: [tea, coffee]}
variables: {brewed: null}
steps:
  - id: order
    collect: [cup]
    ask: {cup: "Tea or coffee?"}
  - id: brew
    action: kitchen.brew
    effect: idempotent
    with: {cup: "${slots.cup}"}
    save: variables.brewed
  - {id: serve, say: "Here is your ${slots.cup}."}
"""

ACTIONS: Final = '''
import asyncio
from collections.abc import Callable
from pathlib import Path

async def brew(context, cup):
    """The first kettle takes so long that nobody ever sees it boil."""
    kettle = Path("kettle")
    first = not kettle.exists()
    with kettle.open("a") as file:
        file.write(context.key + "\\n")
    if first:
        await asyncio.sleep(600)
    return context.key
'''


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "dev"])
async def test_a_conversation_goes_on_after_kill_9_in_mid_turn(tmp_path: Path, command: str) -> None:
    """The caller that waited gets its turn from the next process; the effect ran again, with the same key."""
    (tmp_path / "kitchen.py").write_text(ACTIONS)
    port, kettle, history = free_port(), tmp_path / "kettle", History()
    serve = {"command": command, "port": port, "flows": {"kitchen": FLOW}, "PARLEY_ACTIONS": "kitchen"}
    ann = Device(history, "ann-phone", f"http://127.0.0.1:{port}", token("ann"), seed=1)
    with server_process(tmp_path, **serve) as server:  # type: ignore[arg-type] # options and variables alike
        await ann.open("ann")
        question = await ann.say("ann", "hello")
        waiting = asyncio.create_task(ann.say("ann", "tea"))
        await _until(kettle.exists)
        server.kill()
    with server_process(tmp_path, **serve) as server:  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            turn = await waiting
            again = await ann.say("ann", "coffee please")
        await ann.close()
        server.kill()
    assert question is not None
    assert question.text == "Tea or coffee?"
    assert turn is not None
    assert turn.text == "Here is your tea."
    assert again is not None
    assert again.text == "Here is your coffee."
    keys = kettle.read_text().split()
    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]
    log = await _log(tmp_path / ("parley.db" if command == "serve" else ".parley/parley.db"))
    assert check(history, {"ann": log}) == []


async def _until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.01)


async def _log(database: Path) -> Log:
    store = SqliteStore(database)
    await store.open()
    log = await Log.read(store, TENANT, "ann")
    await store.close()
    assert log is not None
    return log
