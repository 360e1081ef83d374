"""What handlers work with: the caller, and the parts of the server they may use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from protocol.codec import CodecLimits
from server.auth.credentials import Credentials
from server.auth.principal import Principal
from server.delivery.hub import Hub
from server.delivery.topic import Watcher
from server.engine.types import Accepted, Command
from server.telemetry.metrics import Metrics
from storage.base import Cache, Presence, Store
from storage.models import Conversation


class EnginePort(Protocol):
    """What handlers need of the engine (``server.engine.runner.Engine``)."""

    async def submit(self, command: Command, principal: Principal) -> Accepted:
        """Accept a command durably, or raise Refused."""

    async def read(self, tenant_id: str, conversation_id: str) -> Conversation | None:
        """Return the newest record (a tombstone as such), or None."""

    async def delete(self, tenant_id: str, conversation_id: str, principal: Principal) -> bool:
        """Delete a conversation, or raise Refused. False: there is none."""


class Caller(Watcher, Protocol):
    """The connection that a frame came in on, as handlers see it.

    Attributes:
        bearer: the credential of the ``Authorization`` header, until ``hello`` has used it.
        locale: what ``hello`` said; new conversations take it over.
        timezone: likewise.
        origin: the page that it comes from; None: no browser.
    """

    connection_id: str
    bearer: str | None
    locale: str | None
    timezone: str | None
    origin: str | None

    def enter(self, principal: Principal) -> None:
        """Take the principal over from ``hello``. Raises ConnectionClosing beyond the principal's cap."""

    def renew(self, principal: Principal) -> None:
        """Take a fresh principal over. Raises Refused unless tenant and user stay."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that handlers use.

    Attributes:
        credentials: makes a principal of what a request or a socket brings.
        wall_s: seconds since the epoch, for what tokens say.
        presence: who is connected to a conversation, on any instance.
        cache: what all instances may have forgotten at any time.
        limits: what clients may send, as ``welcome`` says it.
    """

    engine: EnginePort
    hub: Hub
    store: Store
    presence: Presence
    cache: Cache
    credentials: Credentials
    wall_s: Callable[[], float]
    limits: CodecLimits
    frames_per_second: int
    metrics: Metrics
