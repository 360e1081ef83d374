"""The composition root: the one place where the parts of the server meet.

``build`` makes an ``Application`` of settings and opens nothing; ``startup`` opens; ``serve`` runs it on
uvicorn until a signal ends it.
"""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import structlog
import uvicorn

from protocol.codec import CodecLimits
from protocol.frames import SUBPROTOCOL
from protocol.session import SessionLimits
from server.auth.credentials import Credentials
from server.auth.keys import Keys
from server.auth.origins import LOCAL_NAMES, OriginPolicy
from server.auth.tokens import TokenVerifier
from server.auth.visitors import Visitors
from server.delivery.hub import Elsewhere, Hub
from server.engine.actions import Actions
from server.engine.catalog import Catalog
from server.engine.clock import StoreClock
from server.engine.flow.loader import FolderReport
from server.engine.flow.model import FlowInvalid
from server.engine.releases import Releases
from server.engine.runner import Engine, EngineOptions
from server.engine.schedule import HOUR_MS
from server.engine.sweeper import Sweeper
from server.gateway.drain import Drain
from server.gateway.http import BoundedHttp
from server.gateway.rest.api import Api
from server.gateway.rest.conversations import ConversationRoutes
from server.gateway.rest.envelope import App, Receive, Scope, Send
from server.gateway.rest.executions import ExecutionRoutes
from server.gateway.rest.health import Health, Readiness
from server.gateway.rest.inbox import InboxRoutes
from server.gateway.rest.keys import KeyRoutes
from server.gateway.rest.page import page_routes
from server.gateway.rest.reference import ReferenceRoutes
from server.gateway.rest.routes import rest_app
from server.gateway.rest.streams import Streams
from server.gateway.rest.visitors import VisitorRoutes
from server.gateway.rest.widget import WidgetRoutes
from server.gateway.websocket import Gateway
from server.gateway.wheel import Wheel
from server.gateway.wire import WebSocketWire
from server.handlers.services import Services
from server.limits.connections import ConnectionCounter
from server.limits.visitors import VisitorLimits
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.version import version as server_version
from server.workers import Place, Siblings
from storage.base import EventBus, Shared, StorageError, Store
from storage.open import MongoSettings, open_bus, open_shared, open_store

GRACEFUL_S: Final = 2
"""What uvicorn may still take after the drain."""
DATE_S: Final = 1.0
"""How long the ``Date`` of answers stays."""
PATIENCE_S: Final = 4.8
"""With a store over the network: after so long a command's sender is told that it is away."""
BESIDE_S: Final = 0.3
"""But never before the store's own time-out, and so much beside it."""
CLOSE_S: Final = 2.0
"""How long bus and store may take to be closed: a process that is told to go does not wait for others."""
BACKLOG: Final = 2048
GC_THRESHOLD: Final = 50_000

_log = structlog.get_logger(__name__)


class AloneOnly(StorageError):  # noqa: N818 - what is the matter
    """Several instances were asked for over what serves one. The message says what to set."""


def monotonic_ms() -> int:
    """Return the time of sessions and outboxes: it never runs backwards."""
    return time.monotonic_ns() // 1_000_000


