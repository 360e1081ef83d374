"""Who sits at this machine: what development gives away without a credential is for them only.

A page anywhere can make a browser ask localhost, so two things have to be right: the peer is on the loopback
interface, and ``Host`` is one of this server's own names with its port (DNS rebinding).
"""

import ipaddress

from starlette.requests import Request

from server.auth.origins import LOCAL_NAMES


def is_local(request: Request) -> bool:
    """Return whether a request comes from this machine and knows whom it asks."""
    peer = request.client.host if request.client else ""
    hosts = [value.lower() for value in request.headers.getlist("host")]
    names = {f"{name}:{port_of(request)}" for name in LOCAL_NAMES}
    return _is_loopback(peer) and len(hosts) == 1 and hosts[0] in names


def port_of(request: Request) -> int | None:
    """Return the port that a request has come to."""
    port: int | None = (request.scope.get("server") or ("", None))[1]
    return port


def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False
