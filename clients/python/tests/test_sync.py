"""The synchronous client: the surface, threads, interruptions, forks and the end of the program."""

import asyncio
import gc
import inspect
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import parley_client
import pytest
from parley_client import (
    AsyncConversation,
    AsyncExecution,
    AsyncParley,
    ClientMisused,
    Conversation,
    Parley,
    SyncExecution,
    SyncStream,
    SyncTurnStream,
    events,
)
from parley_client._stream import Stream
from scripted_server import Connection, Frame, ScriptedServer, snapshot


class Served:
    """A scripted server in a loop of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: ScriptedServer) -> None:
        self._loop = loop
        self.server = server
        self.url = server.url

    def do(self, function: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


@contextmanager
def serving() -> Iterator[Served]:
    started: list[Served] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with ScriptedServer() as server:
            started.append(Served(asyncio.get_running_loop(), server))
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield started[0]
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def parley(served: Served) -> Iterator[Parley]:
    with client(served) as parley:
        yield parley


def client(served: Served, **options: Any) -> Parley:
    options = {"random": lambda: 0.0, "connect_options": {"proxy": None}, **options}
    return Parley(served.url, "token", **options)


async def swallow(connection: Connection, frame: Frame) -> bool:
    return True


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "parley-client"]


# --- the surface -----------------------------------------------------------------------------------

PAIRS: list[tuple[type, type]] = [
    (AsyncParley, Parley),
    (AsyncConversation, Conversation),
    (AsyncExecution, SyncExecution),
]
ASYNC_ONLY = re.compile(r"\b(await|async|Async\w+)\b")


def surface(cls: type) -> dict[str, Any]:
    found = {name: getattr(cls, name) for name in dir(cls) if not name.startswith(("_", "on_"))}
    return {name: one for name, one in found.items() if inspect.getdoc(one) != "See the class."}


@pytest.mark.parametrize(("there", "here"), PAIRS)
def test_both_surfaces_have_the_same_names_and_parameters(there: type, here: type) -> None:
    assert surface(there).keys() == surface(here).keys()
    for name, one in surface(there).items():
        if not isinstance(one, property):
            ours, theirs = inspect.signature(surface(here)[name]), inspect.signature(one)
            assert list(ours.parameters.values()) == [
                each.replace(annotation=ours.parameters[each.name].annotation)
                for each in theirs.parameters.values()
            ], name
    if there is AsyncParley:
        assert inspect.signature(here).parameters.keys() == inspect.signature(there).parameters.keys()


@pytest.mark.parametrize(("there", "here"), PAIRS)
def test_both_surfaces_are_documented_alike(there: type, here: type) -> None:
    for name, one in {"": there, **surface(there)}.items():
        theirs, ours = inspect.getdoc(one), inspect.getdoc(surface(here)[name] if name else here)
        assert theirs is not None, name
        assert ours is not None, name
        assert not ASYNC_ONLY.search(ours), name
        sections = re.compile(r"^ *(?:Args|Raises|Attributes):$|^ {4}\w+: ", re.MULTILINE)
        found = [heading.replace("StopAsync", "Stop") for heading in sections.findall(theirs)]
        assert sections.findall(ours) == found, name


def test_streams_have_the_same_names() -> None:
    inner = {"push", "finish", "on_leave", "leave", "poll", "arrival", "aclose"}
    assert surface(Stream).keys() - inner == surface(SyncStream).keys() - {"close"}


# --- talking ---------------------------------------------------------------------------------------


def test_a_turn_is_iterated_to_its_end(parley: Parley) -> None:
    with parley.conversation("c1") as chat:
        stream = chat.send("hello")
        found = list(stream)
        assert isinstance(found[-1], events.TurnCompleted)
        assert stream.turn is not None
        assert stream.accepted
        assert chat.ask("again").success
        assert [message.text for message in chat.messages if message.role == "user"] == ["hello", "again"]
        assert chat.cursor[1] == chat.state().offset
        assert parley.conversation("c1") is chat


def test_a_reconnection_is_not_noticed(served: Served, parley: Parley) -> None:
    watched = parley.connection_events()
    chat = parley.conversation("c1")
    chat.ask("one")
    served.do(served.server.cut)
    chat.ask("two")
    assert served.server.chats["c1"].processed == ["one", "two"]
    assert [event.state for event in (watched.get(timeout=10), watched.get(timeout=10))] == [
        "disconnected",
        "connecting",
    ]


def test_what_is_known_can_be_read_behind_the_end(served: Served) -> None:
    with client(served) as parley, parley.conversation("c1") as chat:
        chat.ask("hello")
    assert chat.snapshot.messages[0].text == "hello"
    assert not parley.connected
    chat.close()
    parley.close()
    with pytest.raises(parley_client.ConnectionClosed):
        chat.ask("more")
    with pytest.raises(parley_client.ConnectionClosed):
        parley.conversation("c2")


def test_threads_share_one_client(served: Served, parley: Parley) -> None:
    def talk(number: int) -> None:
        chat = parley.conversation(f"c{number}")
        for word in range(5):
            assert isinstance(list(chat.send(f"{word}"))[-1], events.TurnCompleted)

    workers = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert {tuple(chat.processed) for chat in served.server.chats.values()} == {tuple("01234")}
    assert len(served.server.chats) == 8
    assert len(threads()) == 1


async def test_it_works_where_a_loop_runs_already(served: Served) -> None:
    with client(served) as parley:
        assert parley.conversation("c1").ask("hello").success


def test_a_token_function_may_take_its_time(served: Served) -> None:
    asked_in: list[str] = []

    def token() -> str:
        asked_in.append(threading.current_thread().name)
        return "slow-token"

    with Parley(served.url, token, connect_options={"proxy": None}) as parley:
        parley.conversation("c1").ask("hello")
    assert asked_in == ["parley-client-call"]
    assert served.server.tokens == ["slow-token"]


def test_errors_are_typed(parley: Parley) -> None:
    with pytest.raises(parley_client.ConversationNotFound):
        parley.conversation("nobody").state()


# --- stopping --------------------------------------------------------------------------------------


def test_breaking_out_leaves_nothing_behind(served: Served, parley: Parley) -> None:
    with parley.conversation("c1") as chat:
        for event in chat.send("hello"):
            assert event is not None
            break
        gc.collect()
        assert chat.ask("next").success
        assert parley._portal.now(lambda: dict(chat._inner._calls)) == {}


def test_closing_a_stream_abandons_only_the_waiting(served: Served, parley: Parley) -> None:
    served.server.on("process", swallow)
    chat = parley.conversation("c1")
    with chat.send("hello", idempotency_key="key-0001") as stream:
        pass
    assert list(stream) == []
    served.do(served.server.cut)
    assert chat.ask("next").success
    assert served.server.chats["c1"].processed == ["hello", "next"]


def test_a_callers_time_may_be_up(served: Served, parley: Parley) -> None:
    served.server.on("process", swallow)
    chat = parley.conversation("c1")
    with pytest.raises(parley_client.Timeout):
        list(chat.send("hello", timeout=0.05))
    with pytest.raises(parley_client.Timeout):
        chat.events().get(timeout=0.05)
    with pytest.raises(parley_client.Timeout):
        chat.ask("more", timeout=0.05)


def test_control_c_ends_the_waiting(served: Served, parley: Parley) -> None:
    waiting = threading.Event()

    async def interrupt(connection: Connection, frame: Frame) -> bool:
        waiting.set()
        os.kill(os.getpid(), signal.SIGINT)
        return True

    served.server.on("process", interrupt)
    chat = parley.conversation("c1")
    with pytest.raises(KeyboardInterrupt):
        chat.ask("hello")
    assert waiting.is_set()
    served.do(served.server.cut)
    assert chat.ask("next").success
    assert parley._portal.now(lambda: dict(chat._inner._calls)) == {}


def test_closing_ends_what_waits_in_another_thread(served: Served) -> None:
    asked, ended = threading.Event(), list[Exception]()

    async def note(connection: Connection, frame: Frame) -> bool:
        asked.set()
        return True

    served.server.on("process", note)
    parley = client(served)
    parley.connect()
    chat = parley.conversation("c1")

    def wait() -> None:
        try:
            chat.ask("hello")
        except parley_client.ConnectionClosed as error:
            ended.append(error)

    worker = threading.Thread(target=wait)
    worker.start()
    assert asked.wait(10)
    parley.close()
    worker.join(10)
    assert len(ended) == 1
    assert threads() == []


def test_a_client_that_nobody_holds_ends_its_thread(served: Served) -> None:
    parley = client(served)
    parley.connect()
    (thread,) = threads()
    del parley
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_call_from_a_callback_says_that_it_cannot_be(served: Served) -> None:
    raised: list[ClientMisused] = []

    def told(event: parley_client.ConnectionEvent) -> None:
        with pytest.raises(ClientMisused, match="callback") as misused:
            clients[0].conversation("c1")
        raised.append(misused.value)

    clients = [client(served, on_connection=told)]
    with clients[0] as parley:
        assert parley.connected
    assert {error.code for error in raised} == {"inside_callback"}


def test_a_forked_child_is_told_to_make_its_own(served: Served, parley: Parley) -> None:
    chat = parley.conversation("c1")
    chat.ask("hello")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            parley.conversation("c2")
        except ClientMisused as misused:
            os.write(writing, misused.code.encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        assert told.read() == "forked"
    assert chat.ask("still here").success


def test_a_program_that_forgets_to_close_ends(served: Served) -> None:
    program = (
        "import sys; from parley_client import Parley\n"
        "parley = Parley(sys.argv[1], 'token', connect_options={'proxy': None}); parley.connect()\n"
        "stream = parley.conversation('c1').send('hello')\n"
        "print(next(stream).type)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, served.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "conversation.created\n"
    assert done.stderr == ""


def test_a_snapshot_reaches_the_reader(served: Served, parley: Parley) -> None:
    with parley.conversation("c1") as chat:
        chat.ask("hello")
        reader = chat.events()
        there = served.server.chats["c1"]
        for connection in served.do(lambda: served.server.live):
            asyncio.run_coroutine_threadsafe(connection.send(snapshot("c1", there)), served._loop).result(10)
        assert isinstance(reader.get(timeout=10), events.SnapshotReplaced)


def test_streams_of_turns_are_what_send_gives(parley: Parley) -> None:
    stream = parley.conversation("c1").send("hello", idempotency_key="key-0001")
    assert isinstance(stream, SyncTurnStream)
    assert stream.command_id == "key-0001"
    assert [*stream][-1].type == "turn.completed"
    assert not stream.duplicate
    assert stream.ended
