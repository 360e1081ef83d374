"""Several instances: what they pass on to each other, and what the store and the bus leave of their speed.

Redis and a MongoDB (or what speaks its protocol) run beside the load, on its core: only the instance that is
measured has the other one to itself. Where deliveries are measured they are not the point, python-socketio
has no store at all; so they and the instance that speaks run on whatever core has room, on both sides.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Final

from bench.fanout import Fanout, Flood
from bench.load import Load, Round
from bench.measures import CONNECTIONS, Latencies, Plan, Ratio, Row, by_round
from bench.servers import LOAD_CORE, SERVER_CORE, Server, anywhere, pinned
from tests.support import mongo, redis

WATCHERS: Final = 500
AHEAD: Final = 4
"""How many messages of a flood are under way at once."""
INSTANCES: Final = (1, 2, 3)


def missing() -> str | None:
    """Return what has to be installed before several instances can be measured."""
    if not (os.environ.get("PARLEY_TEST_REDIS_URL") or shutil.which("redis-server")):
        return "redis-server"
    if not mongo.is_usable():
        return mongo.HINT
    return None


class Services:
    """A Redis and a MongoDB for one run; ``environment`` is what makes instances use them."""

    def __init__(self, redis_url: str, mongo_url: str) -> None:
        self.redis_url = redis_url
        self.mongo_url = mongo_url
        self._databases = 0

    def environment(self) -> Mapping[str, str]:
        """Return the settings of instances of a new, empty deployment."""
        self._databases += 1
        name = f"bench_{os.getpid()}_{self._databases}"
        return {
            "PARLEY_STORE": mongo.with_database(self.mongo_url, name),
            "PARLEY_BUS": f"{self.redis_url}?prefix={name}:",
            "PARLEY_CONNECTIONS_PER_PRINCIPAL": "1000",
        }


@contextmanager
def services(*, aside: bool = False) -> Iterator[Services]:
    """Run a Redis and a MongoDB, unless the environment names some.

    ``aside``: they are not what is measured and shall disturb least. They run on either core, and without the
    JVM's optimizing compiler: at a hundred writes a second it costs twice as much as the writes.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as own:
        with anywhere() if aside else nullcontext():
            redis_url = os.environ.get("PARLEY_TEST_REDIS_URL")
            if redis_url is None:
                own_redis = redis.RedisServer(Path(folder)).start()
                own.callback(own_redis.stop)
                redis_url = own_redis.url
            mongo_url = os.environ.get("PARLEY_TEST_MONGO_URL")
            if mongo_url is None:
                own_mongo = mongo.MongoServer(Path(folder), fast=not aside).start()
                own.callback(own_mongo.stop)
                mongo_url = own_mongo.url
        yield Services(redis_url, mongo_url)


async def deliveries(plan: Plan) -> list[Row]:
    """What one instance delivers to 500 watchers of what is said at another, against python-socketio.

    At half of that load it counts how long each delivery takes. Beside it stands what this machine takes for
    the same burst where nothing but 500 system calls is between who speaks and who hears.
    """
    ours: list[Flood] = []
    theirs: list[Flood] = []
    calm: list[Flood] = []
    bare: list[Flood] = []
    with services(aside=True) as running, ExitStack() as servers:
        redis_url = {"BENCH_REDIS_URL": running.redis_url}
        parley = await _fanout(plan, servers, "parley", running.environment())
        socketio = await _fanout(plan, servers, "socketio-fanout", redis_url)
        for _ in range(plan.rounds):
            theirs.append(await socketio.flood(plan.seconds, AHEAD))
            ours.append(await parley.flood(plan.seconds, AHEAD))
        socketio.close()
        parley.close()
    half = median(flood.rate for flood in ours) / WATCHERS / 2
    # With another store: this MongoDB reads its whole log at times, and the flood was a year of talk.
    with services(aside=True) as running, ExitStack() as servers:
        parley = await _fanout(plan, servers, "parley", running.environment())
        alone = servers.enter_context(Server("bare-fanout", plan.directory))
        floor = await Fanout(alone, alone, WATCHERS).open()
        for _ in range(plan.rounds):
            bare.append(await floor.pace(plan.seconds, half))
            calm.append(await parley.pace(plan.seconds, half))
        floor.close()
        parley.close()
    row = _row("deliveries of another instance's turns", ours)
    peer = _row("python-socketio, the same by AsyncRedisManager", theirs)
    row.ratios.append(Ratio("python-socketio", by_round(row.samples, peer.samples), 3.0))
    rest = _row("the same at half of that load", calm)
    p99_ms = median(_p99_ms(flood) for flood in calm)
    rest.ratios.append(Ratio("10 ms, p99", p99_ms / 10, 1.0, at_least=False))
    return [peer, row, _row("one process that passes frames on, at that pace", bare), rest]


