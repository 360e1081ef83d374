"""SIGTERM: nothing new, nothing lost, everybody told, gone in time."""

import asyncio
import signal
import time
import urllib.error
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from server.gateway.drain import reconnect_within_ms
from storage.memory import MemoryStore
from tests.support.server import Client, ServerProcess, running_server, server_process, token

SLOW_FLOW = """
flow: slow
default: true
variables: {done: null}
steps:
  - id: work
    action: work.slowly
    effect: write
    save: variables.done
  - {id: told, say: "It is ${variables.done}."}
  - {id: over, end: completed}
"""

SLOW_ACTION = """
import asyncio
from pathlib import Path

async def slowly(context):
    Path(__file__).with_name("begun").write_text(context.key)
    await asyncio.sleep(1.5)
    with Path(__file__).with_name("done").open("a") as log:
        log.write(context.key + "\\n")
    return "done"
"""


async def open_client(server: ServerProcess, conversation_id: str | None = None) -> Client:
    socket = await connect(
        server.url.replace("http", "ws", 1) + "/v1/ws",
        subprotocols=[Subprotocol("parley.v1")],
        compression=None,
        ping_interval=None,
        proxy=None,
    )
    client = Client(socket)
    client.welcome = await client.ask("hello", token=token(), conversation_id=conversation_id)
    return client


