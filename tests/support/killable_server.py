"""A server process that can be killed anywhere, and started again many times a second.

Run as a program this is a *nursery*: it imports the server once and then, line by line from stdin, forks
a child for each life, several at a time if that is wanted. The child is an ordinary server: settings from its
environment, a file database (the lock, the log and the recovery are real), a fixed port; only its store
reports to ``failpoints`` what it is asked to do. So a life costs some 60 ms instead of most of a second, and
CI affords hundreds.

``Nursery`` is the test's side of it. The store alone serves ``python -m server serve`` too, as
``PARLEY_STORE=tests.support.killable_server:open_store``.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import sqlite3
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

from storage.base import Commit, CommitOutcome, Due, Store
from storage.models import Conversation, EventBatch, InboxEntry, TimeMs
from storage.sqlite import SqliteStore
from tests.support import failpoints
from tests.support.failpoints import reach

ROOT: Final = Path(__file__).parents[2]
PR_SET_PDEATHSIG: Final = 1
READY_S: Final = 20.0


class KillableStore:
    """A store that tells ``failpoints`` of what the engine asks it.

    ``PARLEY_TEST_ANSWER_EARLY_MS`` breaks its promise: it answers before it has written. So does
    ``PARLEY_TEST_STALE_OFFSETS``: lost tails do not show.
    """

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._offsets: dict[tuple[str, str], tuple[str, int]] = {}
        self._late: set[asyncio.Future[None]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def load(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        reach("load.before")
        return await self._inner.load(tenant_id, conversation_id)

    async def commit(self, commit: Commit) -> CommitOutcome:
        reach("commit.before")
        early_ms = os.environ.get("PARLEY_TEST_ANSWER_EARLY_MS")
        if early_ms is not None:
            late = asyncio.ensure_future(self._commit_late(commit, int(early_ms)))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            return CommitOutcome.COMMITTED
        outcome = await self._inner.commit(commit)
        reach("commit.after")
        return outcome

    async def _commit_late(self, commit: Commit, after_ms: int) -> None:
        await asyncio.sleep(after_ms / 1000)
        await self._inner.commit(commit)

    async def enqueue(self, tenant_id: str, conversation_id: str, entry: InboxEntry, wake_at: TimeMs) -> bool:
        reach("enqueue.before")
        queued = await self._inner.enqueue(tenant_id, conversation_id, entry, wake_at)
        reach("enqueue.after")
        return queued

    async def turn_end(
        self, tenant_id: str, conversation_id: str, epoch: str, command_id: str, from_offset: int
    ) -> EventBatch | None:
        reach("turn_end.before")
        return await self._inner.turn_end(tenant_id, conversation_id, epoch, command_id, from_offset)

    async def offsets(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
        found = await self._inner.offsets(keys)
        if "PARLEY_TEST_STALE_OFFSETS" in os.environ:
            return {key: self._offsets.setdefault(key, place) for key, place in found.items()}
        return found

    async def due(self, now: TimeMs, limit: int) -> list[Due]:
        found = await self._inner.due(now, limit)
        if found:
            reach("due.after")
        return found


class TracedSqliteStore(SqliteStore):
    """The SQLite store, telling of each statement before the writer's thread executes it.

    ``PARLEY_TEST_SYNCHRONOUS`` breaks its promises.
    """

    def _prepare(self, connection: sqlite3.Connection) -> None:
        synchronous = os.environ.get("PARLEY_TEST_SYNCHRONOUS")
        if synchronous:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
        super()._prepare(connection)
        connection.set_trace_callback(lambda statement: reach(f"sql.{statement.split(None, 1)[0]}"))


def open_store(clock: Callable[[], TimeMs] | None = None) -> Store:
    """The factory that ``PARLEY_STORE`` names; ``PARLEY_TEST_DATABASE`` is a file or a MongoDB's URL."""
    database = os.environ["PARLEY_TEST_DATABASE"]
    if not database.startswith("mongodb://"):
        return cast(Store, KillableStore(TracedSqliteStore(database, clock=clock)))
    from tests.support.mongo_commands import open_traced  # not where only SQLite is asked for

    return cast(Store, KillableStore(open_traced(database, clock)))


# --- the program ----------------------------------------------------------------------------------


def _tell(event: str, **fields: Any) -> None:
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


