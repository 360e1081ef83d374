"""A real nginx with the project's own configuration, as a plain process before instances of a test's."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.nginx import NGINX
from tests.support.ports import free_port
from tests.support.server import ROOT, RemoteServer

CONFIGURATION = ROOT / "deploy/nginx/nginx.conf"


@dataclass
class Balancer(RemoteServer):
    """nginx, reached like a server. ``log`` has a JSON line a request, and what nginx complains of."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()


@contextlib.contextmanager
def balancer(
    folder: Path,
    addresses: Sequence[tuple[str, int]],
    *,
    configuration: Path = CONFIGURATION,
    port: int | None = None,
) -> Iterator[Balancer]:
    """Run nginx before instances at these addresses until the block ends.

    The file is the project's own, linked to; beside it, in ``folder``, are those that differ from place to
    place. Another ``configuration`` listens at ``port``.
    """
    place = folder / "nginx"
    place.mkdir()
    (place / "nginx.conf").symlink_to(configuration)
    port = port or free_port()
    (place / "listen.conf").write_text(f"listen 127.0.0.1:{port};\n")
    lines = [f"server {host}:{port_} max_fails=1 fail_timeout=2s;\n" for host, port_ in addresses]
    (place / "instances.conf").write_text("".join(lines))
    log = place / "nginx.log"
    arguments = ["-p", str(place), "-c", str(place / "nginx.conf"), "-g", "daemon off;"]
    with nginx(arguments, place, log) as process:
        wait_until_it_listens(process, port)
        yield Balancer(f"http://127.0.0.1:{port}", process, log)


@contextlib.contextmanager
def nginx(
    arguments: Sequence[str], folder: Path, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run nginx in the foreground until the block ends; ``arguments`` end with its global directives."""
    assert NGINX is not None
    *others, directives = arguments
    # Root's workers would give root up, and with it the way into a temporary folder.
    user = "user root; " if os.getuid() == 0 else ""
    with (log or Path(os.devnull)).open("wb") as out:
        process = subprocess.Popen(
            [NGINX, *others, user + directives], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """Return once a connection is taken at ``port``; fail if the process ends or takes too long."""
    end = time.monotonic() + 10
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nginx does not listen at {port}, or has ended: {process.poll()}")
