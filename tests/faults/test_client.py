"""The Python SDK behind a network that mistreats it: every event once and in order, every command once."""

import asyncio
import collections
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from parley_client import AsyncConversation, AsyncParley, Parley, events

from tests.support import fault_proxy
from tests.support.fault_proxy import KINDS, FaultProxy, fault
from tests.support.server import ServerProcess, server_process, token

SEEDS: Final = range(50)
WORDS: Final = 12
PACE: Final = 10
"""How much faster the client's time runs: it need not wait long to give a silent connection up."""
LIMIT_S: Final = 50
FLOW: Final = """
flow: echo
default: true
steps:
  - {id: say, say: "I heard you."}
  - {id: done, end: completed}
"""


class FastClock:
    """The loop's clock, faster."""

    def now(self) -> float:
        return asyncio.get_running_loop().time() * PACE

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay / PACE, callback)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("faults")
    with server_process(folder, flows={"echo": FLOW}, PARLEY_CONNECTIONS_PER_PRINCIPAL="100") as server:
        yield server


def options(user: str) -> dict[str, Any]:
    return {
        "token": token(user, scopes=("conversations:inspect",)),  # sees every event, so none may be missing
        "clock": FastClock(),
        "connect_options": {"proxy": None, "open_timeout": 2, "close_timeout": 0.2},
    }


class Witness:
    """Reads all events of a conversation and holds them to the promise."""

    def __init__(self, chat: AsyncConversation) -> None:
        self._stream = chat.events()
        self.last = 0
        self.heard: list[str] = []
        self.ended: collections.Counter[str | None] = collections.Counter()

    async def watch(self) -> None:
        async for event in self._stream:
            if isinstance(event, events.SnapshotReplaced):
                assert event.snapshot.offset >= self.last
                self.last = event.snapshot.offset
                self.heard = [each.text or "" for each in event.snapshot.messages if each.role == "user"]
            elif isinstance(event, events.Event):
                assert event.offset == self.last + 1
                self.last = event.offset
                if isinstance(event, events.MessageReceived):
                    self.heard.append(event.message.text or "")
                if isinstance(event, events.TurnCompleted | events.TurnFailed):
                    self.ended[event.command_id] += 1


async def talk(server: ServerProcess, seed: int) -> list[str]:
    """Say all words through the proxy of this seed; return the faults that happened."""
    words = [f"word {number}" for number in range(WORDS)]
    user = f"user-{seed}"
    async with (
        FaultProxy(*server.address, seed) as proxy,
        AsyncParley(proxy.url, **options(user)) as parley,
    ):
        chat = parley.conversation(f"seed-{seed}")
        witness = Witness(chat)
        watching = asyncio.create_task(witness.watch())
        for first in range(0, WORDS, 3):  # three at once, and then their ends
            streams = [chat.send(word) for word in words[first : first + 3]]
            for stream in streams:
                found = [event async for event in stream]
                ends = [event for event in found if isinstance(event, events.TurnCompleted)]
                assert len(ends) == 1
                assert found[-1] is ends[0]
                assert ends[0].command_id == stream.command_id
                offsets = [each.offset for each in found if isinstance(each, events.Event)]
                known = [offset for offset in offsets if offset is not None]
                assert known == sorted(set(known))
        state = await chat.state()
        chat.close()
        await watching
        assert witness.last == state.offset
        assert witness.heard == words
        assert set(witness.ended.values()) <= {1}
    async with (
        AsyncParley(server.url, **options(user)) as direct,
        direct.conversation(f"seed-{seed}") as told,
    ):
        said = [message.text for message in told.messages if message.role == "user"]
        answers = [message for message in told.messages if message.role == "assistant"]
    assert said == words
    assert len(answers) == WORDS
    return proxy.happened


@pytest.mark.slow
async def test_a_mistreated_client_sees_and_does_everything_once(server: ServerProcess) -> None:
    happened: collections.Counter[str] = collections.Counter()
    failed: dict[int, BaseException] = {}
    gate = asyncio.Semaphore(10)

    async def one(seed: int) -> None:
        async with gate:
            try:
                async with asyncio.timeout(LIMIT_S):
                    happened.update(await talk(server, seed))
            except (AssertionError, Exception) as error:  # noqa: BLE001 - all seeds are told, with their errors
                failed[seed] = error

    await asyncio.gather(*(one(seed) for seed in SEEDS))
    assert failed == {}
    assert set(happened) == set(KINDS)
    assert happened.total() > 3 * len(SEEDS)


@pytest.mark.parametrize("seed", [3, 11])
def test_a_mistreated_synchronous_client_does_so_too(server: ServerProcess, seed: int) -> None:
    """The proxy is a program of its own here, as it is for other languages."""
    host, port = server.address
    command = [sys.executable, fault_proxy.__file__, "--to", f"{host}:{port}", "--seed", str(seed)]
    words = [f"word {number}" for number in range(WORDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            url = f"http://127.0.0.1:{json.loads(program.stdout.readline())['port']}"
            seen: list[int] = []
            with Parley(url, **options(f"sync-{seed}")) as parley:
                chat = parley.conversation(f"sync-{seed}")
                reader = chat.events()

                def watch() -> None:
                    seen.extend(
                        event.offset
                        for event in reader
                        if isinstance(event, events.Event) and event.offset is not None
                    )

                watcher = threading.Thread(target=watch)
                watcher.start()
                for word in words:
                    assert [*chat.send(word, timeout=LIMIT_S * PACE)][-1].type == "turn.completed"
                last = chat.state().offset
                chat.close()
                watcher.join(10)
                assert [message.text for message in chat.messages if message.role == "user"] == words
            assert seen == list(range(1, last + 1))
        finally:
            program.terminate()


def test_a_seed_says_what_happens() -> None:
    plans = [[fault(seed, number) for number in range(8)] for seed in SEEDS]
    assert plans == [[fault(seed, number) for number in range(8)] for seed in SEEDS]
    assert {plan.kind for each in plans for plan in each} == {*KINDS, "none"}
    assert all(each[6:] == [fault_proxy.Fault("none")] * 2 for each in plans)


def test_the_program_is_a_file_of_its_own() -> None:
    text = Path(fault_proxy.__file__).read_text()
    assert "from tests" not in text
    assert "from server" not in text
