"""Ports for servers of tests."""

import contextlib
import secrets
import socket


def free_port() -> int:
    """Return a free port that stays free while nobody listens on it.

    It lies below those that the kernel gives to outgoing connections (from 32768 on Linux): else another
    test's client might take it before the server does, and a client that tries again and again to reach a
    dead server there would, one day, be connected to itself.
    """
    while True:
        port = secrets.randbelow(17_000) + 15_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
