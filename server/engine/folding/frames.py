"""Flows within flows: which version is run, and how a frame begins."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from server.engine.draft import Draft, StepFailure
from server.engine.flow.model import Flow
from server.engine.folding.requests import hand_on
from server.engine.inputs import Flows, Started

MAX_FRAMES: Final = 16
"""How deep calls and digressions may be nested."""


def versions_below(flows: Flows, root: Started) -> dict[str, int]:
    """Return the versions of all flows that ``root`` may come to by ``call`` and ``link``.

    An execution keeps them from its start, as it keeps its own; flows that do not exist are left out.
    """
    found: dict[str, int] = {}
    waiting = [*root.flow.subflows]
    while waiting:
        flow_id = waiting.pop()
        started = root if flow_id == root.flow.flow_id else flows.newest(flow_id)
        if flow_id not in found and started is not None:
            found[flow_id] = started.version
            waiting += started.flow.subflows
    return found


def subflow(draft: Draft, flow_id: str) -> Started:
    """Return the version of a flow that this execution runs. Raises StepFailure where there is none.

    A flow that was published only after the start is taken in its newest version, and kept from then on.
    """
    execution = draft.execution
    kept = execution.subflows if execution is not None else {}
    if flow_id in kept:
        flow = draft.flows.version(flow_id, kept[flow_id])
        if flow is not None:
            return Started(flow, kept[flow_id])
    else:
        newest = draft.flows.newest(flow_id)
        if newest is not None and execution is not None:
            versions = {flow_id: newest.version, **versions_below(draft.flows, newest), **kept}
            draft.execution = replace(execution, subflows=versions)
            return newest
    raise StepFailure(
        f'There is no published flow "{flow_id}".', code="flow_not_found", details={"flow_id": flow_id}
    )


def descend(draft: Draft, flow_id: str, variables: Mapping[str, Any]) -> str | None:
    """Begin a called flow in a frame of its own; return its first step. Raises StepFailure."""
    started = subflow(draft, flow_id)
    if len(draft.frames) >= MAX_FRAMES:
        raise StepFailure("The flows call each other too deeply.", details={"flow_id": flow_id})
    draft.push_frame(flow_id, started.version, variables)
    try:
        return _begin(draft, started.flow)
    except StepFailure:
        draft.pop_frame()
        raise


def go_over(draft: Draft, flow_id: str) -> str | None:
    """Put another flow in the innermost one's place; return its first step. Raises StepFailure.

    The variables of an execution's own frame are shown in the state: ``execution.resumed`` names the other
    flow, with which they begin anew. The running time that the other flow may take counts from here.
    """
    started = subflow(draft, flow_id)
    before = draft.frames[-1].frame
    draft.replace_frame(flow_id, started.version)
    hand_on(draft, before, draft.frames[-1].frame)
    execution, frame = draft.execution, draft.frames[-1]
    if frame.parent is None and execution is not None:
        timeout_ms = started.flow.timeout_ms
        draft.execution = replace(
            execution,
            flow_id=flow_id,
            flow_version=started.version,
            timeout_ms=None if timeout_ms is None else draft.running_ms + timeout_ms,
        )
        draft.emit("execution.resumed", draft.execution_data())
        draft.exposed = tuple(sorted(started.flow.exposed))
        draft.variables = {}
        for name, value in started.flow.variables.items():
            draft.set_variable(name, value)
    return _begin(draft, started.flow)


def _begin(draft: Draft, flow: Flow) -> str | None:
    """Give slots their defaults, where they are empty: they are shared with the flow that came here."""
    for name, slot in flow.slots.items():
        if slot.default is not None and draft.slots.get(name) is None:
            draft.set_slot(name, slot.default)
    return flow.steps[0].common.step_id if flow.steps else None
