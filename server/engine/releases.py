"""Which flows are started, where several instances share a store: the newest release, on all of them at once.

A release is a folder of flows, published whole. What has been released before is not released again by an
instance that starts with it: so an old instance that is started anew does not turn back what a newer one has
published. Going back is asked for (``parley publish``). ``docs/decisions/0037`` says why.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from server.engine.catalog import SHARED, Catalog
from server.engine.flow.loader import FolderReport, compile_flow
from server.engine.flow.model import FlowInvalid
from server.engine.inputs import Started
from server.telemetry.seldom import Seldom
from storage.base import FlowStore, StoreUnavailable
from storage.models import FlowVersion

log = logging.getLogger("parley.releases")

OWNER: Final = "*releases"
"""Whose "flow" the releases are versions of; no tenant can have this id."""
NAME: Final = "flows"
REMEMBERED: Final = 1000
"""A release lists so many former ones, by digest."""
BACK: Final = 100
"""So many releases are looked through for the one whose actions this server has."""
LOOK_S: Final = 4.0
"""The store is asked for a newer release this often, also where no word of it came."""
AT_ONCE_S: Final = 0.2
"""A word of it reaches all instances in the same moment; they look within so long."""
AGAIN_S: Final = 1.0
"""A flow that nobody knows makes an instance look at most this often."""
AWAY_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Release:
    """A published folder.

    Attributes:
        number: the first is 1.
        digest: of what the flows say.
        flows: version and whether it is the default, by flow id, in the folder's order.
        before: digests of former releases, the latest first.
    """

    number: int
    digest: str
    flows: Mapping[str, tuple[int, bool]]
    before: tuple[str, ...]


class Releases:
    """Keeps a catalog at the newest release of a store.

    Args:
        store: where releases and flows are.
        catalog: what is offered here.
        actions: the names of the actions that this server has.
        tell: called when a release was made here, for the others to look.
    """

    def __init__(
        self, store: FlowStore, catalog: Catalog, actions: frozenset[str], tell: Callable[[], None]
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._actions = actions
        self._tell = tell
        self._wanted = asyncio.Event()
        self._looking = asyncio.Lock()
        self._looked_at = -AGAIN_S
        self._task: asyncio.Task[None] | None = None
        self._refused = 0
        self._away = Seldom(AWAY_EVERY_S)
        self.number = 0

    # --- releasing --------------------------------------------------------------------------------

    async def load_folder(self, folder: Path, *, again: bool = False, broken: bool = False) -> FolderReport:
        """Release the folder's flows unless that has been done before, and offer the newest release.

        Args:
            folder: of flows; one without any is no release.
            again: release it also where it is an older one: it is to be the newest.
            broken: release what is whole of a folder that has errors, which is no release otherwise.

        Raises:
            StoreUnavailable: nothing is offered otherwise than before.
        """
        report = self._catalog.read_folder(folder)
        async with self._looking:
            if report.flows and (report.ok or broken):
                await self._release(report, again=again)
            else:
                self._catalog.note(report)
            await self._take_newest()
        return report

    async def _release(self, report: FolderReport, *, again: bool) -> None:
        newest, digest = await self.newest(), _digest(report)
        if newest is not None and digest == newest.digest:
            self._catalog.note(report)
            return
        if newest is not None and not again and await self._is_known(digest, newest):
            self._catalog.note(report)
            log.warning(
                "the flows folder is older than release %d, which is what starts; `parley publish` makes it "
                "the newest",
                newest.number,
            )
            return
        await self._catalog.publish(report)
        offered = self._catalog.offered()
        flows = {flow_id: (s.version, s.flow.is_default) for flow_id, s in offered.items()}
        before = () if newest is None else (newest.digest, *newest.before)[:REMEMBERED]
        source = orjson.dumps({"flows": flows, "before": before}).decode()
        await self._store.publish(
            FlowVersion(OWNER, NAME, 0, digest, source, NAME),
            name=NAME,
            description="",
            is_default=False,
        )
        self._tell()

    async def _is_known(self, digest: str, newest: Release) -> bool:
        """Tell whether a release was made before; two that were made in one moment do not list each other."""
        if digest in newest.before:
            return True
        for number in range(newest.number - 1, max(0, newest.number - 8), -1):
            former = await self._read(number)
            if former is not None and digest in (former.digest, *former.before):
                return True
        return False

    # --- following --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow what others release."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self) -> None:
        """Look soon: another instance has released, or may have while nobody could say so."""
        self._wanted.set()

    async def renew(self) -> None:
        """Look now, for a flow that is not known here; not more often than once a second."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._looked_at >= AGAIN_S:
                self._looked_at = now
                await self._take_newest()

    async def _follow(self) -> None:
        while True:
            heard = False
            try:
                async with asyncio.timeout(LOOK_S * random.uniform(0.8, 1.0)):  # noqa: S311 - no secret
                    heard = await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            if heard:
                await asyncio.sleep(AT_ONCE_S * random.random())  # noqa: S311 - no secret
            try:
                async with self._looking:
                    await self._take_newest()
            except StoreUnavailable:
                if self._away.due():
                    log.warning("the store is away; the flows stay as they are")
            except Exception:  # nobody else looks for a newer release: the next look is always made
                log.exception("a release could not be taken over")

    async def _take_newest(self) -> None:
        """Offer the newest release that this server has the actions of."""
        newest = await self.newest()
        if newest is None or newest.number in (self.number, self._refused):
            return
        for number in range(newest.number, max(self.number, newest.number - BACK), -1):
            release = newest if number == newest.number else await self._read(number)
            if release is None:
                continue
            try:
                offered = await self._compiled(release)
            except FlowInvalid as invalid:
                if release is newest:
                    self._refused = newest.number
                    log.warning("release %d cannot be started here: %s", newest.number, invalid)
                continue
            self._catalog.offer(offered)
            self.number = release.number
            return

    async def _compiled(self, release: Release) -> dict[str, Started]:
        """Return the flows of a release. Raises FlowInvalid: they need what this server has not."""
        offered: dict[str, Started] = {}
        for flow_id, (version, is_default) in release.flows.items():
            stored = await self._store.flow_version(SHARED, flow_id, version)
            if stored is None:
                continue
            flow = compile_flow(stored.source, stored.source_name, actions=self._actions)
            offered[flow_id] = Started(replace(flow, is_default=is_default), version)
        return offered

    # --- reading ----------------------------------------------------------------------------------

    async def newest(self) -> Release | None:
        """Return the newest release, whether or not it can be started here; None: there is none yet."""
        heads = await self._store.flows(OWNER)
        return await self._read(heads[0].latest_version) if heads else None

    async def _read(self, number: int) -> Release | None:
        stored = await self._store.flow_version(OWNER, NAME, number)
        if stored is None:
            return None
        content: Mapping[str, Any] = orjson.loads(stored.source)
        flows = {flow_id: (version, default) for flow_id, (version, default) in content["flows"].items()}
        return Release(stored.version, stored.sha256, flows, tuple(content["before"]))


def _digest(report: FolderReport) -> str:
    """Return what tells one folder's flows from another's, whatever their files are called."""
    said = sorted((loaded.flow.flow_id, loaded.source, loaded.flow.is_default) for loaded in report.flows)
    return hashlib.sha256(orjson.dumps(said)).hexdigest()