async def status_of(url: str) -> int:
    def fetch() -> int:
        try:
            with urlopen(url, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(fetch)


async def exit_code(server: ServerProcess, timeout: float) -> int:
    return await asyncio.to_thread(server.process.wait, timeout)


async def test_clients_are_told_and_closed_4001(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        clients = [await server.connect() for _ in range(5)]
        await server.application.drain.run(1)
        for client in clients:
            assert await client.closed() == (4001, "shutdown")
            assert client.seen[-1] == {
                "type": "disconnect", "code": 4001, "reason": "shutdown", "reconnect": True,
                "reconnect_within_ms": 1_000,
            }  # fmt: skip
        assert await status_of(f"{server.url}/readyz") == 503
        assert await status_of(f"{server.url}/health") == 503
        assert await status_of(f"{server.url}/livez") == 200
        with pytest.raises(InvalidStatus) as late:  # a load balancer takes it to another instance
            await server.open()
        assert late.value.response.status_code == 503
        assert orjson.loads(late.value.response.body)["error"]["code"] == "overloaded"


async def test_clients_are_dismissed_in_batches(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        clients = [await server.connect(token(f"u{number}")) for number in range(60)]
        ends: list[float] = []

        async def end(client: Client) -> None:
            await client.closed()
            ends.append(time.monotonic())

        ending = [asyncio.create_task(end(client)) for client in clients]
        await server.application.drain.run(2)
        await asyncio.gather(*ending)
        assert max(ends) - min(ends) > 0.3


async def test_a_server_that_is_told_to_stop_ends_with_0(tmp_path: Path) -> None:
    with server_process(tmp_path, PARLEY_DRAIN_SECONDS="3") as server:
        client = await open_client(server, "c1")
        ack = await client.say("c1", "hi")
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert (await client.closed())[0] == 4001
        assert await exit_code(server, 15) == 0
        assert time.monotonic() - started < 8
        log = server.log.read_text()
        assert "Traceback" not in log
        assert '"level":"error"' not in log
    with server_process(tmp_path) as again:
        client = await open_client(again, "c1")
        assert (client.welcome["epoch"], client.welcome["offset"]) == (ack["epoch"], ack["offset"])


async def test_who_is_at_the_door_when_the_drain_begins_is_sent_elsewhere(tmp_path: Path) -> None:
    """Let in then, nobody would tell them to go: those who are told were counted at the beginning."""
    asked, answer = asyncio.Event(), asyncio.Event()

    class SlowStore(MemoryStore):
        async def has_origin(
            self, patterns: Sequence[str], now: int, *, tenant_id: str | None = None
        ) -> bool:
            asked.set()
            await answer.wait()
            return await super().has_origin(patterns, now, tenant_id=tenant_id)

    async with running_server(tmp_path, store=SlowStore()) as server:
        late = asyncio.create_task(server.open(origin="https://shop.example"))
        await asked.wait()
        server.application.drain.begin()
        answer.set()
        with pytest.raises(InvalidStatus) as refused:
            await late
        assert refused.value.response.status_code == 503


async def test_a_running_step_gets_its_time_and_its_result_is_kept(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(SLOW_ACTION)
    (tmp_path / "parley.toml").write_text('actions = ["work"]\n')
    with server_process(tmp_path, flows={"slow": SLOW_FLOW}, PARLEY_DRAIN_SECONDS="10") as server:
        client = await open_client(server, "c1")
        ack = await client.say("c1", "go", idempotency_key="key-00000001")
        assert ack["status"] == "running"
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert await status_of(f"{server.url}/readyz") == 503
        assert (await client.closed())[0] == 4001
        assert await exit_code(server, 20) == 0
    assert (tmp_path / "done").read_text().count("\n") == 1
    with server_process(tmp_path, flows={"slow": SLOW_FLOW}) as again:
        client = await open_client(again, "c1")
        outcome = await client.say("c1", "go", idempotency_key="key-00000001")
        assert (outcome["duplicate"], outcome["status"]) == (True, "completed")
        assert outcome["result"]["response"]["messages"][-1]["text"] == "It is done."
    assert (tmp_path / "done").read_text().count("\n") == 1


async def test_an_action_in_a_thread_does_not_keep_the_process(tmp_path: Path) -> None:
    """Nobody can stop it; what it was about is recovered from its intent."""
    (tmp_path / "work.py").write_text(
        "import time\nfrom pathlib import Path\n\n"
        "def slowly(context):\n"
        '    Path(__file__).with_name("begun").write_text(context.key)\n'
        "    time.sleep(120)\n"
    )
    (tmp_path / "parley.toml").write_text('actions = ["work"]\n')
    with server_process(tmp_path, flows={"slow": SLOW_FLOW}, PARLEY_DRAIN_SECONDS="1") as server:
        client = await open_client(server, "c1")
        await client.say("c1", "go")
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        assert (await client.closed())[0] == 4001
        assert await exit_code(server, 20) == 0
        assert "Traceback" not in server.log.read_text()


async def test_what_was_acknowledged_up_to_the_end_is_there_afterwards(tmp_path: Path) -> None:
    acked: dict[str, int] = {}
    with server_process(tmp_path, PARLEY_DRAIN_SECONDS="3") as server:

        async def talk(number: int) -> None:
            client = await open_client(server)
            name = f"c{number}"
            for turn in range(100_000):
                try:
                    answer = await client.say(name, "hi", idempotency_key=f"key-{number:04}-{turn:06}")
                except ConnectionClosed:
                    return
                if answer["type"] == "ack":
                    acked[name] = answer["offset"]
                else:
                    assert answer["error"]["code"] == "overloaded"
                    await asyncio.sleep(0.05)

        talks = [asyncio.create_task(talk(number)) for number in range(10)]
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*talks)
        assert await exit_code(server, 15) == 0
    assert len(acked) == 10
    with server_process(tmp_path) as again:
        client = await open_client(again)
        for name, offset in acked.items():
            assert (await client.ask("state", conversation_id=name))["offset"] >= offset


async def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(SLOW_ACTION.replace("1.5", "60"))
    (tmp_path / "parley.toml").write_text('actions = ["work"]\n')
    with server_process(tmp_path, flows={"slow": SLOW_FLOW}, PARLEY_DRAIN_SECONDS="25") as server:
        client = await open_client(server, "c1")
        await client.say("c1", "go")
        server.process.send_signal(signal.SIGINT)
        assert (await client.closed())[0] == 4001
        server.process.send_signal(signal.SIGINT)
        assert await exit_code(server, 10) in (0, 130, -signal.SIGINT)


@pytest.mark.parametrize("broken", ["a port that is taken"])
async def test_a_server_that_cannot_start_says_why(tmp_path: Path, broken: str) -> None:
    with server_process(tmp_path) as server:
        other = tmp_path / "other"
        other.mkdir()
        with server_process(other, port=server.address[1], wait_s=0) as second:
            assert await exit_code(second, 15) != 0
            assert "Traceback" not in second.log.read_text()
            assert "taken" in second.log.read_text()


@pytest.mark.parametrize(
    ("connections", "within_ms"), [(0, 1_000), (300, 1_000), (5_000, 5_000), (20_000, 15_000)]
)
def test_the_return_is_spread_by_how_many_return(connections: int, within_ms: int) -> None:
    assert reconnect_within_ms(connections) == within_ms