class Application:
    """One instance of the server. Made by ``build``.

    Attributes:
        asgi: the ASGI application; it starts and stops this one through lifespan, unless that is off.
        instance_id: its name in logs, and the beginning of its name in leases.
        url: where it is reached, once it listens.
        flows: what was found in the flows folder at the start.
        routes: what it answers over HTTP.
    """

    def __init__(
        self, settings: Settings, store: Store, bus: EventBus | None, *, dev: bool, place: Place | None
    ) -> None:
        self.settings = settings
        self.url = ""
        self.flows = FolderReport((), ())
        self.instance_id = settings.instance_id or secrets.token_hex(4)
        self.store = store
        self.metrics = Metrics()
        self._siblings = Siblings(place, self.metrics) if place is not None else None
        self.readiness = Readiness(store.ping, bus.health if bus is not None else None)
        self._dev = dev
        self._origins = OriginPolicy(settings.origins)
        self._bus = bus
        self._shared = open_shared(settings.bus)
        self.keys = Keys(store, bus)
        actions = Actions.load(settings.actions)
        clock = StoreClock(store)
        self.catalog = Catalog(store, actions.names)
        self.releases: Releases | None = None
        if not store.embedded:
            self.releases = Releases(store, self.catalog, actions.names, lambda: self.hub.tell_flows())
        self.hub = Hub(
            store=store,
            read=self._read,
            now_ms=monotonic_ms,
            bus=bus,
            elsewhere=self._what_others_say(),
            presence=self._shared.presence,
        )
        self.engine = Engine(
            store=store,
            clock=clock,
            catalog=self.catalog,
            actions=actions,
            publish=self.hub.publish,
            prepare=self.hub.prepare,
            tell_owner=self.hub.tell_owner,
            tell_due=self.hub.tell_due,
            observe_commit=self.metrics.store_seconds.observe,
            expect=lambda at: self.sweeper.expect(at),
            renew_flows=self.releases.renew if self.releases is not None else None,
            options=EngineOptions(
                # A process that is started anew under the same name does not hold the former's leases.
                instance_id=f"{self.instance_id}.{secrets.token_hex(4)}",
                session_ms=round(settings.session_hours * HOUR_MS),
                patience_s=None if store.embedded else _patience_s(settings),
            ),
            sole_writer=store.embedded,
        )
        self.sweeper = Sweeper(store, clock, self.engine, settings.sweep_seconds)
        self.wheel = Wheel(monotonic_ms, self.hub.tick)
        self.gateway = self._gateway()
        self.streams = Streams(self.hub, self.keys, self.gateway.counter, self.wheel.stalled)
        self.drain = Drain(self.gateway, self.readiness, self._stop_engine, self._end_streams)
        self.routes = [*self._health().routes(), *self._visitor_routes(), *self._api_routes()]
        self.routes += ReferenceRoutes(server_version(), self.routes).routes()
        pages = page_routes(self._flow_errors) if dev else []
        self._rest = rest_app([*self.routes, *WidgetRoutes().routes(), *pages], self.metrics)
        self.asgi: App = self._serve
        self._read_metrics()

    # --- life -------------------------------------------------------------------------------------

    async def startup(self) -> None:
        """Open everything. Once it returns, the instance works.

        Raises:
            StoreLocked, StoreTooNew, StoreUnavailable: the store cannot be used.
            FlowInvalid: a flow is broken (``dev`` goes on without it).
        """
        if self.readiness.started:
            return
        self._check_company()
        await self.store.open()
        try:
            if self._bus is not None:
                await self._bus.open(self._restored)
            elif not self.store.embedded:
                _log.warning("one_instance_only", hint="several need PARLEY_BUS=redis://...")
            await self._shared.open()
            self.flows = await self.load_flows()
            if not self.flows.ok and not self._dev:
                raise FlowInvalid(self.flows.problems)
            await self.hub.start()
            await self.keys.start()
            await self.engine.start()
            await self.sweeper.start()
            await self.wheel.start()
            if self.releases is not None:
                await self.releases.start()
            if self._siblings is not None:
                await self._siblings.start()
        except BaseException:
            await self.shutdown()
            raise
        self.readiness.started = True

    async def load_flows(self, *, again: bool = False) -> FolderReport:
        """Publish the flows folder and offer it; where others share the store, offer the newest release.

        Args:
            again: the folder is to be the newest release also where it has been an older one.

        Raises:
            StoreUnavailable: nothing is offered otherwise than before.
        """
        if self.releases is None:
            return await self.catalog.load_folder(self.settings.flows)
        return await self.releases.load_folder(self.settings.flows, again=again, broken=self._dev)

    def _restored(self) -> None:
        """The bus is back."""
        self.hub.restored()
        self.keys.restored()

    def _check_company(self) -> None:
        """Refuse workers that could not see each other's work; what the URLs tell is refused by settings."""
        if self.settings.workers > 1 and (
            self.store.embedded or self._bus is None or not self._bus.networked
        ):
            raise AloneOnly(
                f"{self.settings.workers} workers are as many instances, and this store or bus serves one: "
                "set PARLEY_STORE=mongodb://... and PARLEY_BUS=redis://..., or PARLEY_WORKERS=1"
            )

    async def _numbers(self) -> bytes:
        return self.metrics.render() if self._siblings is None else await self._siblings.render()

    def listens_at(self, host: str, port: int) -> None:
        """Take over where this instance is reached. In development its own page may connect from there.

        Args:
            host: the address it listens on, no name.
            port: the one it got.
        """
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if self._dev:
            self._origins.allow([self.url, *(f"http://{name}:{port}" for name in LOCAL_NAMES)])

    async def shutdown(self) -> None:
        """Release everything, in the opposite order. Safe to call after ``drain``, and twice."""
        self.drain.begin()
        await self.wheel.stop()
        if self._siblings is not None:
            await self._siblings.stop()
        if self.releases is not None:
            await self.releases.stop()
        await self._stop_engine(0)
        await self.hub.stop()
        await self._close()

    async def _close(self) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self.keys.stop()
                    await asyncio.gather(*(part.close() for part in self._far()))
        finally:
            if self.store.embedded:
                await self.store.close()

    def _far(self) -> "list[Store | EventBus | Shared]":
        """Return what may be on another machine, and is not waited for any longer than that."""
        near_store = [] if self.store.embedded else [self.store]
        return [*near_store, self._shared, *([self._bus] if self._bus is not None else [])]

    async def _stop_engine(self, grace_seconds: float) -> None:
        await self.sweeper.stop()
        await self.engine.stop(grace_seconds)

    def _end_streams(self) -> None:
        self.hub.inboxes.close()
        self.hub.turns.close()
        self.streams.close()

    # --- how the parts meet -----------------------------------------------------------------------

    async def _read(self, tenant_id: str, conversation_id: str) -> Any:
        return await self.engine.read(tenant_id, conversation_id)

    def _what_others_say(self) -> Elsewhere:
        return Elsewhere(
            work=lambda tenant_id, conversation_id, owner: self.engine.on_bus(
                tenant_id, conversation_id, owner
            ),
            due=lambda: self.sweeper.expect_now(),
            flows=lambda: self.releases.look() if self.releases is not None else None,
        )

    def _gateway(self) -> Gateway:
        settings = self.settings
        codec = CodecLimits(settings.max_frame_bytes, settings.message_max_chars)
        verifier = TokenVerifier.from_settings(settings)
        credentials = Credentials(verifier, self.keys, self._origins, time.time)
        return Gateway(
            services=Services(
                engine=self.engine,
                hub=self.hub,
                store=self.store,
                presence=self._shared.presence,
                cache=self._shared.cache,
                credentials=credentials,
                wall_s=time.time,
                limits=codec,
                frames_per_second=settings.frames_per_second,
                metrics=self.metrics,
            ),
            limits=SessionLimits(codec, settings.frames_per_second),
            counter=ConnectionCounter(
                per_principal=settings.connections_per_principal,
                per_instance=settings.connections_per_instance,
            ),
            wheel=self.wheel,
            now_ms=monotonic_ms,
            instance_id=self.instance_id,
        )

    def _health(self) -> Health:
        settings = self.settings
        status = {
            "protocols": [SUBPROTOCOL],
            "features": {
                "visitors": True,
                "local_visitors": self._dev,
                "store": settings.store.partition(":")[0],
            },
            "limits": {
                "max_frame_bytes": settings.max_frame_bytes,
                "message_max_chars": settings.message_max_chars,
                "frames_per_second": settings.frames_per_second,
                "connections_per_principal": settings.connections_per_principal,
            },
        }
        return Health(
            readiness=self.readiness,
            numbers=self._numbers,
            version=server_version(),
            environment="dev" if self._dev else "serve",
            status=status,
        )

    def _visitor_routes(self) -> list[Any]:
        settings = self.settings
        return VisitorRoutes(
            visitors=Visitors.from_settings(settings),
            credentials=self.gateway.services.credentials,
            limits=VisitorLimits(
                self._shared.limiter, per_address=settings.visitors_per_address, by_tier=settings.limits
            ),
            local_tenant=settings.default_tenant if self._dev else None,
            wall_s=time.time,
            max_bytes=settings.max_frame_bytes,
        ).routes()

    def _api_routes(self) -> list[Any]:
        settings = self.settings
        api = Api(self.gateway.services, settings.max_frame_bytes)
        return [
            *ConversationRoutes(api, self.streams).routes(),
            *ExecutionRoutes(api).routes(),
            *InboxRoutes(api, self.gateway.counter).routes(),
            *KeyRoutes(api).routes(),
            *(self._recording_routes(api) if self._dev else ()),
        ]

    def _recording_routes(self, api: Api) -> list[Any]:
        from server.gateway.rest.recording import RecordingRoutes  # brings what runs tests

        return RecordingRoutes(api, self.catalog).routes()

    def _flow_errors(self) -> list[str]:
        return [str(problem) for problem in self.catalog.problems if problem.severity == "error"]

    def _read_metrics(self) -> None:
        stats, gateway, read = self.engine.stats, self.gateway, self.metrics.read
        read("parley_connections", "Open sockets.", "gauge", lambda: gateway.counter.count)
        read("parley_watched_conversations", "Watched conversations.", "gauge", lambda: self.hub.watched)
        read("parley_gaps_healed_total", "Gaps healed from the store.", "counter", lambda: self.hub.healed)
        read("parley_store_up", "Whether the store serves.", "gauge", lambda: self.readiness.store_is_up)
        if self._bus is not None:
            bus, traffic = self._bus, self.hub.traffic
            read("parley_bus_up", "Whether other instances are heard.", "gauge", lambda: bus.health().up)
            read("parley_bus_messages_total", "Messages on the bus.", "counter", traffic, label="direction")
            read("parley_bus_dropped_total", "Messages never sent.", "counter", lambda: bus.dropped)
        read("parley_outbox_bytes", "Bytes waiting to be sent.", "gauge", self._outbox_bytes)
        read("parley_effects_total", "Side effects run.", "counter", lambda: stats.effects)
        read(
            "parley_turns_total",
            "Ended turns.",
            "counter",
            lambda: {"completed": stats.turns_completed, "failed": stats.turns_failed},
            label="outcome",
        )
        read(
            "parley_commits_total",
            "Commits.",
            "counter",
            lambda: {
                "committed": stats.commits,
                "conflict": stats.conflicts,
                "duplicate": stats.duplicates,
            },
            label="outcome",
        )

    def _outbox_bytes(self) -> int:
        return sum(outbox.waiting_bytes for outbox in self.wheel.stalled)

    # --- ASGI -------------------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self.gateway(scope, receive, send)
        elif scope["type"] == "http":
            await self._rest(scope, receive, send)
        else:
            await _lifespan(self, receive, send)


