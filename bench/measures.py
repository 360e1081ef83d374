"""What is measured: each function takes rounds and returns rows for the table."""

import asyncio
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench.load import Load, Round
from bench.servers import Server
from bench.sockets import Handshakes, Socket, hello, open_socket, shake_hands

CONNECTIONS: Final = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often: ``rounds`` of ``seconds`` each; ``idle`` connections are weighed, ``deadlines``
    fall due at once.

    ``load_before`` is the machine's load average before we added to it: above 1, others were at work, and
    only processor times can be trusted.
    """

    rounds: int
    seconds: float
    idle: int
    deadlines: int
    directory: Path
    load_before: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """One of the table's comparisons. ``at_least`` says which side of ``goal`` is good."""

    against: str
    value: float
    goal: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``samples`` are the figures of the rounds, whose median ``figure`` is.

    ``cpu_us`` is what the server's process used of its core for one message: other programs on the machine
    disturb it less than they disturb rates.
    """

    what: str
    figure: float
    unit: str
    samples: list[float]
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None
    ratios: list[Ratio] = field(default_factory=list)


class Latencies:
    """Percentiles over all rounds of one program."""

    def __init__(self) -> None:
        self._all: list[float] = []

    def add(self, latencies: Sequence[float]) -> None:
        """Take in one round."""
        self._all.extend(latencies)

    def ms(self, percent: float) -> float:
        """Return the percentile in milliseconds."""
        ordered = sorted(self._all)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000


TITLES: Final = {
    "echo": "typed echo (uvicorn, pydantic, orjson)",
    "socketio": "python-socketio ack echo",
    "langgraph": "LangGraph turns, SQLite checkpoints",
    "parley": "Parley durable turns, SQLite FULL",
}


async def throughput(plan: Plan, names: list[str]) -> list[Row]:
    """Messages or turns a second of each program, 50 clients in a closed loop, in turn."""
    rounds: dict[str, list[Round]] = {name: [] for name in names}
    servers = [Server(name, plan.directory) for name in names]
    try:
        loads = {server.name: await Load(server, CONNECTIONS).open() for server in servers}
        for number in range(plan.rounds):
            for name in names if number % 2 else reversed(names):
                rounds[name].append(await loads[name].run(plan.seconds))
        for load in loads.values():
            load.close()
    finally:
        for server in servers:
            server.stop()
    rows = {name: _throughput_row(name, rounds[name]) for name in names}
    if "parley" in rows:
        for peer, goal in (("socketio", 1.0), ("echo", 0.3), ("langgraph", 30.0)):
            if peer in rows:
                ratio = by_round(rows["parley"].samples, rows[peer].samples)
                rows["parley"].ratios.append(Ratio(TITLES[peer], ratio, goal))
    return list(rows.values())


def _throughput_row(name: str, rounds: list[Round]) -> Row:
    rates = [taken.rate for taken in rounds]
    latencies = Latencies()
    for taken in rounds:
        latencies.add(taken.latencies)
    cpu_us = median(taken.cpu_us for taken in rounds)
    return Row(TITLES[name], median(rates), "/s", rates, latencies.ms(50), latencies.ms(99), cpu_us)


def by_round(ours: list[float], theirs: list[float]) -> float:
    """Return the median of the ratios of the rounds; one in which they got nothing done counts as endless.

    That happens in the short rounds of a machine that is busy with something else.
    """
    pairs = zip(ours, theirs, strict=True)
    return median(mine / other if other else math.inf for mine, other in pairs)


async def latency(plan: Plan) -> list[Row]:
    """The median turn of a single client, against the bare echo's plus one fsync."""
    turns, echoes, syncs = Latencies(), Latencies(), Latencies()
    turn_medians, ratios, cpus = [], [], []
    with Server("echo", plan.directory) as bare, Server("parley", plan.directory) as ours:
        echo_load = await Load(bare, 1).open()
        turn_load = await Load(ours, 1).open()
        for _ in range(plan.rounds):
            echo = (await echo_load.run(plan.seconds / 2)).latencies
            sync = _fsyncs(plan.directory, plan.seconds / 2)
            _, turn, cpu = await turn_load.run(plan.seconds / 2)
            echoes.add(echo)
            syncs.add(sync)
            turns.add(turn)
            cpus.append(cpu)
            turn_medians.append(median(turn) * 1000)
            ratios.append(median(turn) / (median(echo) + median(sync)))
        echo_load.close()
        turn_load.close()
    floor = echoes.ms(50) + syncs.ms(50)
    against = f"typed echo {echoes.ms(50):.3f} + one fsync {syncs.ms(50):.3f} = {floor:.3f} ms"
    ratio = Ratio(against, median(ratios), 1.5, at_least=False)
    percentiles = turns.ms(50), turns.ms(99)
    row = Row("turn of one client", median(turn_medians), "ms", turn_medians, *percentiles, median(cpus))
    row.ratios.append(ratio)
    return [row]


