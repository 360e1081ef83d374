"""Which flows there are: published from a folder into the store, compiled, kept by version.

A version never changes; an execution keeps the one that it started with, so versions that are no
longer the newest are compiled from the store when a conversation needs them.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from server.engine.flow.loader import FolderReport, compile_flow, load_folder
from server.engine.flow.model import Flow, FlowInvalid, Problem
from server.engine.flow.understanding import Understanding
from server.engine.inputs import Started
from server.engine.types import Command
from storage.base import FlowStore
from storage.models import Conversation, FlowVersion

log = logging.getLogger("parley.catalog")

SHARED: Final = "*"
"""The owner of the flows from the server's own folder; no tenant can have this id."""


def _wanted(start: Mapping[str, Any]) -> list[tuple[str, int]]:
    version = start.get("version")
    return [] if version is None else [(start["flow_id"], version)]


class Catalog:
    """The compiled flows; what the reducer reads through the ``Flows`` port. All reads are without I/O.

    Attributes:
        problems: what was wrong in the folder when it was loaded last.
    """

    def __init__(
        self,
        store: FlowStore,
        actions: Collection[str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._actions = actions
        self._config = MappingProxyType(dict(config or {}))
        self._versions: dict[tuple[str, int], Flow] = {}
        self._newest: dict[str, Started] = {}
        self._understandings: dict[tuple[str, ...] | None, Understanding] = {}
        self.problems: tuple[Problem, ...] = ()

    async def load_folder(self, folder: Path) -> FolderReport:
        """Publish the folder's flows. A broken file keeps the flow's former version; see the report."""
        report = self.read_folder(folder)
        await self.publish(report)
        return report

    def read_folder(self, folder: Path) -> FolderReport:
        """Compile what is in a folder; nothing is published."""
        return load_folder(folder, self._actions)

    async def publish(self, report: FolderReport) -> None:
        """Publish what a folder was found to hold, and offer it. Raises StoreUnavailable."""
        newest = dict(self._newest)
        for loaded in report.flows:
            flow = loaded.flow
            version = await self._store.publish(
                FlowVersion(
                    SHARED,
                    flow.flow_id,
                    0,
                    hashlib.sha256(loaded.source.encode()).hexdigest(),
                    loaded.source,
                    flow.source_name,
                ),
                name=flow.name,
                description=flow.description,
                is_default=flow.is_default,
            )
            self._versions[flow.flow_id, version.version] = flow
            newest[flow.flow_id] = Started(flow, version.version)
        self._keep(newest, report)

    def note(self, report: FolderReport) -> None:
        """Take over the problems of a folder whose flows are not what is offered."""
        self.problems = report.problems

    def offered(self) -> dict[str, Started]:
        """Return what can be started, by flow id."""
        return dict(self._newest)

    def offer(self, flows: Mapping[str, Started]) -> None:
        """Have exactly these be what can be started."""
        for flow_id, started in flows.items():
            self._versions.setdefault((flow_id, started.version), started.flow)
        self._newest = dict(flows)
        self._understandings.clear()

    def is_unknown(self, command: Command) -> bool:
        """Tell whether a command names a flow that cannot be started here."""
        flow_id = command.body.get("flow_id")
        return flow_id is not None and flow_id not in self._newest

    def _keep(self, newest: dict[str, Started], report: FolderReport) -> None:
        """Take over what is in the folder; a flow whose file is broken stays, one whose file is gone goes."""
        broken = {Path(problem.file).name for problem in report.problems if problem.severity == "error"}
        present = {loaded.flow.flow_id for loaded in report.flows}
        self._newest = {
            flow_id: started
            for flow_id, started in newest.items()
            if flow_id in present or Path(started.flow.source_name).name in broken
        }
        self._understandings.clear()
        self.problems = report.problems

    def add(self, flow: Flow, version: int = 1) -> None:
        """Offer a compiled flow that is not in the store (tests and tools)."""
        self._versions[flow.flow_id, version] = flow
        self._newest[flow.flow_id] = Started(flow, version)
        self._understandings.clear()

    def missing(self, record: Conversation | None, command: Command | None = None) -> list[tuple[str, int]]:
        """Return the versions that ``record`` runs, or a start wants, and that are not compiled yet."""
        wanted: list[tuple[str, int]] = []
        if command is not None and command.type == "start":
            wanted += _wanted(command.body)
        if record is not None:
            if record.inbox and (queued := record.inbox[0].command)["type"] == "start":
                wanted += _wanted(queued)
            execution = record.execution
            if execution is not None:
                wanted += [(frame.flow_id, frame.version) for frame in execution.frames]
                wanted += execution.subflows.items()
        return [key for key in wanted if key not in self._versions]

    async def load_versions(self, keys: list[tuple[str, int]]) -> None:
        """Compile versions from the store; one that is not there, or no longer compiles, stays missing."""
        for flow_id, number in keys:
            stored = await self._store.flow_version(SHARED, flow_id, number)
            if stored is not None:
                try:
                    self._versions[flow_id, number] = compile_flow(stored.source, stored.source_name)
                except FlowInvalid as invalid:
                    log.warning("version %d of flow %s no longer compiles: %s", number, flow_id, invalid)

    # --- the Flows port ---------------------------------------------------------------------------

    def version(self, flow_id: str, version: int) -> Flow | None:
        """Return a compiled version."""
        return self._versions.get((flow_id, version))

    def newest(self, flow_id: str) -> Started | None:
        """Return the newest version of a flow that may be started."""
        return self._newest.get(flow_id)

    def understand(
        self, text: str | None, payload: str | None, among: tuple[str, ...] | None
    ) -> Started | None:
        """Return the flow whose triggers fit best."""
        understanding = self._understandings.get(among)
        if understanding is None:
            flows = [s.flow for flow_id, s in self._newest.items() if among is None or flow_id in among]
            understanding = self._understandings[among] = Understanding(flows)
        match = understanding.match(text, payload)
        if match is None:
            return None
        started = self._newest[match.flow_id]
        return Started(started.flow, started.version, match.intent)

    def default(self) -> Started | None:
        """Return the default flow; a lone flow is it."""
        flows = list(self._newest.values())
        if len(flows) == 1:
            return flows[0]
        return next((started for started in flows if started.flow.is_default), None)

    def config(self) -> Mapping[str, Any]:
        """Return what flows read as ``config``."""
        return self._config

    def flow_ids(self) -> tuple[str, ...]:
        """Return the ids of the flows that can be started."""
        return tuple(sorted(self._newest))
