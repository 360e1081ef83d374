"""``serve --workers N``: several processes behind one port, and a parent that keeps them."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parley_client import Parley

from tests.support.commands import parley
from tests.support.ports import free_port
from tests.support.rest import ask
from tests.support.server import SECRET, RemoteServer, ServerProcess, server_process, token

OWN: dict[str, Any] = {
    "PARLEY_STORE": "tests.support.cluster:own_store",
    "PARLEY_BUS": "tests.support.cluster:own_bus",
    "PARLEY_INSTANCE_ID": "host",
    "PARLEY_DRAIN_SECONDS": "2",
    "PARLEY_LOG_LEVEL": "info",
}


def workers_of(server: ServerProcess) -> list[int]:
    """Return the process ids of a parent's workers."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def log_of(server: ServerProcess) -> str:
    return server.log.read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path, **OWN, PARLEY_WORKERS="2", wait_s=0) as running:
        eventually(lambda: "Parley serves on" in log_of(running))
        yield running
        for pid in workers_of(running) if running.process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)


async def test_all_workers_serve_one_port_and_tell_of_each_other(server: ServerProcess) -> None:
    assert len(workers_of(server)) == 2
    assert server.url in log_of(server)
    remote = RemoteServer(server.url)
    for _ in range(10):
        assert (await ask(remote, "GET", "/readyz")).status == 200
    numbers = (await ask(remote, "GET", "/metrics")).body.decode()
    found = dict(re.findall(r'^process_resident_memory_bytes\{worker="(\d)"\} (\S+)', numbers, re.MULTILINE))
    assert found.keys() == {"1", "2"}
    assert numbers.count("# TYPE parley_turns_total") == 1
    assert 'parley_turns_total{outcome="completed",worker="2"}' in numbers


async def test_a_worker_that_dies_is_started_again(server: ServerProcess) -> None:
    first = workers_of(server)
    os.kill(first[0], signal.SIGKILL)
    eventually(lambda: len(set(workers_of(server)) - set(first)) == 1)
    eventually(lambda: log_of(server).count('"worker_started"') == 3)
    assert '"code":-9' in log_of(server)
    assert first[1] in workers_of(server)
    await asyncio.to_thread(server.terminate)
    assert server.process.returncode == 0


def test_the_first_worker_may_die_while_the_others_start(tmp_path: Path) -> None:
    with server_process(tmp_path, **OWN, PARLEY_WORKERS="2", wait_s=0) as server:
        eventually(lambda: len(workers_of(server)) == 2)
        first, second = workers_of(server)
        os.kill(second, signal.SIGSTOP)  # it is not ready before the first one has died
        os.kill(first, signal.SIGKILL)
        eventually(lambda: first not in workers_of(server))
        os.kill(second, signal.SIGCONT)
        eventually(lambda: "Parley serves on" in log_of(server))
        assert server.terminate() == 0
        assert re.findall(r'"worker":(\d),"pid"', log_of(server)) == ["1", "2", "1"]


def test_who_is_told_to_stop_stops_them_all_and_ends_with_0(server: ServerProcess) -> None:
    pids = workers_of(server)
    assert server.terminate() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    log = log_of(server)
    assert log.count('"drained"') == 2
    assert {'"instance":"host-1"', '"instance":"host-2"'} <= set(re.findall(r'"instance":"host-\d"', log))
    assert "Traceback" not in log


def test_workers_whose_parent_is_killed_drain_and_end(server: ServerProcess) -> None:
    pids = workers_of(server)
    server.kill()
    eventually(lambda: not any(is_alive(pid) for pid in pids))
    assert log_of(server).count('"drained"') == 2


def is_alive(pid: int) -> bool:
    """An orphan that has ended may still wait for somebody to ask for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_wrong_is_said_once_and_the_exit_code_is_that_of_one_server(tmp_path: Path) -> None:
    with server_process(
        tmp_path, flows={"bad": "flow: bad\nsteps: []\n"}, **OWN, PARLEY_WORKERS="3", wait_s=0
    ) as server:
        assert server.process.wait(20) == 3
        assert log_of(server).count("there are broken flows") == 1
        assert "Traceback" not in log_of(server)


def test_a_port_that_another_server_has_is_refused(tmp_path: Path) -> None:
    port = free_port()
    with server_process(tmp_path, port=port, **OWN):
        other = tmp_path / "other"
        other.mkdir()
        with server_process(other, port=port, **OWN, PARLEY_WORKERS="2", wait_s=0) as second:
            assert second.process.wait(20) == 3
            assert f"port {port} is taken" in log_of(second)


def said(url: str, conversation_id: str, text: str, flow_id: str | None = None) -> str:
    """Say something over a connection of its own; return what was said last."""
    with Parley(url, token=token()) as parley_:
        return parley_.conversation(conversation_id).ask(text, flow_id=flow_id).text


@pytest.mark.needs("mongo", "redis")
def test_workers_share_conversations_and_hear_of_published_flows(
    tmp_path: Path, mongo_url: str, redis_url: str
) -> None:
    joined = {"PARLEY_STORE": mongo_url, "PARLEY_BUS": redis_url}
    env = {**joined, "PARLEY_JWT_SECRET": SECRET}
    with server_process(tmp_path, **{**OWN, **joined}, PARLEY_WORKERS="2", wait_s=0) as server:
        eventually(lambda: "Parley serves on" in log_of(server))
        for text in ("hi", "Ada", "red"):
            last = said(server.url, "c1", text)  # each time whichever worker the kernel chooses
        assert last == "Hello Ada, you like red."
        news = 'flow: news\nsteps:\n  - {id: say, say: "NEWS"}\n  - {id: end, end: completed}\n'
        (tmp_path / "flows" / "news.yaml").write_text(news)
        published = parley("publish", ".", "--json", cwd=tmp_path, env=env)
        assert published.returncode == 0, published.stderr
        assert json.loads(published.stdout) == {"release": 2, "flows": {"greet": 1, "news": 1}}
        for number in range(4):
            assert said(server.url, f"n{number}", "hi", "news") == "NEWS"
        assert server.terminate() == 0


def test_publishing_to_an_embedded_store_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    told = parley("publish", ".", cwd=tmp_path)
    assert told.returncode == 2
    assert "start it again" in told.stderr


@pytest.mark.parametrize(
    ("env", "code", "sentence"),
    [
        ({}, 2, "set PARLEY_STORE to mongodb://... and PARLEY_BUS to redis://..."),
        ({"PARLEY_STORE": "memory:"}, 2, "set PARLEY_STORE to mongodb://..."),
        ({"PARLEY_STORE": OWN["PARLEY_STORE"]}, 2, "set PARLEY_BUS to redis://..."),
        ({**OWN, "PARLEY_BUS": "storage.memory:MemoryBus"}, 3, "set PARLEY_STORE=mongodb://..."),
    ],
)
def test_workers_without_what_joins_them_are_refused(
    tmp_path: Path, env: dict[str, Any], code: int, sentence: str
) -> None:
    with server_process(tmp_path, **env, PARLEY_WORKERS="2", wait_s=0) as server:
        assert server.process.wait(20) == code
        assert sentence in log_of(server)
        assert "Traceback" not in log_of(server)
