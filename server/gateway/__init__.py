"""Sockets and HTTP in, bytes out; no decisions."""
