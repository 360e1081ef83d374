"""What each step of a flow reads and saves: what rests on what, so that a correction undoes no more.

Made once when a flow is compiled. A name is ``slots.x`` or ``variables.x``; who reads a whole scope
(``slots``, ``variables[slots.key]``) reads all of its names.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from server.engine.flow.expressions import Expression
from server.engine.flow.model import Link, Path, Slot, Step

SCOPES: Final = frozenset({"slots", "variables"})
ALL: Final = "*"


def names_in(expressions: Iterable[Expression]) -> frozenset[Path]:
    """Return the names that expressions read; ``(scope, "*")`` for a whole scope."""
    found: set[Path] = set()
    for expression in expressions:
        for reference in expression.references:
            if reference[0] in SCOPES:
                found.add((reference[0], reference[1] if len(reference) > 1 else ALL))
    return frozenset(found)


def links_of(steps: Sequence[Step], slots: Mapping[str, Slot]) -> tuple[Link, ...]:
    """Return the links of all steps, in the order of the steps.

    A step kind that saves more than its ``save`` says so by ``links(slots)``, as (reads, saves) pairs. What
    the step's ``if`` reads belongs to each of them.
    """
    found: list[Link] = []
    for step in steps:
        common = step.common
        condition = names_in([common.if_]) if common.if_ is not None else frozenset[Path]()
        for reads, saves in _pairs(step, slots):
            found.append(Link(common.step_id, reads | condition, saves))
    return tuple(found)


def _pairs(step: Any, slots: Mapping[str, Slot]) -> Iterable[tuple[frozenset[Path], frozenset[Path]]]:
    if hasattr(step, "links"):
        return step.links(slots)  # type: ignore[no-any-return] # a step kind's own
    saved = step.common.save
    return [(names_in(step.expressions()), frozenset([saved]) if saved is not None else frozenset())]


def rests_on(
    links: Sequence[Link], names: Collection[Path], steps: Collection[str]
) -> tuple[frozenset[str], frozenset[Path]]:
    """Return which of ``steps`` rest on ``names``, directly or by what they saved, and what they saved."""
    changed, saved, resting = set(names), set[Path](), set[str]()
    open_links = [link for link in links if link.step_id in steps]
    while True:
        found = [link for link in open_links if _reads_any(link, changed)]
        if not found:
            return frozenset(resting), frozenset(saved)
        for link in found:
            resting.add(link.step_id)
            saved |= link.saves
            changed |= link.saves
        open_links = [link for link in open_links if link not in found]


def _reads_any(link: Link, names: Collection[Path]) -> bool:
    return any(name in link.reads or (name[0], ALL) in link.reads for name in names)
