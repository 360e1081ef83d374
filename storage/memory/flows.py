"""Flows and their versions, in memory."""

from collections.abc import Callable
from dataclasses import replace

from storage.models import Flow, FlowVersion, TimeMs


class MemoryFlows:
    """The ``FlowStore`` half of a memory store. Needs ``now`` of the other half."""

    now: Callable[[], TimeMs]

    def __init__(self) -> None:
        super().__init__()
        self._heads: dict[tuple[str, str], Flow] = {}
        self._versions: dict[tuple[str, str, int], FlowVersion] = {}

    async def publish(
        self, version: FlowVersion, *, name: str, description: str, is_default: bool
    ) -> FlowVersion:
        """See ``FlowStore.publish``."""
        tenant_id, flow_id = version.tenant_id, version.flow_id
        now = self.now()
        head = self._heads.get((tenant_id, flow_id)) or Flow(tenant_id, flow_id, name, created_at=now)
        newest = self._versions.get((tenant_id, flow_id, head.latest_version))
        if newest is None or newest.sha256 != version.sha256:
            newest = replace(
                version, version=head.latest_version + 1, published_at=version.published_at or now
            )
            self._versions[tenant_id, flow_id, newest.version] = newest
        if is_default:
            self._unmake_default(tenant_id, now)
        self._heads[tenant_id, flow_id] = replace(
            head,
            name=name,
            description=description,
            status="active",
            is_default=is_default,
            latest_version=newest.version,
            updated_at=now,
            published_at=newest.published_at,
        )
        return newest

    def _unmake_default(self, tenant_id: str, now: TimeMs) -> None:
        for key, head in self._heads.items():
            if key[0] == tenant_id and head.is_default:
                self._heads[key] = replace(head, is_default=False, updated_at=now)

    async def flow_version(self, tenant_id: str, flow_id: str, version: int) -> FlowVersion | None:
        """See ``FlowStore.flow_version``."""
        return self._versions.get((tenant_id, flow_id, version))

    async def flows(self, tenant_id: str) -> list[Flow]:
        """See ``FlowStore.flows``."""
        heads = [
            head for key, head in self._heads.items() if key[0] == tenant_id and head.status != "archived"
        ]
        return sorted(heads, key=lambda head: head.flow_id)

    async def archive_flow(self, tenant_id: str, flow_id: str) -> bool:
        """See ``FlowStore.archive_flow``; an archived flow is no default either."""
        head = self._heads.get((tenant_id, flow_id))
        if head is None or head.status == "archived":
            return False
        self._heads[tenant_id, flow_id] = replace(
            head, status="archived", is_default=False, updated_at=self.now()
        )
        return True
