"""One table for people, one JSON file for programs."""

import json
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.measures import Plan, Ratio, Row
from bench.servers import can_pin

RESULTS: Final = Path(__file__).parent / "results"
README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- figures:begin (make bench ARGS=--readme) -->"
END: Final = "<!-- figures:end -->"


def print_table(rows: list[Row], plan: Plan, console: Console) -> None:
    """Print all rows; a ratio that misses its goal is marked, and nothing else happens."""
    table = Table(title=_conditions(plan))
    for heading in ("what", "figure", "p50 ms", "p99 ms", "cpu µs", "against", "ratio", "goal"):
        table.add_column(heading, justify="left" if heading in ("what", "against") else "right")
    for row in rows:
        figures = (
            row.what,
            _figure(row),
            _decimals(row.p50_ms, 2),
            _decimals(row.p99_ms, 2),
            _decimals(row.cpu_us, 0),
        )
        for number, ratio in enumerate(row.ratios or [None]):
            table.add_row(*(figures if number == 0 else ("",) * len(figures)), *_comparison(ratio))
    console.print(table)


def write_json(rows: list[Row], plan: Plan) -> Path:
    """Write everything, each round's figure too; return the file."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    document = {
        "time": now.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": _cores(),
        "load_before": plan.load_before,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def write_readme(rows: list[Row], plan: Plan) -> None:
    """Put the rows into the README, between its marks."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(_markdown(rows, plan))
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def _markdown(rows: list[Row], plan: Plan) -> Iterator[str]:
    yield f"`make bench`: {_conditions(plan)};"
    yield f"Python {platform.python_version()}. Ratios tell more than figures: both sides ran in turn, here."
    yield ""
    yield "| what | figure | p50 / p99 ms | against | ratio | goal |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        percentiles = "" if row.p50_ms is None else f"{_decimals(row.p50_ms, 2)} / {_decimals(row.p99_ms, 2)}"
        figures = (row.what, _figure(row), percentiles)
        for number, ratio in enumerate(row.ratios or [None]):
            yield f"| {' | '.join((*(figures if number == 0 else ('', '', '')), *_plain(ratio)))} |"


def _plain(ratio: Ratio | None) -> tuple[str, str, str]:
    against, value, goal = _comparison(ratio)
    return against, re.sub(r"\[.*?\]", "", value), goal


def _conditions(plan: Plan) -> str:
    busy = f"; others were at work (load {plan.load_before:.1f})" if plan.load_before > 1 else ""
    return f"{plan.rounds} rounds of {plan.seconds:g} s in turn, medians; {_cores()}{busy}"


def _cores() -> str:
    return "server on one core, load on another" if can_pin() else "not pinned: both share the cores"


def _figure(row: Row) -> str:
    digits = {"/s": 0, "KiB": 1}.get(row.unit, 3)
    return f"{row.figure:,.{digits}f} {row.unit}".replace(" /s", "/s")


def _decimals(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _comparison(ratio: Ratio | None) -> tuple[str, str, str]:
    if ratio is None:
        return "", "", ""
    colour = "green" if ratio.is_met else "yellow"
    sign = "≥" if ratio.at_least else "≤"
    return ratio.against, f"[{colour}]{ratio.value:.2f}[/]", f"{sign} {ratio.goal:g}"
