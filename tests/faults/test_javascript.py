"""The JavaScript SDK behind a network that mistreats it, in Node and in Chromium: the log is the judge."""

import asyncio
import collections
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from storage.sqlite.store import SqliteStore
from tests.support.browser import running_browser
from tests.support.checker import check
from tests.support.durable_log import Log
from tests.support.fault_proxy import FaultProxy
from tests.support.history import History
from tests.support.javascript import bundle, node, serve_folder
from tests.support.server import TENANT, ServerProcess, server_process, token

pytestmark = pytest.mark.needs("node")

WORDS: Final = [f"word {number}" for number in range(12)]
FLOW: Final = """
flow: echo
default: true
steps:
  - {id: say, say: "I heard you."}
  - {id: done, end: completed}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web site of the files in a folder, on this machine as the server is: browsers keep others off it."""
    (tmp_path / "index.html").write_text("<!doctype html><title>A site</title>")
    with serve_folder(tmp_path) as url:
        yield url


@pytest.fixture
def server(tmp_path: Path, site: str) -> Iterator[ServerProcess]:
    with server_process(
        tmp_path, flows={"echo": FLOW}, PARLEY_CONNECTIONS_PER_PRINCIPAL="100", PARLEY_ORIGINS=site
    ) as server:
        yield server


@dataclass
class Run:
    """What came of some seeds: who said what, through which proxies."""

    tasks: list[dict[str, Any]]
    proxies: list[FaultProxy]

    @property
    def happened(self) -> collections.Counter[str]:
        return collections.Counter(kind for proxy in self.proxies for kind in proxy.happened)


@contextlib.contextmanager
def proxies(server: ServerProcess, name: str, seeds: Sequence[int]) -> Iterator[Run]:
    """Have a fault proxy for each seed, in a thread; each is somebody's only way to the server."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def close(made: list[FaultProxy]) -> None:
        for proxy in made:
            await proxy.__aexit__()

    made = [FaultProxy(*server.address, seed) for seed in seeds]
    try:
        for proxy in made:
            asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        tasks = [
            {
                "url": proxy.url,
                "token": token(f"{name}-{seed}", scopes=("conversations:inspect",)),
                "name": f"{name}-{seed}",
                "words": WORDS,
            }
            for proxy, seed in zip(made, seeds, strict=True)
        ]
        yield Run(tasks, made)
    finally:
        asyncio.run_coroutine_threadsafe(close(made), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def judge(server: ServerProcess, run: Run, told: Sequence[dict[str, Any]]) -> None:
    """Hold what each client wrote down against the log in the store."""
    assert [each["failed"] for each in told if "failed" in each] == []
    history = History()
    for task, each in zip(run.tasks, told, strict=True):
        history.client(task["name"], "full")
        for kind, conversation_id, key, body in each["entries"]:
            history.add(task["name"], kind, conversation_id, key, body)
    server.kill()  # one process has the file at a time
    store = SqliteStore(next(server.log.parent.glob("**/*.db")))
    await store.open()
    try:
        logs = {task["name"]: await Log.read(store, TENANT, task["name"]) for task in run.tasks}
    finally:
        await store.close()
    whole = {name: log for name, log in logs.items() if log is not None}
    assert check(history, whole) == []
    for log in whole.values():
        said = [event.data["text"] for event in log.events if event.type == "message.received"]
        assert said == WORDS


@pytest.mark.parametrize(
    ("socket", "flags", "seeds"),
    [("own", (), range(8)), ("native", ("--experimental-websocket",), range(10, 13))],
)
async def test_in_node_a_mistreated_client_sees_and_does_everything_once(
    server: ServerProcess, tmp_path: Path, socket: str, flags: tuple[str, ...], seeds: range
) -> None:
    """Node 20 has no WebSocket, so the SDK brings one; the flag gives it Node 22's."""
    program = bundle("tests/driver-node.ts", tmp_path / "driver.mjs", platform="node")
    with proxies(server, f"node-{socket}", seeds) as run:
        told = await asyncio.to_thread(node, program, run.tasks, *flags)
        happened = run.happened
    await judge(server, run, told)
    assert happened.total() > 3 * len(seeds)


@pytest.mark.needs("browser")
def test_in_chromium_a_mistreated_client_sees_and_does_everything_once(
    server: ServerProcess, site: str, tmp_path: Path
) -> None:
    seeds = range(20, 24)
    bundle("tests/driver.ts", tmp_path / "driver.js", platform="browser")
    with proxies(server, "chromium", seeds) as run, running_browser() as browser:
        page = browser.new_page()
        page.goto(site)
        told = page.evaluate("async (tasks) => (await import('/driver.js')).talkAll(tasks)", run.tasks)
        happened = run.happened
    asyncio.run(judge(server, run, told))
    assert happened.total() > 3 * len(seeds)
