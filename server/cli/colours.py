"""Colours of what commands print: in a terminal; click leaves them out where the output is piped."""

import re
from typing import Final, Literal

import rich_click as click

Level = Literal["ok", "warning", "problem"]

_MARKS: Final = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}
_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}
_FLOW_PROBLEM: Final = re.compile(r"(?P<place>.*?:\d+:\d+): (?P<severity>error|warning) ")


def mark(level: Level) -> str:
    """Return the word at the head of a finding."""
    return click.style(_MARKS[level], fg=_COLOURS[level], bold=level == "problem")


def flow_problem(line: str) -> str:
    """Return ``file:line:column: severity ...`` with its place and severity set off."""
    found = _FLOW_PROBLEM.match(line)
    if found is None:
        return line
    colour = "red" if found["severity"] == "error" else "yellow"
    head = f"{click.style(found['place'], bold=True)}: {click.style(found['severity'], fg=colour)} "
    return head + line[found.end() :]
