"""What came of a run: for people, as JSON, as JUnit XML."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from server.testing.coverage import FlowCoverage, percent
from server.testing.expectations import Failure
from server.testing.runner import Outcome


def failure_lines(outcome: Outcome, failure: Failure) -> Iterator[str]:
    """Yield a failure as lines: ``file:line:column`` first, then what was expected and what came."""
    line, column = failure.place
    yield f"{outcome.suite.file}:{line}:{column}: {outcome.case.name}: {failure.what}"
    if failure.got is None:
        yield f"    expected  {failure.expected}"
        return
    yield from _compared(failure.expected, failure.got)


def _compared(expected: str, got: str) -> Iterator[str]:
    for label, text in (("expected", expected), ("got", got)):
        first, *rest = text.split("\n")
        yield f"    {label:<8}  {first}"
        yield from (f"              {line}" for line in rest)
    if "\n" in expected or "\n" in got or not (expected.startswith('"') and got.startswith('"')):
        return
    marks = _marks(expected, got)
    if marks:
        yield f"              {marks}"


def _marks(expected: str, got: str) -> str:
    """Return a line that points at what is different in ``got``; empty where nearly all of it is."""
    matcher = difflib.SequenceMatcher(None, expected, got, autojunk=False)
    if matcher.ratio() < 0.75:
        return ""
    marks = [" "] * (len(got) + 1)
    for kind, _, _, start, end in matcher.get_opcodes():
        if kind != "equal":
            marks[start : max(end, start + 1)] = "^" * max(end - start, 1)
    return "".join(marks).rstrip()


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line with the counts."""
    failed = sum(not outcome.ok for outcome in outcomes)
    skipped = sum(outcome.skipped is not None for outcome in outcomes)
    passed = len(outcomes) - failed - skipped
    parts = [
        f"{passed} passed",
        *([f"{failed} failed"] if failed else []),
        *([f"{skipped} skipped"] if skipped else []),
    ]
    return ", ".join(parts)


def coverage_lines(flows: Sequence[FlowCoverage]) -> Iterator[str]:
    """Yield a table of the flows' coverage, and what is missing of each."""
    width = max([len(flow.flow_id) for flow in flows], default=0)
    width = max(width, len("flow"))
    yield f"{'flow':<{width}}   steps  branches  covered"
    for flow in flows:
        steps = f"{flow.steps_entered}/{flow.steps}"
        branches = f"{flow.branches_taken}/{flow.branches}"
        yield f"{flow.flow_id:<{width}}  {steps:>6}  {branches:>8}  {flow.percent:>6.1f}%"
        for missing in flow.missing:
            what = "never entered" if missing.way is None else f"never: {missing.way}"
            yield f"  {flow.file}:{missing.line}: {missing.step_id}: {what}"
    yield f"{'all':<{width}}  {'':>6}  {'':>8}  {percent(flows):>6.1f}%"


def as_json(outcomes: Sequence[Outcome], coverage: Sequence[FlowCoverage] | None) -> dict[str, Any]:
    """Return the report of ``--json``."""
    report: dict[str, Any] = {
        "ok": all(outcome.ok for outcome in outcomes),
        "passed": sum(outcome.ok and outcome.skipped is None for outcome in outcomes),
        "failed": sum(not outcome.ok for outcome in outcomes),
        "skipped": sum(outcome.skipped is not None for outcome in outcomes),
        "tests": [_test(outcome) for outcome in outcomes],
    }
    if coverage is not None:
        report["coverage"] = {
            "percent": round(percent(coverage), 2),
            "flows": [_flow(flow) for flow in coverage],
        }
    return report


def _test(outcome: Outcome) -> dict[str, Any]:
    line, column = outcome.case.place
    return {
        "file": outcome.suite.file,
        "line": line,
        "column": column,
        "suite": outcome.suite.name,
        "name": outcome.case.name,
        "status": _status(outcome),
        "seconds": round(outcome.seconds, 4),
        "skipped": outcome.skipped,
        "failures": [
            {
                "line": failure.place[0],
                "column": failure.place[1],
                "what": failure.what,
                "expected": failure.expected,
                "got": failure.got,
            }
            for failure in outcome.failures
        ],
    }


def _status(outcome: Outcome) -> str:
    if outcome.skipped is not None:
        return "skipped"
    return "passed" if outcome.ok else "failed"


def _flow(flow: FlowCoverage) -> dict[str, Any]:
    return {
        "flow_id": flow.flow_id,
        "file": flow.file,
        "steps": flow.steps,
        "steps_entered": flow.steps_entered,
        "branches": flow.branches,
        "branches_taken": flow.branches_taken,
        "percent": round(flow.percent, 2),
        "missing": [{"step_id": m.step_id, "line": m.line, "way": m.way} for m in flow.missing],
    }


def junit(outcomes: Sequence[Outcome]) -> bytes:
    """Return JUnit XML: a ``testsuite`` for each file, a ``testcase`` for each test."""
    root = ElementTree.Element("testsuites", _counts(outcomes))
    by_file: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_file.setdefault(outcome.suite.file, []).append(outcome)
    for file, found in by_file.items():
        suite = ElementTree.SubElement(root, "testsuite", {"name": found[0].suite.name, **_counts(found)})
        for outcome in found:
            _testcase(suite, file, outcome)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _counts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {
        "tests": str(len(outcomes)),
        "failures": str(sum(not outcome.ok for outcome in outcomes)),
        "errors": "0",
        "skipped": str(sum(outcome.skipped is not None for outcome in outcomes)),
        "time": f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    }


def _testcase(suite: ElementTree.Element, file: str, outcome: Outcome) -> None:
    attributes = {
        "name": _xml(outcome.case.name),
        "classname": _xml(outcome.suite.name),
        "file": file,
        "line": str(outcome.case.place[0]),
        "time": f"{outcome.seconds:.3f}",
    }
    case = ElementTree.SubElement(suite, "testcase", attributes)
    if outcome.skipped is not None:
        ElementTree.SubElement(case, "skipped", {"message": _xml(outcome.skipped)})
    if outcome.failures:
        first = outcome.failures[0]
        message = f"line {first.place[0]}: {first.what}"
        element = ElementTree.SubElement(case, "failure", {"message": _xml(message), "type": "expectation"})
        lines = (line for failure in outcome.failures for line in failure_lines(outcome, failure))
        element.text = _xml("\n".join(lines))


def _xml(text: str) -> str:
    """Return the text without the characters that XML 1.0 cannot hold."""
    return "".join(
        c for c in text if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff"
    )