def _p99_ms(flood: Flood) -> float:
    latencies = Latencies()
    latencies.add(flood.latencies)
    return latencies.ms(99)


async def _fanout(plan: Plan, servers: ExitStack, name: str, environment: Mapping[str, str]) -> Fanout:
    """Return people at two instances. Where the one runs at which somebody speaks is beside the point."""
    speaks = servers.enter_context(Server(name, plan.directory, environment=environment, core=None))
    listens = servers.enter_context(Server(name, plan.directory, environment=environment))
    return await Fanout(speaks, listens, WATCHERS).open()


async def mongodb(plan: Plan) -> list[Row]:
    """Turns of one instance on MongoDB against the driver alone; what an idle instance costs meanwhile."""
    ours: list[Round] = []
    theirs: list[Round] = []
    idle: list[float] = []
    with services() as running:
        environment = running.environment()
        busy = Server("parley", plan.directory, environment=environment)
        other = Server("parley", plan.directory, environment=environment, core=LOAD_CORE)
        try:
            turns = await Load(busy, CONNECTIONS).open()
            for _ in range(plan.rounds):
                theirs.append(await _driver_alone(running.mongo_url, plan.seconds))
                turns.begin()
                await asyncio.sleep(plan.seconds / 5)
                before = other.cpu_seconds()
                ours.append(await turns.measure(lambda: asyncio.sleep(plan.seconds)))
                idle.append((other.cpu_seconds() - before) / plan.seconds * 100)
                await turns.end()
            turns.close()
        finally:
            for server in (other, busy):
                server.stop()
    row, peer = _row("Parley durable turns, MongoDB", ours), _row("the driver alone, the same writes", theirs)
    row.ratios.append(Ratio("the driver alone", by_round(row.samples, peer.samples), 0.8))
    rest = Row("an idle instance meanwhile", median(idle), "% cpu", idle)
    rest.ratios.append(Ratio("2 % of a core", median(idle) / 2, 1.0, at_least=False))
    return [peer, row, rest]


async def _driver_alone(url: str, seconds: float) -> Round:
    """Run the driver's own loop on the core of the measured instance."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.peers.mongo_driver", url, str(CONNECTIONS), str(seconds),
        stdout=asyncio.subprocess.PIPE, preexec_fn=pinned(SERVER_CORE),
    )  # fmt: skip
    printed, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the driver alone could not be measured")
    return Round(**json.loads(printed))


def _row(what: str, rounds: Sequence[Round | Flood]) -> Row:
    latencies = Latencies()
    for taken in rounds:
        latencies.add(taken.latencies)
    rates = [taken.rate for taken in rounds]
    return Row(
        what, median(rates), "/s", rates, latencies.ms(50), latencies.ms(99),
        median(taken.cpu_us for taken in rounds),
    )  # fmt: skip


async def instances(plan: Plan) -> list[Row]:
    """Turns of one, two and three instances together, the load spread over them."""
    rows: list[Row] = []
    with services() as running:
        for count in INSTANCES:
            rounds = await _together(plan, count, running.environment())
            row = _row(f"turns of {count} instance{'s' if count > 1 else ''}, MongoDB", rounds)
            if rows:
                row.ratios.append(Ratio("one instance", by_round(row.samples, rows[0].samples), 1.0))
            rows.append(row)
    return rows


async def _together(plan: Plan, count: int, environment: Mapping[str, str]) -> list[Round]:
    servers = [Server("parley", plan.directory, environment=environment, core=None) for _ in range(count)]
    try:
        shares = [Load(server, CONNECTIONS // count, first=n * 100) for n, server in enumerate(servers)]
        loads = [await share.open() for share in shares]
        rounds = []
        for _ in range(plan.rounds):
            parts = await asyncio.gather(*(load.run(plan.seconds) for load in loads))
            number = sum(len(part.latencies) for part in parts)
            cpu = sum(part.cpu_us * len(part.latencies) for part in parts) / max(1, number)
            together = [one for part in parts for one in part.latencies]
            rounds.append(Round(sum(part.rate for part in parts), together, cpu))
        for load in loads:
            load.close()
    finally:
        for server in servers:
            server.stop()
    return rounds
