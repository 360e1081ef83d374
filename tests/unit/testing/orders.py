"""A flow with some of everything, and how a test file about it is run."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.engine.flow.loader import compile_flow
from server.testing.coverage import Coverage, FlowCoverage
from server.testing.reader import read_suite
from server.testing.runner import Outcome, Surroundings, action_names, run_case

FLOW = """\
flow: order
slots:
  what: {type: choice, options: [milk, bread]}
  sure: {type: boolean}
variables: {found: null}
steps:
  - id: ask
    collect: [what]
    ask: {what: "What?"}
    max_attempts: 2
    on_exhausted: lost
  - id: look
    action: shop.look
    effect: read
    with: {what: "${slots.what}", most: 2}
    timeout: 5s
    retry: {max: 3, delay: 1m, factor: 1, on: [unavailable]}
    save: variables.found
    on_error: lost
  - id: any
    branch:
      - {if: "variables.found == null", goto: none}
      - {else: sure}
  - id: sure
    collect: [sure]
    ask: {sure: "Buy ${variables.found.name}?"}
    if: "variables.found.name != 'free'"
  - id: thanks
    say: {text: "Thanks.", buttons: [{title: Again, payload: again}, {title: Enough, payload: enough}]}
  - {id: done, end: completed, output: {bought: "${variables.found.name}"}}
  - {id: none, say: "There is none.", goto: over}
  - {id: over, end: completed}
  - {id: lost, say: "I am lost.", goto: failed}
  - {id: failed, end: failed}
"""

HEAD = "actions: {shop.look: {returns: {name: milk}}}\ntests:\n  - name: a test\n    conversation:\n"


def outcomes_of(
    source: str, *flows: str, file: str = "t.yaml"
) -> tuple[list[Outcome], Sequence[FlowCoverage]]:
    """Run a test file; the flow above where none is named."""
    compiled = [compile_flow(flow, f"{n}.yaml") for n, flow in enumerate(flows or (FLOW,))]
    suite = read_suite(source, file, actions=action_names(compiled))
    coverage = Coverage()

    async def run() -> list[Outcome]:
        around = Surroundings(compiled)
        return [await run_case(suite, case, around, coverage) for case in suite.cases]

    return asyncio.run(run()), coverage.report()


def outcome_of(lines: str, *flows: str) -> Outcome:
    """Run one conversation, written with its lines flush left."""
    indented = "".join(f"      {line}\n" for line in lines.strip("\n").split("\n"))
    (outcome,), _ = outcomes_of(HEAD + indented, *flows)
    return outcome


def told(outcome: Outcome) -> list[tuple[int, str, str, str | None]]:
    """Return each failure: its line in the conversation (from 1), what, and both sides."""
    first = HEAD.count("\n")
    return [(f.place[0] - first, f.what, f.expected, f.got) for f in outcome.failures]


def project(folder: Path, tests: str, **files: Any) -> None:
    """Write a project with that flow and these tests."""
    for name, text in {"flows/order.yaml": FLOW, "tests/order.yaml": tests, **files}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
