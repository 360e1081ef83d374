"""Probes and numbers: ``/livez /readyz /startupz /health /metrics /v1/status``."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.gateway.rest.envelope import json_response
from server.telemetry.metrics import CONTENT_TYPE
from storage.base import BusHealth, StoreUnavailable

_log = structlog.get_logger(__name__)

PING_TIMEOUT_S: Final = 2.0
VERDICT_S: Final = 1.0
"""How long a dependency's verdict is used again, so that probes cannot load the store."""
SERVICE: Final = "parley"


@dataclass(slots=True)
class Readiness:
    """What the probes know of this process. ``started`` and ``draining`` are set by ``app`` and ``drain``.

    Attributes:
        ping: raises StoreUnavailable unless the store serves.
        bus: how the way to other instances is doing; None where there is none.
    """

    ping: Callable[[], Awaitable[None]]
    bus: Callable[[], BusHealth] | None = None
    started: bool = False
    draining: bool = False
    _checked_at: float = -VERDICT_S
    _verdict: dict[str, Any] = field(default_factory=dict)
    _check: "asyncio.Task[dict[str, Any]] | None" = None

    async def checks(self) -> dict[str, Mapping[str, Any]]:
        """Return each dependency's ``{status, latency_ms, reason}``."""
        checks: dict[str, Mapping[str, Any]] = {"store": await self.store()}
        if self.bus is not None:
            health = self.bus()
            status = "ok" if health.up else "down"
            checks["bus"] = {"status": status, "latency_ms": None, "reason": health.reason}
        return checks

    def not_ready(self, checks: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Return why no new connections are taken; None: they are. A bus that is away is no reason."""
        if self.draining:
            return "draining"
        if not self.started:
            return "starting"
        return "store_unavailable" if checks["store"]["status"] != "ok" else None

    @property
    def store_is_up(self) -> bool:
        """What the last verdict said."""
        return self._verdict.get("status") == "ok"

    async def store(self) -> Mapping[str, Any]:
        """Return the store's ``{status, latency_ms, reason}``, at most a second old."""
        if time.monotonic() - self._checked_at >= VERDICT_S:
            if self._check is None:
                self._check = asyncio.create_task(self._ping())
            self._verdict = await asyncio.shield(self._check)
        return self._verdict

    async def _ping(self) -> dict[str, Any]:
        begun = time.monotonic()
        reason = None
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self.ping()
        except TimeoutError:
            reason = "no answer in time"
        except StoreUnavailable:
            reason = "cannot be reached or is full"
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it does not serve
            _log.exception("store_ping_failed")
            reason = "fails"
        finally:
            self._check = None
        self._checked_at = time.monotonic()
        latency_ms = round((self._checked_at - begun) * 1000, 1)
        return {"status": "down" if reason else "ok", "latency_ms": latency_ms, "reason": reason}


class Health:
    """The routes of this module.

    Args:
        readiness: the state of the process.
        numbers: what ``/metrics`` shows.
        version: of the server.
        environment: ``dev`` or ``serve``.
        status: what ``/v1/status`` adds: features and limits.
    """

    def __init__(
        self,
        *,
        readiness: Readiness,
        numbers: Callable[[], Awaitable[bytes]],
        version: str,
        environment: str,
        status: Mapping[str, Any],
    ) -> None:
        self._readiness = readiness
        self._numbers = numbers
        self._version = version
        self._environment = environment
        self._status = status

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/livez", self.livez, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/startupz", self.startupz, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.show_metrics, methods=["GET"]),
            Route("/v1/status", self.status, methods=["GET"]),
        ]

    async def livez(self, _request: Request) -> Response:
        """The process runs and its event loop answers."""
        return json_response({"status": "ok"})

    async def startupz(self, _request: Request) -> Response:
        """It has started."""
        started = self._readiness.started
        return json_response({"status": "ok" if started else "starting"}, 200 if started else 503)

    async def readyz(self, _request: Request) -> Response:
        """It takes new connections: started, not draining, and the store serves.

        ``degraded``: it serves, but what other instances do is heard late.
        """
        checks = await self._readiness.checks()
        reason = self._readiness.not_ready(checks)
        body = {"status": reason or _status(checks), "checks": checks}
        return json_response(body, 503 if reason else 200)

    async def health(self, _request: Request) -> Response:
        """One line for monitoring pages."""
        checks = await self._readiness.checks()
        reason = self._readiness.not_ready(checks)
        body = {
            "status": "down" if reason else _status(checks),
            "service": SERVICE,
            "version": self._version,
            "environment": self._environment,
        }
        return json_response(body, 503 if reason else 200)

    async def show_metrics(self, _request: Request) -> Response:
        """All numbers, for Prometheus."""
        await self._readiness.store()  # so that `parley_store_up` tells of now
        return Response(await self._numbers(), headers={"content-type": CONTENT_TYPE})

    async def status(self, _request: Request) -> Response:
        """What this server is and what it takes."""
        return json_response({"service": SERVICE, "version": self._version, **self._status})


def _status(checks: Mapping[str, Mapping[str, Any]]) -> str:
    return "ok" if all(check["status"] == "ok" for check in checks.values()) else "degraded"
