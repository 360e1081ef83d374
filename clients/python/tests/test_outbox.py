"""The outbox in a file: what was taken survives the process, once and in order."""

import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import parley_client
import pytest
from parley_client import AsyncParley, OutboxFull, OutboxUnusable, events
from scripted_server import Connection, Frame, ScriptedServer, error

PROGRAM = """
import asyncio, os, sys
from parley_client import AsyncParley

async def main() -> None:
    url, outbox, *words = sys.argv[1:]
    parley = AsyncParley(url, "secret-token", outbox=outbox)
    for word in words:
        parley.conversation("c1").send(word)
    os._exit(9)  # as a crash would

asyncio.run(main())
"""


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def client(server: ScriptedServer, outbox: Path, **options: Any) -> AsyncParley:
    options = {"random": lambda: 0.0, "connect_options": {"proxy": None}, **options}
    return AsyncParley(server.url, "secret-token", outbox=outbox, **options)


def leave_behind(server: ScriptedServer, outbox: Path, *words: str) -> None:
    """Have another process take commands and die before it has a connection."""
    command = [sys.executable, "-c", PROGRAM, server.url, str(outbox), *words]
    assert subprocess.run(command, check=False, timeout=30).returncode == 9


async def swallow(connection: Connection, frame: Frame) -> bool:
    return True


async def test_what_a_process_left_is_sent_first_and_in_order(server: ScriptedServer, outbox: Path) -> None:
    leave_behind(server, outbox, "one", "two", "three")
    parley = client(server, outbox)
    assert parley.unacknowledged == 3
    async with parley:
        await parley.conversation("c1").ask("four")
        assert parley.unacknowledged == 0
    assert server.chats["c1"].processed == ["one", "two", "three", "four"]
    async with client(server, outbox) as again:
        assert again.unacknowledged == 0
        await again.conversation("c1").ask("five")
    assert server.chats["c1"].processed[3:] == ["four", "five"]


async def test_what_took_effect_unheard_takes_effect_once(server: ScriptedServer, outbox: Path) -> None:
    async def deaf(connection: Connection, frame: Frame) -> bool:
        server.apply(frame)
        return True

    server.on("process", deaf)
    async with client(server, outbox) as parley:
        with pytest.raises(parley_client.Timeout):
            await parley.conversation("c1").ask("one", timeout=0.2)
    async with client(server, outbox) as parley:
        await parley.conversation("c1").ask("two")
    assert server.chats["c1"].processed == ["one", "two"]
    sent = [frame["idempotency_key"] for frame in server.frames("process")]
    assert sent[0] == sent[1] != sent[2]


async def test_the_same_key_joins_what_was_left(server: ScriptedServer, outbox: Path) -> None:
    server.on("process", swallow)
    async with client(server, outbox) as parley:
        with pytest.raises(parley_client.Timeout):
            await parley.conversation("c1").ask("one", idempotency_key="key-0001", timeout=0.2)
    parley = client(server, outbox)
    stream = parley.conversation("c1").send("one", idempotency_key="key-0001")
    async with parley:
        assert isinstance([event async for event in stream][-1], events.TurnCompleted)
    assert server.chats["c1"].processed == ["one"]


async def test_a_deleted_conversation_takes_its_commands_along(server: ScriptedServer, outbox: Path) -> None:
    async def delete(connection: Connection, frame: Frame) -> bool:
        gone = {"type": "unsubscribed", "conversation_id": "c1", "code": "conversation_not_found"}
        await connection.send(gone)
        return True

    server.on("process", delete)
    async with client(server, outbox) as parley:
        chat = parley.conversation("c1")
        chat.send("one")
        with pytest.raises(parley_client.ConversationNotFound):
            [event async for event in chat.send("two")]
    left = client(server, outbox)
    assert left.unacknowledged == 0
    await left.close()


async def test_it_has_one_user_at_a_time(server: ScriptedServer, outbox: Path) -> None:
    first = client(server, outbox)
    with pytest.raises(OutboxUnusable) as used:
        client(server, outbox)
    assert used.value.code == "outbox_in_use"
    await first.close()
    await client(server, outbox).close()


async def test_another_users_commands_are_not_sent(server: ScriptedServer, outbox: Path) -> None:
    server.on("process", swallow)
    async with client(server, outbox) as parley:
        with pytest.raises(parley_client.Timeout):
            await parley.conversation("c1").ask("of u", timeout=0.2)

    def as_another(connection: Connection, frame: Frame) -> list[Frame]:
        if frame["type"] == "welcome":
            frame["principal"]["user_id"] = "v"
        return [frame]

    server.wire = as_another
    with pytest.raises(OutboxUnusable) as refused:
        await client(server, outbox).connect()
    assert refused.value.code == "outbox_of_another"
    assert server.connections[-1].received[-1]["type"] == "hello"
    assert server.chats == {}
    server.wire = lambda connection, frame: [frame]
    async with client(server, outbox) as parley:
        await parley.conversation("c1").ask("more")
    assert server.chats["c1"].processed == ["of u", "more"]


