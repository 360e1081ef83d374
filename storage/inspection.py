"""What an adapter finds when it looks at its server from outside: what ``parley doctor`` tells of it."""

import ipaddress
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["ok", "warning", "problem"]

CLOCK_SKEW_S: Final = 5.0
"""Clocks further apart than this are told."""
CLOCK_FIX: Final = "Synchronise both clocks, e.g. by chrony or systemd-timesyncd."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``fix`` says what to do, unless it is ``ok``."""

    level: Level
    subject: str
    message: str
    fix: str | None = None


def clocks(subject: str, theirs_s: float, here_s: float, *, exact_to_s: float = 0) -> Finding:
    """Compare two clocks, in seconds of the same moment; theirs is exact to ``exact_to_s``."""
    skew = abs(theirs_s - here_s)
    if skew <= exact_to_s:
        return Finding("ok", subject, f"its clock and this one agree, as far as {exact_to_s:g} seconds tell")
    if skew > CLOCK_SKEW_S:
        return Finding("warning", subject, f"its clock is {skew:.0f} seconds away from this one", CLOCK_FIX)
    return Finding("ok", subject, f"its clock is {skew:.1f} seconds away from this one")


def access(
    subject: str, *, local: bool, encrypted: bool, credentials: bool, setting: str, form: str
) -> Finding:
    """Tell whether strangers can read on the way, or come in; on this machine both may be as one likes.

    Args:
        subject: of the finding.
        local: it is reached within this machine.
        encrypted: by TLS.
        credentials: we have to show some.
        setting: which setting names it.
        form: a URL with both.
    """
    lacks = [
        lack
        for lack, there in (("TLS (others can read on the way)", encrypted), ("credentials", credentials))
        if not there
    ]
    if lacks and not local:
        return Finding(
            "warning", subject, f"{setting} has no {' and no '.join(lacks)}", f"Set {setting}={form}."
        )
    return Finding("ok", subject, "on this machine" if lacks else "by TLS, with credentials")


def is_local(host: str) -> bool:
    """Tell whether a host of a URL is this machine; a path is a socket of it."""
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