def _die_with_parent() -> None:
    """A test run that is killed must not leave servers behind (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _nurse() -> None:
    from server.app import serve  # noqa: F401 - loaded once, for all children
    from server.engine.steps import step_types

    step_types()
    gc.collect()
    gc.freeze()  # else the collector of each child would go through all of it, and so copy it
    _die_with_parent()
    ended, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # the default would not wake us
    _tell("open")
    orders = b""
    while True:
        readable, _, _ = select.select([0, ended], [], [])
        if ended in readable:
            os.read(ended, 4096)
            _bury()
        if 0 in readable:
            told = os.read(0, 65536)
            if not told:
                return
            *lines, orders = (orders + told).split(b"\n")
            for line in lines:
                _bear(json.loads(line), ended, woken)


def _bear(order: Mapping[str, Any], *wake: int) -> None:
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in wake:
            os.close(descriptor)
        _tell("born", pid=os.getpid())  # not its parent: it could be ready before that is told
        _live(order)


def _bury() -> None:
    """Tell of all that have ended; one signal may stand for several."""
    with contextlib.suppress(ChildProcessError):
        while True:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            _tell("ended", pid=child, signal=status & 0x7F, code=status >> 8)


def _live(order: Mapping[str, Any]) -> None:
    """Be a server until the end; never returns."""
    from server.app import serve
    from server.settings import Settings
    from server.telemetry.logs import configure_logging

    code = 1
    try:
        _die_with_parent()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the orders are for the nursery
        os.environ.update(order["env"])
        failpoints.arm(order["failpoint"])
        settings = Settings.load(os.environ, {}, Path.cwd(), needs_secret=True)
        configure_logging(settings.log_level, settings.log_format, secrets=[])
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(serve(settings, on_ready=lambda app: _tell("ready", pid=os.getpid())))
    except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


# --- the test's side ------------------------------------------------------------------------------


@dataclass(slots=True)
class Life:
    """One child: who it is, and how it ended."""

    pid: int
    ready: bool = False
    signal: int | None = None
    code: int | None = None
    killed: bool = False
    """From outside."""

    @property
    def by_itself(self) -> bool:
        """It came to its failpoint."""
        return self.signal == signal.SIGKILL and not self.killed


class Nursery:
    """Starts servers in ``folder``: one after the other on one port over one database, or several at once.

    Args:
        folder: holds ``flows``, the database and the logs.
        port: of a life whose ``env`` names no other.
        env: more variables for the servers.
    """

    def __init__(self, folder: Path, port: int, env: Mapping[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.database = folder / "parley.db"
        self.log = folder / "server.log"
        self.lives: list[Life] = []
        self._folder = folder
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")},
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients/python/src")]),
            "PARLEY_PORT": str(port),
            "PARLEY_STORE": "tests.support.killable_server:open_store",
            "PARLEY_TEST_DATABASE": str(self.database),
            **env,
        }
        self._process: asyncio.subprocess.Process
        self._news = asyncio.Condition()
        self._orders = asyncio.Lock()
        self._is_open = self._is_dead = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path, port: int, env: Mapping[str, str]) -> AsyncIterator[Self]:
        """Have a nursery for a block; everything that it started ends with it."""
        nursery = cls(folder, port, env)
        with nursery.log.open("ab") as log:
            nursery._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.support.killable_server"),
                cwd=folder, env=nursery._env, stderr=log, start_new_session=True,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        listening = asyncio.create_task(nursery._listen())
        try:
            await nursery._until(lambda: nursery._is_open)
            yield nursery
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(nursery._process.pid, signal.SIGKILL)
            await nursery._process.wait()
            await listening

    async def start(self, failpoint: str | None = None, env: Mapping[str, str] | None = None) -> Life:
        """Begin a life; it may not get as far as being ready."""
        stdin = self._process.stdin
        assert stdin is not None
        async with self._orders:
            place = len(self.lives)
            stdin.write(json.dumps({"failpoint": failpoint, "env": dict(env or {})}).encode() + b"\n")
            await self._until(lambda: len(self.lives) > place)
            return self.lives[place]

    async def ready(self, life: Life) -> bool:
        """Wait until it serves (True) or has ended (False)."""
        await self._until(lambda: life.ready or life.signal is not None)
        return life.ready

    async def ended(self, life: Life, within_s: float | None = None) -> bool:
        """Wait for its end, for that long at most; tell whether it has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._until(lambda: life.signal is not None)
        return life.signal is not None

    async def terminate(self, life: Life) -> bool:
        """SIGTERM; tell whether it drained and ended well."""
        os.kill(life.pid, signal.SIGTERM)
        return await self.ended(life, READY_S) and (life.signal, life.code) == (0, 0)

    async def kill(self, life: Life) -> None:
        """SIGKILL from outside, wherever it is."""
        if life.signal is None:
            life.killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(life.pid, signal.SIGKILL)
            await self.ended(life, READY_S)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(lambda: is_so() or self._is_dead)
        if not is_so():
            raise AssertionError(f"the nursery has died:\n{self.log.read_text()[-4000:]}")

    async def _listen(self) -> None:
        """Keep book of what the nursery tells."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            async with self._news:
                self._note(json.loads(line))
                self._news.notify_all()
        async with self._news:
            self._is_dead = True
            self._news.notify_all()

    def _note(self, told: Mapping[str, Any]) -> None:
        self._is_open = True
        if told["event"] == "born":
            self.lives.append(Life(told["pid"]))
        life = next((life for life in reversed(self.lives) if life.pid == told.get("pid")), None)
        if life is not None and told["event"] == "ready":
            life.ready = True
        elif life is not None and told["event"] == "ended":
            life.signal, life.code = told["signal"], told["code"]


if __name__ == "__main__":
    _nurse()