async def test_another_servers_commands_are_not_sent(server: ScriptedServer, outbox: Path) -> None:
    leave_behind(server, outbox, "one")
    with pytest.raises(OutboxUnusable, match="outbox_of_another"):
        AsyncParley("http://elsewhere:1", "token", outbox=outbox)


async def test_it_is_bounded_in_entries_and_in_bytes(server: ScriptedServer, outbox: Path) -> None:
    parley = client(server, outbox, outbox_limit=2, outbox_bytes=1000)
    chat = parley.conversation("c1")
    chat.send("one")
    with pytest.raises(OutboxFull):
        chat.send("x" * 1000)
    chat.send("two")
    with pytest.raises(OutboxFull):
        chat.send("three")
    await parley.close()
    async with client(server, outbox) as parley:
        await parley.conversation("c1").ask("four")
    assert server.chats["c1"].processed == ["one", "two", "four"]


async def test_half_a_line_at_its_end_is_dropped(server: ScriptedServer, outbox: Path) -> None:
    leave_behind(server, outbox, "one", "two")
    whole = outbox.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        outbox.write_bytes(whole[:-cut])
        parley = client(server, outbox)
        assert parley.unacknowledged == 1
        await parley.close()


async def test_damage_in_the_middle_is_told(server: ScriptedServer, outbox: Path) -> None:
    leave_behind(server, outbox, "one", "two")
    outbox.write_bytes(outbox.read_bytes().replace(b"one", b"eno"))
    with pytest.raises(OutboxUnusable, match="line 2") as damaged:
        client(server, outbox)
    assert damaged.value.code == "outbox_unreadable"
    assert b"eno" in outbox.read_bytes()
    outbox.write_bytes(b"something else\nof mine\n")
    with pytest.raises(OutboxUnusable):
        client(server, outbox)
    assert outbox.read_bytes() == b"something else\nof mine\n"


async def test_a_folder_that_is_not_there_is_told(server: ScriptedServer, tmp_path: Path) -> None:
    with pytest.raises(OutboxUnusable, match="outbox_unwritable"):
        client(server, tmp_path / "nowhere" / "outbox")


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
async def test_it_holds_no_token_and_is_its_owners_alone(server: ScriptedServer, outbox: Path) -> None:
    leave_behind(server, outbox, "one")
    assert b"one" in outbox.read_bytes()
    assert b"secret-token" not in outbox.read_bytes()
    assert stat.S_IMODE(outbox.stat().st_mode) == 0o600


async def test_a_refusal_of_what_was_left_is_told(server: ScriptedServer, outbox: Path) -> None:
    async def refuse(connection: Connection, frame: Frame) -> bool:
        await connection.send(error(frame["id"], "permission_denied"))
        return True

    leave_behind(server, outbox, "one")
    server.on("process", refuse)
    parley = client(server, outbox)
    watched = parley.connection_events()
    async with parley:
        while (event := await watched.get(timeout=10)).state != "trouble":
            pass
        assert isinstance(event.error, parley_client.PermissionDenied)
        assert parley.unacknowledged == 0


async def test_it_does_not_grow_with_what_is_done(server: ScriptedServer, outbox: Path) -> None:
    async with client(server, outbox) as parley:
        chat = parley.conversation("c1")
        for _ in range(40):
            await chat.ask("x" * 16_000)
            assert outbox.stat().st_size < 350_000


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
async def test_what_comes_after_a_moment_in_which_the_disk_was_full_is_kept(
    server: ScriptedServer, outbox: Path
) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def full(connection: Connection, frame: Frame) -> bool:
        # half of the line that says that this one is done still finds room
        resource.setrlimit(resource.RLIMIT_FSIZE, (outbox.stat().st_size + 10, hard))
        return False

    server.on("process", full)
    async with client(server, outbox) as parley:
        try:
            await parley.conversation("c1").ask("one")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        server.on("process", swallow)
        for word in ("two", "three"):
            with pytest.raises(parley_client.Timeout):
                await parley.conversation("c1").ask(word, timeout=0.05)
    async with client(server, outbox) as again:
        await again.conversation("c1").ask("four")
    assert server.chats["c1"].processed == ["one", "two", "three", "four"]
