"""A real Redis for tests: started on a free port, with nothing on disk, and mistreated at will."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.support.certificates import Certificate
from tests.support.ports import free_port

READY_S: Final = 10.0
POLL_S: Final = 0.01


class RedisServer:
    """One redis-server process; ``start`` and ``stop`` may take turns, the port stays.

    Args:
        folder: where it works.
        options: further ones, as on its command line without the dashes.
        password: what it asks for.
        certificate: makes it speak TLS, and nothing else.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str | None = None,
        certificate: Certificate | None = None,
        **options: str | int,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = password
        self.certificate = certificate
        self.options: dict[str, str | int] = {"save": "", "appendonly": "no", **options}
        if password is not None:
            self.options["requirepass"] = password
        if "cluster_enabled" in options:  # else 10,000 above: of the ports that clients are given
            self.options["cluster_port"] = free_port()
        if certificate is None:
            self.options["port"] = self.port
        else:
            self.options |= {"port": 0, "tls_port": self.port, "tls_auth_clients": "no"}
            self.options |= {"tls_cert_file": str(certificate.file), "tls_key_file": str(certificate.key)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL for ``PARLEY_BUS``."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.certificate is None:
            return f"redis://{login}127.0.0.1:{self.port}"
        return f"rediss://{login}127.0.0.1:{self.port}?ssl_ca_certs={self.certificate.file}"

    def start(self) -> Self:
        """Start it and return once it answers."""
        arguments = ["redis-server", "--dir", str(self.folder), "--bind", "127.0.0.1"]
        for name, value in self.options.items():
            arguments += [f"--{name.replace('_', '-')}", *str(value).split(" ")]
        self._process = subprocess.Popen(
            arguments,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill it; what it held is gone. Safe to call twice, and while it is paused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: its connections stay, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def client(self) -> Iterator[Redis]:
        """Look into it, independently of the code under test."""
        client = Redis.from_url(self.url, socket_timeout=5)
        try:
            yield client
        finally:
            client.close()

    def ask(self, *command: str | int) -> Any:
        """Send any command and return the reply."""
        with self.client() as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def kill_clients(self, kind: str) -> int:
        """Cut the connections of a kind, ``pubsub`` or ``normal``; return how many there were."""
        with self.client() as client:
            return client.client_kill_filter(_type=kind, skipme=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _wait(self) -> None:
        give_up_at = time.monotonic() + READY_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except RedisError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(POLL_S)


def with_prefix(url: str) -> str:
    """Return a URL of the same server in which a test is alone."""
    return f"{url}{'&' if '?' in url else '?'}prefix=test-{secrets.token_hex(4)}:"


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A server for the tests that only use one."""
    with tempfile.TemporaryDirectory(prefix="parley-redis-") as folder:
        server = RedisServer(Path(folder)).start()
        yield server
        server.stop()


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """A bus URL in which the test is alone: of ``PARLEY_TEST_REDIS_URL``, or of a server for the session."""
    given = os.environ.get("PARLEY_TEST_REDIS_URL")
    return with_prefix(given or request.getfixturevalue("shared_redis").url)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be restarted, stopped and cut off."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs a redis-server of its own, not only PARLEY_TEST_REDIS_URL")
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()
