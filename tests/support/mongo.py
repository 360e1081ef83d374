"""A MongoDB-protocol server for tests: built once, started on a free port, and mistreated at will.

Its source is in ``mongo_server/``; ``PARLEY_TEST_MONGO_URL`` names a real MongoDB to be used instead. Each
test has a database of its own. It keeps everything over SIGTERM, and loses what is newer than about a
second over SIGKILL: so that tests of durability do not use SIGKILL.
"""

import fcntl
import gc
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support.ports import free_port

SOURCE: Final = Path(__file__).with_name("mongo_server")
BUILD: Final = SOURCE / "build"
HINT: Final = (
    "install maven and a JDK (apt-get install maven default-jdk-headless), or set PARLEY_TEST_MONGO_URL to a "
    "MongoDB replica set"
)
READY_S: Final = 30.0


def is_usable() -> bool:
    """Tell whether there is a server to test with, or the means to build one."""
    return bool(os.environ.get("PARLEY_TEST_MONGO_URL")) or can_build()


def can_build() -> bool:
    """Tell whether an own server can be built and run."""
    return all(map(shutil.which, ("java", "javac", "mvn")))


def build() -> str:
    """Build the server unless it is built; return its class path. Workers wait for the first of them."""
    stamp = BUILD / "done"
    sources = (SOURCE / "pom.xml", SOURCE / "TestMongoServer.java")
    newest = str(max(path.stat().st_mtime_ns for path in sources))
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != newest:
            fetch = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={BUILD / 'lib'}"]
            subprocess.run(fetch, cwd=SOURCE, check=True)
            compile_ = ["javac", "-cp", f"{BUILD}/lib/*", "-d", str(BUILD / "classes"), str(sources[1])]
            subprocess.run(compile_, check=True)
            stamp.write_text(newest)
    return f"{BUILD}/classes:{BUILD}/lib/*"


class MongoServer:
    """One server process over a file; ``start`` and ``stop`` may take turns, port and data stay.

    Args:
        folder: where its file lies.
        version: the major version that it claims to be.
        wire: the wire version that it claims.
        fast: for benchmarks: worth a slower start and more processor time at first.
    """

    def __init__(self, folder: Path, *, version: int = 6, wire: int = 17, fast: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self._claims = (str(version), str(wire))
        self._tuned = [] if fast else ["-XX:TieredStopAtLevel=1"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, without a database."""
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and return once it answers."""
        file = str(self.folder / "mongo.mv")
        # SerialGC and few threads: the machine is the tests', too.
        java = ["java", "-Xmx512m", "-XX:+UseSerialGC", *self._tuned, "-cp", build()]
        self._process = subprocess.Popen(
            [*java, "TestMongoServer", file, str(self.port), *self._claims],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(b"listening"):
            raise RuntimeError(f"the MongoDB-protocol server did not start on port {self.port}")
        return self

    def stop(self) -> None:
        """End it by SIGTERM: what it has is on disk. Safe to call twice, and while it is paused."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            process.wait(READY_S)
            if process.stdout is not None:
                process.stdout.close()

    def restart(self) -> None:
        """End it and start it again, on the same port and with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: its connections stay, and nobody answers from here on."""
        assert self._process is not None
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # a busy machine takes its time

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def with_database(url: str, name: str) -> str:
    """Return a URL with a database's name in it; its credentials stay those of their database."""
    parts = urlsplit(url)
    query = parts.query
    if parts.username is not None and "authsource" not in query.lower():
        source = parts.path.strip("/") or "admin"
        query = "&".join(part for part in (query, f"authSource={source}") if part)
    return urlunsplit(parts._replace(path=f"/{name}", query=query))


def drop(url: str) -> None:
    """Drop the database of a URL."""
    from pymongo import MongoClient

    with MongoClient[dict[str, object]](url) as client:
        client.drop_database(client.get_default_database())


def database_name() -> str:
    """Return a name that no other test has."""
    return f"parley_test_{secrets.token_hex(6)}"


@pytest.fixture
def dropped_sockets() -> Iterator[None]:
    """Collect here what PyMongo drops where it is closed while it connects: a socket that nobody closes."""
    yield
    gc.collect()


def away(test: Callable[..., Any]) -> Any:
    """Mark a test whose MongoDB is away for a while, or for good, and whose client lives in this process."""
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return pytest.mark.usefixtures("dropped_sockets")(ignored(test))


@pytest.fixture(scope="session")
def shared_mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A server for the tests that only use one."""
    server = MongoServer(tmp_path_factory.mktemp("mongo")).start()
    yield server
    server.stop()


@pytest.fixture
def mongo_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A URL with a database of the test's own, of ``PARLEY_TEST_MONGO_URL`` or of the session's server."""
    given = os.environ.get("PARLEY_TEST_MONGO_URL")
    url = with_database(given or request.getfixturevalue("shared_mongo").url, database_name())
    yield url
    drop(url)


@pytest.fixture
def mongo_server(tmp_path: Path) -> Iterator[MongoServer]:
    """A server of the test's own, to be restarted and stopped."""
    if not can_build():
        pytest.skip("needs a server of its own, not only PARLEY_TEST_MONGO_URL: " + HINT)
    server = MongoServer(tmp_path).start()
    yield server
    server.stop()
