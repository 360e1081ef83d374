"""``python -m bench``: see the package."""

import argparse
import asyncio
import importlib.util
import os
import resource
import sys
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console

from bench import cluster, measures, report
from bench.deadlines import deadlines
from bench.growth import growth
from bench.measures import Plan, Row
from bench.servers import pin_load

PROGRAMS = (
    "echo",
    "socketio",
    "langgraph",
    "turns",
    "latency",
    "handshakes",
    "memory",
    "start",
    "deadlines",
    "growth",
    "fanout",
    "mongodb",
    "instances",
)
CLUSTER = {"fanout": cluster.deliveries, "mongodb": cluster.mongodb, "instances": cluster.instances}
OPTIONAL_PEERS = {"socketio": "socketio", "langgraph": "langgraph.checkpoint.sqlite"}


def main() -> int:
    """Measure, print, write."""
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 150)
    if not Path("/proc/self/stat").exists():
        console.print("The benchmarks read memory and processor time from /proc, which only Linux has.")
        return 1
    pin_load()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
    report.RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.directory or report.RESULTS) as directory:
        plan = _plan(arguments.short, arguments.rounds, Path(directory))
        rows = uvloop.run(_measure(plan, arguments.only or list(PROGRAMS), console))
    report.print_table(rows, plan, console)
    console.print(f"Written to {report.write_json(rows, plan)}")
    if arguments.readme:
        report.write_readme(rows, plan)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=sys.modules["bench"].__doc__)
    parser.add_argument("--only", action="append", choices=PROGRAMS, metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--short", action="store_true", help="two minutes: that it works, little more")
    parser.add_argument("--rounds", type=int, help="instead of 5 (short: 2)")
    parser.add_argument("--readme", action="store_true", help="put the figures into README.md")
    parser.add_argument("--directory", type=Path, help="where databases go; must be on a real disk")
    return parser.parse_args()


def _plan(short: bool, rounds: int | None, directory: Path) -> Plan:
    load = os.getloadavg()[0]
    if short:
        return Plan(rounds or 2, 0.5, 200, 500, directory, load)
    return Plan(rounds or 5, 3.0, 1000, 10_000, directory, load)


async def _measure(plan: Plan, only: list[str], console: Console) -> list[Row]:
    rows: list[Row] = []
    if loads := _loads(only, console):
        console.print(f"Messages a second: {', '.join(loads)} ...")
        rows += await measures.throughput(plan, loads)
    for name in ("latency", "handshakes", "memory", "start"):
        if name in only:
            console.print(f"{name.capitalize()} ...")
            rows += await getattr(measures, name)(plan)
            await asyncio.sleep(0)
    if "deadlines" in only:
        console.print("Deadlines ...")
        rows += await deadlines(plan)
    if "growth" in only:
        console.print("Growth ...")
        rows += await growth(plan)
    for name, measure in CLUSTER.items():
        if name not in only:
            continue
        if (program := cluster.missing()) is not None:
            console.print(f"Without {name}, which needs {program}.")
            continue
        console.print(f"{name.capitalize()} ...")
        rows += await measure(plan)
    return rows


def _loads(only: list[str], console: Console) -> list[str]:
    loads: list[str] = []
    for name in ("echo", "socketio", "langgraph"):
        if name not in only:
            continue
        if name in OPTIONAL_PEERS and not importlib.util.find_spec(OPTIONAL_PEERS[name].partition(".")[0]):
            console.print(f"Without {name}, which is not installed (make install).")
            continue
        loads.append(name)
    return [*loads, "parley"] if "turns" in only else loads


if __name__ == "__main__":
    sys.exit(main())
