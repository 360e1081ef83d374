"""Open inboxes are woken by what may change them, of their own tenant, and by nothing else."""

from collections.abc import Iterator

import pytest

from server.delivery.hub import Hub
from server.engine.types import Publication
from storage.base import Commit
from storage.memory.store import MemoryStore
from tests.support.records import TENANT, conversation, next_commit


class Inbox:
    """Somebody who watches, and how often they were woken."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def hub() -> Hub:
    store = MemoryStore()
    return Hub(store=store, read=store.load, now_ms=lambda: 0)


@pytest.fixture
def inbox(hub: Hub) -> Iterator[Inbox]:
    inbox = Inbox()
    with hub.inboxes.watch(TENANT, inbox.wake):
        yield inbox


def publish(hub: Hub, commit: Commit) -> None:
    hub.publish(Publication(commit.record, commit.batch))


@pytest.mark.parametrize("kind", ["acceptance.requested", "pending.resolved", "execution.cancelled"])
def test_what_may_change_an_inbox_wakes_it(hub: Hub, inbox: Inbox, kind: str) -> None:
    publish(hub, next_commit(conversation(), ("message.received", kind)))
    assert inbox.woken == 1


def test_a_plain_turn_and_another_tenants_wake_nobody(hub: Hub, inbox: Inbox) -> None:
    publish(hub, next_commit(conversation(), ("message.received", "execution.waiting", "turn.completed")))
    publish(hub, next_commit(conversation(tenant_id="other"), ("pending.resolved",)))
    assert inbox.woken == 0


def test_who_has_left_is_not_woken_and_nothing_is_kept(hub: Hub) -> None:
    inbox = Inbox()
    with hub.inboxes.watch(TENANT, inbox.wake):
        assert hub.inboxes
    assert not hub.inboxes
    publish(hub, next_commit(conversation(), ("pending.resolved",)))
    hub.inboxes.close()
    assert inbox.woken == 0


def test_the_end_wakes_everybody(hub: Hub, inbox: Inbox) -> None:
    hub.inboxes.close()
    assert (inbox.woken, hub.inboxes.closed) == (1, True)