def _fsyncs(directory: Path, seconds: float) -> list[float]:
    """Append 4 KiB and sync them, over and over: what one durable write costs on this disk."""
    page = b"\0" * 4096
    taken: list[float] = []
    sync = getattr(os, "fdatasync", os.fsync)
    path = directory / "sync-probe"
    with path.open("wb", buffering=0) as file:
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            file.write(page)
            sync(file.fileno())
            taken.append(time.perf_counter() - began)
    path.unlink()
    return taken


async def handshakes(plan: Plan) -> list[Row]:
    """Connections to ``welcome`` a second, against bare upgrades."""
    greetings = [hello(number) for number in range(200)]
    ours: list[Handshakes] = []
    theirs: list[Handshakes] = []
    with Server("bare", plan.directory) as bare, Server("parley", plan.directory) as parley:
        for _ in range(plan.rounds):
            theirs.append(await shake_hands(bare, None, plan.seconds))
            ours.append(await shake_hands(parley, greetings, plan.seconds))
    rates, bare_rates = [taken.rate for taken in ours], [taken.rate for taken in theirs]
    bare_cpu = median(taken.cpu_us for taken in theirs)
    against = f"bare upgrades, {median(bare_rates):,.0f}/s, {bare_cpu:.0f} µs cpu"
    cpu_us = median(taken.cpu_us for taken in ours)
    row = Row("handshakes to welcome", median(rates), "/s", rates, cpu_us=cpu_us)
    row.ratios.append(Ratio(against, by_round(rates, bare_rates), 0.7))
    return [row]


async def memory(plan: Plan) -> list[Row]:
    """What an idle, authenticated, subscribed connection adds to the server, against a bare one."""
    bare = await _kib_per_connection(plan, "bare", greets=False)
    ours = await _kib_per_connection(plan, "parley", greets=True)
    ratios = [
        Ratio(f"bare uvicorn, {bare:.1f} KiB", ours / bare, 1.3, at_least=False),
        Ratio("32 KiB", ours / 32, 1.0, at_least=False),
    ]
    return [Row("idle subscribed connection", ours, "KiB", [ours], ratios=ratios)]


async def _kib_per_connection(plan: Plan, name: str, *, greets: bool) -> float:
    with Server(name, plan.directory) as server:
        held = await _open_many(server.port, range(100), greets=greets)
        before = server.rss_bytes()
        held += await _open_many(server.port, range(100, 100 + plan.idle), greets=greets)
        await asyncio.sleep(0.5)  # the last replies are written and their buffers freed
        growth = server.rss_bytes() - before
        for connection in held:
            connection.transport.close()
    return growth / plan.idle / 1024


async def _open_many(port: int, numbers: range, *, greets: bool) -> list[Socket]:
    return [await open_socket(port, hello(number) if greets else None) for number in numbers]


async def start(plan: Plan) -> list[Row]:
    """From the start of the process to readiness, on an empty store."""
    seconds = []
    for _ in range(plan.rounds):
        with Server("parley", plan.directory) as server:
            seconds.append(server.seconds_to_ready)
    ratio = Ratio("1 s", median(seconds), 1.0, at_least=False)
    return [Row("start to ready", median(seconds), "s", seconds, ratios=[ratio])]