async def _lifespan(application: Application, receive: Receive, send: Send) -> None:
    await receive()
    await application.startup()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await application.shutdown()
    await send({"type": "lifespan.shutdown.complete"})


def build(
    settings: Settings,
    *,
    store: Store | None = None,
    bus: EventBus | None = None,
    dev: bool = False,
    place: Place | None = None,
) -> Application:
    """Put an instance together; nothing is opened yet.

    Args:
        settings: with a ``jwt_secret``.
        store: instead of the one that the settings name (tests).
        bus: likewise.
        dev: development: broken flows are only reported, and visitors on this machine get tokens.
        place: among the workers of a host.

    Raises:
        ActionsInvalid: ``settings.actions`` cannot be loaded.
    """
    # The in-process bus joins instances of one process; a server is alone in its own.
    if bus is None and settings.bus != "memory:":
        bus = open_bus(settings.bus)
    mongo = MongoSettings(settings.mongo_driver, settings.mongo_pool, settings.mongo_timeout_ms)
    return Application(settings, store or open_store(settings.store, mongo=mongo), bus, dev=dev, place=place)


class Server(uvicorn.Server):
    """uvicorn, told by us when to stop: a signal drains first, and only then closes sockets.

    It is woken by being told, where uvicorn looks ten times a second.
    """

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._told = asyncio.Event()

    def stop(self, *, force: bool = False) -> None:
        """Serve no more; with ``force``, wait for none of those who are connected."""
        self.should_exit = True
        self.force_exit = self.force_exit or force
        self._told.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._on_listening()

    async def main_loop(self) -> None:
        """Keep the ``Date`` of answers right until told to stop."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATE_S):
                    await self._told.wait()


def uvicorn_config(application: Application) -> uvicorn.Config:
    """Return uvicorn's configuration; each line deals with a default that is wrong here."""
    settings = application.settings
    return uvicorn.Config(
        application.asgi,
        interface="asgi3",
        lifespan="off",
        http=BoundedHttp,
        ws=WebSocketWire,
        ws_max_size=settings.max_frame_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        ws_ping_timeout=None,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACEFUL_S,
        backlog=BACKLOG,
    )


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a listening socket; a ``shared`` one beside those of other processes. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=shared)
    # Accepted sockets inherit it. asyncio's own loop forgets it for sockets made like this one, and then
    # each turn waits 40 ms for a delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve(
    settings: Settings,
    *,
    dev: bool = False,
    on_ready: Callable[[Application], None] | None = None,
    application: Application | None = None,
    place: Place | None = None,
    on_drain: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Return the exit code.

    Args:
        settings: with a ``jwt_secret``.
        dev: see ``build``.
        on_ready: called once it listens.
        application: what ``build`` made of the settings.
        place: see ``build``.
        on_drain: called when it was told to stop.

    Raises:
        OSError: it cannot listen.
        ActionsInvalid, FlowInvalid, StoreLocked, StoreTooNew, StoreUnavailable: it cannot start.
    """
    application = application or build(settings, dev=dev, place=place)
    # Workers share a port that their parent holds; one by itself takes it first, so that who is second is
    # told before it opens anything.
    listener = None if place is not None else listen(settings.host, settings.port)
    try:
        await application.startup()
        _calm_the_collector()
        try:
            if place is not None:
                listener = listen(settings.host, place.port, shared=True)
            assert listener is not None
            await _run(application, listener, on_ready, on_drain, place)
        finally:
            await application.shutdown()
    finally:
        if listener is not None:
            listener.close()
    return 0


def _patience_s(settings: Settings) -> float:
    return max(PATIENCE_S, settings.mongo_timeout_ms / 1000 + BESIDE_S)


def _calm_the_collector() -> None:
    """Keep the cycle collector from walking through everything that lives, a quarter of a turn's time.

    Records and events hold no cycles: reference counts free them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


async def _run(
    application: Application,
    listener: socket.socket,
    on_ready: Callable[[Application], None] | None,
    on_drain: Callable[[], None],
    place: Place | None,
) -> None:
    application.listens_at(*listener.getsockname()[:2])

    def on_listening() -> None:
        if on_ready is not None:
            on_ready(application)
        if place is not None:
            place.tell_ready(application.url)

    server = Server(uvicorn_config(application), on_listening)

    async def stop() -> None:
        on_drain()
        await _drain_then_stop(application, server)

    with _signals(stop, server):
        if place is not None:
            place.on_orphaned(lambda: os.kill(os.getpid(), signal.SIGTERM))
        await server.serve(sockets=[listener])


async def _drain_then_stop(application: Application, server: Server) -> None:
    try:
        await application.drain.run(application.settings.drain_seconds)
    finally:
        server.stop()


@contextlib.contextmanager
def _signals(stop: Callable[[], Awaitable[None]], server: Server) -> Iterator[None]:
    """The first signal drains; a second Ctrl-C does not wait any longer."""
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Future[None]] = []

    def on_signal(number: int) -> None:
        if not draining:
            draining.append(asyncio.ensure_future(stop()))
        elif number == signal.SIGINT:
            server.stop(force=True)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
